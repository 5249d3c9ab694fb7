//! Faults of a leaf node, through which a region's probers reach the hub.

use std::{fs, time::Duration};

use futures_util::StreamExt;
use picket_e2e::{
    Credentials,
    fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::{
    eventually,
    proxy::Proxy,
    servers::{self, TestNats},
};

const LEAF_CONFIG: &str = include_str!("../../../../deploy/nats/leaf.conf");

/// The documented configuration, with a region's values.
async fn start_leaf_node(hub: &Proxy, credentials: &Credentials) -> TestNats {
    let authority = credentials.authority_path().expect("the hub speaks TLS").display().to_string();
    let seed = fs::read_to_string(credentials.credential_path("leaf-east")).unwrap();
    let hub = hub.address().to_string();
    servers::start_nats_with_config(move |port| {
        let dir = servers::scratch_dir("leaf");
        let listen = format!("127.0.0.1:{port}");
        let own = [("hub.example.com:7422", &hub), ("ca.pem", &authority), ("127.0.0.1:4222", &listen)];
        let text = own.iter().fold(LEAF_CONFIG.to_owned(), |text, (placeholder, own)| {
            assert!(text.contains(placeholder), "{placeholder}");
            text.replace(placeholder, own)
        });
        fs::write(dir.join("credential.conf"), format!("nkey: \"{}\"\n", seed.trim())).unwrap();
        fs::write(dir.join("leaf.conf"), text).unwrap();
        dir.join("leaf.conf")
    })
    .await
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11e_a_region_behind_a_leaf_node_works_with_its_own_permissions_and_survives_a_cut_link() {
    let credentials = Credentials::init_with_tls(&["west"], &["localhost", "127.0.0.1"]);
    credentials.run_picket_nats("add-region", &["east", "--leaf"]);
    let written = credentials.clone();
    let leaf_port = servers::non_ephemeral_port();
    let listen = format!("127.0.0.1:{leaf_port}");
    let hub = servers::start_nats_with_config(move |port| {
        written.write_server_config(port, &["--leafnodes", &listen])
    })
    .await;
    let link = Proxy::forward_to_port(leaf_port).await;
    let leaf = start_leaf_node(&link, &credentials).await;
    let setting = Environment {
        nats: Some(hub),
        credentials: Some(credentials.clone()),
        leaf_nodes: vec![("east", leaf.url())],
        ..Environment::default()
    };
    let topology = Topology { probers: 1, ..Topology::default() };
    let description = "the link of a leaf node cut off silently for 15 s, then reset";
    let mut drill = FaultTest::start_with("F11e", description, topology, setting).await;

    // A check now, across the leaf node, by the operator's own credential.
    let url = drill.target.url("/ok");
    let (code, said, complained) = drill.stack.run_picket(&["check", &url, "--region", "east"]).await;
    assert_eq!(code, 0, "{said} {complained}");
    // The hub does not trust the leaf node with more than its region.
    let inbox = async_nats::ConnectOptions::new().custom_inbox_prefix("_INBOX_prober-east");
    let behind = inbox.connect(leaf.url()).await.unwrap();
    let (own, inbox) = ("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-east", behind.new_inbox());
    let mut answers = behind.subscribe(inbox.clone()).await.unwrap();
    behind.flush().await.unwrap();
    behind.publish_with_reply(own, inbox, "{\"batch\":1,\"expires\":1000000000}".into()).await.unwrap();
    assert!(
        tokio::time::timeout(WAIT_TIMEOUT, answers.next()).await.is_ok(),
        "a job, or the status that there is none"
    );
    for call in [
        "$JS.API.STREAM.INFO.PICKET_JOBS",
        "$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-west",
        "picket.result.west.1",
    ] {
        let answer = behind.request(call, "".into()).await;
        assert!(answer.is_err(), "{call}: {answer:?}");
    }
    // Nor with where an answer goes: see security/bus.rs. What is asked last is answered last.
    for place in ["$JS.API.STREAM.DELETE.PICKET_EVENTS", "$JS.hub.API.STREAM.DELETE.PICKET_EVENTS"] {
        for ask in [r#"{"batch":1,"no_wait":true}"#, "nonsense"] {
            behind.publish_with_reply(own, place, ask.into()).await.unwrap();
        }
    }
    let inbox = behind.new_inbox();
    let mut answers = behind.subscribe(inbox.clone()).await.unwrap();
    behind.publish_with_reply(own, inbox, "nonsense".into()).await.unwrap();
    assert!(tokio::time::timeout(WAIT_TIMEOUT, answers.next()).await.is_ok());
    drill.stack.connect_jetstream().await.get_stream("PICKET_EVENTS").await.expect("it is there still");

    link.blackhole();
    drill.mark_fault_started().await;
    let (_, behind_it) = drill.probers.iter().find(|(region, _)| *region == "east").unwrap();
    behind_it.wait_unready("jobs").await;
    drill.wait_served_in("region.name <> 'east'").await;
    drill.run_for(Duration::from_secs(15)).await;
    link.heal().await;
    drill.wait_served().await;
    link.cut().await;
    drill.run_for(Duration::from_secs(5)).await;
    link.heal().await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    eventually(WAIT_TIMEOUT, "a check across the leaf node again", async || {
        let (code, said, complained) = drill.stack.run_picket(&["check", &url, "--region", "east"]).await;
        if code == 0 { Ok(()) } else { Err((said, complained)) }
    })
    .await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed_in_region("west"), 0, "{account:#?}");
    assert!(account.missed_in_region("east") > 0, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    drill.stop().await;
}
