//! Faults of one of three servers of a cluster with three copies of each stream.

use async_nats::jetstream::{Context, consumer::pull, stream::ClusterInfo};
use picket_e2e::{
    Credentials,
    fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::{
    eventually,
    servers::{self, TestNats},
};

use crate::results::{read_all_results, result_payloads, wait_results_stored};

const NODE_NAMES: [&str; 3] = ["hub-1", "hub-2", "hub-3"];
const REGIONS: [&str; 2] = ["east", "west"];

/// Three servers that are one cluster, and the credentials that they want.
async fn start_cluster() -> (Credentials, Vec<TestNats>) {
    let credentials = Credentials::init(&REGIONS);
    let ports = NODE_NAMES.map(|_| servers::non_ephemeral_port());
    let mut nodes = vec![];
    for (name, own) in NODE_NAMES.iter().zip(ports) {
        let listen = format!("127.0.0.1:{own}");
        let mut options = ["--server-name", name, "--cluster", "hub", "--cluster-listen", &listen]
            .map(str::to_owned)
            .to_vec();
        for other in ports.iter().filter(|port| **port != own) {
            options.extend(["--route".to_owned(), format!("nats://127.0.0.1:{other}")]);
        }
        let written = credentials.clone();
        let node = servers::start_nats_with_config(move |port| {
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            written.write_server_config(port, &options)
        });
        nodes.push(node.await);
    }
    (credentials, nodes)
}

const CLUSTER_CONSUMERS: [(&str, &str); 3] =
    [("PICKET_RESULTS", "sink"), ("PICKET_JOBS", "prober-east"), ("PICKET_JOBS", "prober-west")];

/// Which node leads a stream, once all copies of it and of all consumers are up to date.
async fn wait_leader(jetstream: &Context, stream: &str) -> usize {
    let good = |of: Option<ClusterInfo>| {
        let of = of.unwrap_or_default();
        match of.replicas.len() == 2 && of.replicas.iter().all(|copy| copy.current && !copy.offline) {
            true => of.leader.clone().ok_or_else(|| format!("{of:?}")),
            false => Err(format!("{of:?}")),
        }
    };
    let leader = eventually(WAIT_TIMEOUT, &format!("three good copies of {stream}"), async || {
        for (stream, consumer) in CLUSTER_CONSUMERS {
            let found = jetstream.get_consumer_from_stream::<pull::Config, _, _>(consumer, stream).await;
            good(found.map_err(|error| error.to_string())?.cached_info().cluster.clone())?;
        }
        let found = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
        good(found.cached_info().cluster.clone())
    })
    .await;
    NODE_NAMES.iter().position(|name| *name == leader).expect("one of the three")
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f10b_each_leader_of_a_cluster_of_three_killed_in_turn_costs_no_acknowledged_result() {
    let (credentials, mut nodes) = start_cluster().await;
    let bus = nodes.iter().map(TestNats::url).collect::<Vec<_>>().join(",");
    let topology = Topology { regions: &REGIONS, ..Topology::default() };
    let setting = Environment {
        nats: Some(nodes.remove(0)),
        bus: Some(bus),
        credentials: Some(credentials),
        ..Environment::default()
    };
    let description = "of a cluster of three, kill -9 of who leads the results, then of who leads the jobs";
    let mut drill = FaultTest::start_with("F10b", description, topology, setting).await;
    // Existing streams get their copies after the setting changes, while coordinators run.
    let jetstream = drill.stack.connect_jetstream().await;
    drill.stack.set_setting("stream_replicas", "3").await;
    for stream in ["PICKET_RESULTS", "PICKET_JOBS", "PICKET_EVENTS"] {
        eventually(WAIT_TIMEOUT, "three copies of each stream", async || {
            let copies = jetstream.get_stream(stream).await.map(|it| it.cached_info().config.num_replicas);
            if matches!(copies, Ok(3)) { Ok(()) } else { Err(format!("{stream}: {copies:?}")) }
        })
        .await;
    }
    let url = drill.target.url("/ok/many");
    let more = format!(
        "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
         SELECT '{url}/' || n, 2, 2000 FROM generate_series(1, 100) AS n"
    );
    drill.stack.execute_sql(&more).await;
    drill.wait_served().await;

    for stream in ["PICKET_RESULTS", "PICKET_JOBS"] {
        let leading = wait_leader(&jetstream, stream).await;
        let node = match leading {
            0 => &mut drill.stack.nats,
            other => &mut nodes[other - 1],
        };
        node.kill().await;
        drill.mark_fault_started().await;
        drill.wait_served().await;
        let node = match leading {
            0 => &mut drill.stack.nats,
            other => &mut nodes[other - 1],
        };
        node.start().await;
        wait_leader(&jetstream, stream).await;
    }
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    drill.wait_balanced().await;

    wait_results_stored(&drill).await;
    for (_, prober) in &drill.probers {
        assert_eq!(prober.read_metric("picket_prober_results_lost_total"), 0.0, "{}", prober.read_log());
    }
    // Acknowledged results are still in the stream: a prober counts a result when the stream
    // acknowledges it.
    let acknowledged: f64 = drill
        .probers
        .iter()
        .map(|(_, prober)| prober.read_metric("picket_prober_results_published_total"))
        .sum();
    let kept: usize =
        read_all_results(&jetstream).await.iter().map(|message| result_payloads(message).len()).sum();
    assert!(kept as f64 >= acknowledged && acknowledged > 0.0, "{kept} are kept of {acknowledged}");
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    assert!(account.recovery_s < 15.0, "{account:#?}");
    drill.stop().await;
}
