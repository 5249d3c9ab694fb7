//! A prober that reaches the bus and no site, without canaries.

use std::time::Duration;

use picket_e2e::{
    Credentials, NetnsLab,
    fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::servers;

/// The only region: its prober alone is the majority, so a false `down` would be an incident.
const REGIONS: [&str; 1] = ["east"];

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f28_a_prober_without_a_network_and_without_canaries_is_offline_and_opens_no_incident() {
    let test =
        "offline::f28_a_prober_without_a_network_and_without_canaries_is_offline_and_opens_no_incident";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let credentials =
        Credentials::init_with_tls(&REGIONS, &["127.0.0.1", &hosts.hub().address().to_string()]);
    let written = credentials.clone();
    let nats = servers::start_nats_with_config(move |port| written.write_server_config(port, &[])).await;
    let topology = Topology { regions: &REGIONS, probers: 1, ..Topology::default() };
    let setting = Environment {
        nats: Some(nats),
        credentials: Some(credentials),
        hosts: Some(hosts),
        ..Environment::default()
    };
    let description = "the only prober loses every route but that to the bus, for 20 s";
    let mut drill = FaultTest::start_with("F28", description, topology, setting).await;
    let hosts = drill.hosts.take().expect("this drill has hosts");

    hosts.remove_routes(hosts.region_host("east"));
    let since = drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(20)).await;
    let offline = format!(
        "SELECT count(*) FROM picket.check_results WHERE kind = 'scheduled' AND cause = 'prober_offline' AND scheduled_at > '{since}'"
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, 20, &offline).await;
    hosts.restore_routes(hosts.region_host("east"));
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    // Among others: no incident of a site that is up.
    let account = drill.verify_account().await;
    assert!(account.missed_for_cause("prober_offline") >= 20, "{account:#?}");
    assert_eq!(account.missed, account.missed_for_cause("prober_offline"), "{account:#?}");
    let down = format!(
        "SELECT count(*) FROM picket.check_results JOIN picket.sites AS site ON site.id = site_id
         WHERE url LIKE '%/ok/%' AND outcome = 'down' AND scheduled_at > '{since}'"
    );
    assert_eq!(drill.stack.query_number(&down).await, 0);
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}
