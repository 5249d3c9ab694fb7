//! A prober that reaches the bus and no site, without canaries.

use std::time::Duration;

use picket_e2e::{
    Credentials, LabHost, NetnsLab,
    fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::servers;

/// The only region: its prober alone is the majority, so a false `down` would be an incident.
const ONE_REGION: [&str; 1] = ["east"];
const REGIONS: [&str; 2] = ["east", "west"];

async fn start_on_lab(
    hosts: NetnsLab,
    regions: &'static [&'static str],
    fault: &'static str,
    injury: &'static str,
) -> FaultTest {
    let credentials = Credentials::init_with_tls(regions, &["127.0.0.1", &hosts.hub().address().to_string()]);
    let written = credentials.clone();
    let nats = servers::start_nats_with_config(move |port| written.write_server_config(port, &[])).await;
    let topology = Topology { regions, probers: 1, ..Topology::default() };
    let setting = Environment {
        nats: Some(nats),
        credentials: Some(credentials),
        hosts: Some(hosts),
        ..Environment::default()
    };
    FaultTest::start_with(fault, injury, topology, setting).await
}

/// Takes the network of the only prober away for 20 s, which its own system knows.
async fn run_offline(mut drill: FaultTest, cut: fn(&NetnsLab, &LabHost), restore: fn(&NetnsLab, &LabHost)) {
    let hosts = drill.hosts.take().expect("this drill has hosts");
    let east = hosts.region_host("east");
    cut(&hosts, east);
    let since = drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(20)).await;
    let offline = format!(
        "SELECT count(*) FROM picket.check_results WHERE kind = 'scheduled' AND cause = 'prober_offline' AND scheduled_at > '{since}'"
    );
    drill.stack.wait_at_least(WAIT_TIMEOUT, 20, &offline).await;
    // Checks that end after the network is back may look like failures of the site.
    let until = drill.stack.query_lines("SELECT (clock_timestamp() - interval '3 s')::text").await.concat();
    restore(&hosts, east);
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    // Among others: no incident of a site that is up.
    let account = drill.verify_account().await;
    assert!(account.missed_for_cause("prober_offline") >= 20, "{account:#?}");
    assert_eq!(account.missed, account.missed_for_cause("prober_offline"), "{account:#?}");
    // The kernel takes some seconds to give up the address of a gateway that has fallen silent.
    let down = format!(
        "SELECT count(*) FROM picket.check_results JOIN picket.sites AS site ON site.id = site_id
         WHERE url LIKE '%/ok/%' AND outcome = 'down'
           AND scheduled_at BETWEEN '{since}'::timestamptz + interval '10 s' AND '{until}'"
    );
    assert_eq!(drill.stack.query_number(&down).await, 0);
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f28_a_prober_without_a_network_and_without_canaries_is_offline_and_opens_no_incident() {
    let test =
        "offline::f28_a_prober_without_a_network_and_without_canaries_is_offline_and_opens_no_incident";
    let Some(hosts) = NetnsLab::enter(test, &ONE_REGION).await else { return };
    let injury = "the only prober loses every route but that to the bus, for 20 s";
    let drill = start_on_lab(hosts, &ONE_REGION, "F28", injury).await;
    run_offline(drill, NetnsLab::remove_routes, NetnsLab::restore_routes).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f28b_a_prober_with_a_silent_gateway_is_offline_and_opens_no_incident() {
    let test = "offline::f28b_a_prober_with_a_silent_gateway_is_offline_and_opens_no_incident";
    let Some(hosts) = NetnsLab::enter(test, &ONE_REGION).await else { return };
    let injury = "the gateway of the only prober is silent, except towards the bus, for 20 s";
    let drill = start_on_lab(hosts, &ONE_REGION, "F28b", injury).await;
    run_offline(drill, NetnsLab::silence_gateway, NetnsLab::restore_gateway).await;
}

/// Packets get lost beyond the first router: the prober's own system sees nothing wrong.
#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f28c_a_prober_with_a_dead_uplink_is_doubted_if_another_region_reaches_its_sites() {
    let test = "offline::f28c_a_prober_with_a_dead_uplink_is_doubted_if_another_region_reaches_its_sites";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let injury = "one region's packets to all sites get lost for 30 s; one region alone opens incidents";
    let mut drill = start_on_lab(hosts, &REGIONS, "F28c", injury).await;
    let hosts = drill.hosts.take().expect("this drill has hosts");
    let websites: Vec<_> = (8_081..8_085).map(|port| hosts.start_website_at(port)).collect();
    for website in &websites {
        // One failing region is enough for an incident; one site has no other region.
        let url = website.url("/ok");
        drill
            .stack
            .execute_sql(&format!(
                "INSERT INTO picket.sites (url, interval_seconds, timeout_ms, quorum, regions, failures_to_open)
                 VALUES ('{url}/2/shared', 2, 1000, 1, '{{east,west}}', 2), ('{url}/5/alone', 5, 1000, 1, '{{east}}', 4)"
            ))
            .await;
    }
    drill.wait_served().await;

    hosts.cut_link(hosts.world(), hosts.region_host("east"));
    let since = drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(30)).await;
    let windows =
        "SELECT count(*) FROM report.doubtful_windows WHERE region = 'east' AND doubtful_to > now()";
    assert_eq!(drill.stack.query_number(windows).await, 1);
    let (_, status, _) = drill.stack.run_picket(&["status"]).await;
    assert!(status.contains("doubtful: prober ") && status.contains(" in east "), "{status}");
    let rows = |region: &str, outcome: &str| {
        format!(
            "SELECT count(*) FROM picket.check_results JOIN picket.regions AS region ON region.id = region_id
             JOIN picket.sites AS site ON site.id = site_id AND url LIKE '%/ok/%'
             WHERE region.name = '{region}' AND outcome = '{outcome}' AND scheduled_at > '{since}'"
        )
    };
    assert!(drill.stack.query_number(&rows("east", "down")).await >= 60, "the ledger has what it saw");
    assert_eq!(drill.stack.query_number(&rows("west", "down")).await, 0);

    hosts.restore_link(hosts.world(), hosts.region_host("east"));
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    let ended = "SELECT count(*) FROM report.doubtful_windows WHERE region = 'east' AND doubtful_to < now()";
    drill.stack.wait_at_least(WAIT_TIMEOUT, 1, ended).await;
    // Among others: no incident of a site that is up.
    let account = drill.verify_account().await;
    assert_eq!(account.missed_in_region("west"), 0, "{account:#?}");

    // A site that is down after that has its incident.
    drop(websites);
    let open = "SELECT count(*) FROM picket.incidents JOIN picket.sites AS site ON site.id = site_id
                WHERE closed_at IS NULL AND url LIKE '%/ok/%'";
    drill.stack.wait_at_least(WAIT_TIMEOUT, 8, open).await;
    drill.stop().await;
}
