//! What may happen between hosts: the hub, three regions, and the world, each with an address of its own.

use std::time::Duration;

use picket_e2e::{
    Hosts,
    drill::{Drill, LONG, Scene, Setting},
};
use picket_testkit::servers;

const REGIONS: [&str; 3] = ["asia", "east", "west"];

/// The hub's NATS, on all its addresses, as `deploy/nats/hub.conf` has it but for the directory.
async fn drill_on(hosts: Hosts, fault: &'static str, injury: &'static str) -> Drill {
    let nats = servers::nats_configured(4222, |dir| {
        format!("listen: \"0.0.0.0:4222\"\njetstream {{ store_dir: {dir:?}, sync_interval: \"1s\" }}")
    })
    .await;
    let scene = Scene { regions: &REGIONS, probers: 1, ..Scene::default() };
    let setting = Setting { nats: Some(nats), hosts: Some(hosts), ..Setting::default() };
    Drill::start_in(fault, injury, scene, setting).await
}

/// Cuts one region off from the hub for so long; its probers still see the sites.
async fn cut(mut drill: Drill, span: Duration) {
    let hosts = drill.hosts.take().expect("this drill has hosts");
    hosts.cut(hosts.hub(), hosts.region("east"));
    drill.injured().await;
    drill.served_in("region.name <> 'east'").await;
    drill.endure(span).await;
    for (_, prober) in drill.probers.iter().filter(|(region, _)| *region == "east") {
        prober.unready("").await;
    }
    hosts.join(hosts.hub(), hosts.region("east"));
    drill.healed().await;
    drill.served().await;

    let account = drill.account().await;
    assert_eq!((account.missed_in("west"), account.missed_in("asia")), (0, 0), "{account:#?}");
    // Six sites are due every two seconds; the first moments are still on their way, or come late.
    let due = 3 * span.as_secs() as i64;
    assert!(account.missed_in("east") >= due - 30, "{due} were due and {account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f11b_a_host_cut_off_from_the_hub_is_missed_alone_and_comes_back_by_itself() {
    let test = "hosts::f11b_a_host_cut_off_from_the_hub_is_missed_alone_and_comes_back_by_itself";
    let Some(hosts) = Hosts::of(test, &REGIONS).await else { return };
    let drill = drill_on(hosts, "F11b", "a region's host cut off from the hub's for 20 s").await;
    cut(drill, Duration::from_secs(20)).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11c_a_host_cut_off_for_two_minutes_is_missed_alone_and_comes_back_by_itself() {
    let test = "hosts::f11c_a_host_cut_off_for_two_minutes_is_missed_alone_and_comes_back_by_itself";
    let Some(hosts) = Hosts::of(test, &REGIONS).await else { return };
    let drill = drill_on(hosts, "F11c", "a region's host cut off from the hub's for two minutes").await;
    cut(drill, Duration::from_secs(120)).await;
}

#[tokio::test]
async fn f11d_sites_that_one_region_cannot_reach_and_two_can_are_down_there_and_have_no_incident() {
    let test =
        "hosts::f11d_sites_that_one_region_cannot_reach_and_two_can_are_down_there_and_have_no_incident";
    let Some(hosts) = Hosts::of(test, &REGIONS).await else { return };
    let mut drill = drill_on(hosts, "F11d", "the sites turn one of three regions away").await;
    let hosts = drill.hosts.take().expect("this drill has hosts");
    let down = |region: &str, since: &str| {
        format!(
            "SELECT count(DISTINCT result.site_id) FROM picket.check_results AS result
             JOIN picket.regions AS region ON region.id = region_id
             JOIN picket.sites AS site ON site.id = result.site_id AND interval_seconds <= 5 AND url LIKE '%/ok/%'
             WHERE kind = 'scheduled' AND region.name = '{region}' AND outcome = 'down' AND cause = 'timeout'
               AND scheduled_at > '{since}'"
        )
    };

    hosts.cut(hosts.world(), hosts.region("east"));
    let since = drill.injured().await;
    // More than once, for once is never an incident.
    for _ in 0..3 {
        let since = drill.now().await;
        drill.stack.at_least(LONG, 6, &down("east", &since)).await;
    }
    drill.served_in("region.name <> 'east'").await;
    for other in ["asia", "west"] {
        assert_eq!(drill.stack.number(&down(other, &since)).await, 0, "{other} sees them up");
    }
    drill.healed().await;
    // Among others: no incident of a site that is up, and none that is missed.
    let account = drill.account().await;
    assert_eq!(account.missed, 0, "{account:#?}");

    // With a second region it is a majority: had there been a reason, there would have been an incident.
    hosts.cut(hosts.world(), hosts.region("west"));
    let open = "SELECT count(*) FROM picket.incidents JOIN picket.sites AS site ON site.id = site_id
                WHERE url LIKE '%/ok/%' AND interval_seconds <= 5 AND closed_at IS NULL AND incidents.regions = '{east,west}'";
    drill.stack.at_least(LONG, 6, open).await;
    drill.stop().await;
}
