//! Faults of probers.

use std::time::Duration;

use picket_e2e::{
    Process,
    fault_test::{FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::{eventually, servers::Signal};

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f6_only_a_region_without_probers_is_missed_and_it_resumes_with_them() {
    let mut drill =
        FaultTest::start("F6", "kill -9 all probers of a region for 15 s", Topology::default()).await;

    let (dead, living) = drill.probers.drain(..).partition(|(region, _)| *region == "east");
    drill.probers = living;
    let dead: Vec<_> = dead;
    for (_, prober) in dead {
        prober.kill().await;
    }
    drill.mark_fault_started().await;
    drill
        .stack
        .wait_at_least(WAIT_TIMEOUT, 20, "SELECT count(*) FROM picket.check_results WHERE outcome = 'missed'")
        .await;
    // The region has no prober: an event reports it, and no site has an incident.
    let event = last_region_event(&drill, "silent").await;
    assert_eq!((&event["event"], &event["region"]), (&"region.silent".into(), &"east".into()), "{event}");
    for (region, silent) in [("east", 1.0), ("west", 0.0)] {
        let label = format!("region=\"{region}\"");
        eventually(WAIT_TIMEOUT, "each coordinator to count it", async || {
            let seen = drill.coordinators.iter();
            let seen = seen.map(|one| one.read_metric_where("picket_coordinator_region_silent", &label));
            let seen: Vec<_> = seen.collect();
            if seen.iter().all(|is| *is == silent) { Ok(()) } else { Err(seen) }
        })
        .await;
    }
    let (_, listed, _) = drill.stack.run_picket(&["probers"]).await;
    let nobody = listed.lines().find(|line| line.starts_with("east") && line.contains("(none"));
    assert!(nobody.is_some_and(|line| line.ends_with(" ago")), "{listed}");
    let prober = drill.spawn_prober("east").await;
    prober.wait_ready().await;
    drill.probers.push(("east", prober));
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    eventually(WAIT_TIMEOUT, "the region back, and all events published", async || {
        let left =
            "SELECT (SELECT count(*) FROM picket.silent_regions) + (SELECT count(*) FROM picket.outbox)";
        drill.stack.query_number(left).await == 0
    })
    .await;
    let event = last_region_event(&drill, "back").await;
    assert_eq!((&event["event"], &event["region"]), (&"region.back".into(), &"east".into()), "{event}");
    let account = drill.verify_account().await;
    assert_eq!(account.missed_in_region("west"), 0, "{account:#?}");
    assert!(account.missed_for_cause("no_prober") >= 20, "{account:#?}");
    drill.stop().await;
}

/// The newest event of a region in the stream.
async fn last_region_event(drill: &FaultTest, what: &str) -> serde_json::Value {
    let stream = drill.stack.connect_jetstream().await.get_stream("PICKET_EVENTS").await.expect("the stream");
    let subject = format!("picket.event.region.{what}");
    let event =
        eventually(WAIT_TIMEOUT, &subject, async || stream.get_last_raw_message_by_subject(&subject).await)
            .await;
    serde_json::from_slice(&event.payload).expect("an event is JSON")
}

/// One region, and one prober without a fault.
const SINGLE_PROBER_TOPOLOGY: Topology = Topology {
    regions: &["east"],
    proxied_region: None,
    coordinators: 1,
    probers: 1,
    sinks: 1,
    settings: &[],
    prober_options: &[],
    sink_options: &[],
};
const VICTIM_NAME: &str = "victim";
/// Distinguishes its row from those of the harness's own sites.
const SLOW_SITE_CONDITION: &str = "interval_ms = 30000";

/// Sites whose checks take three seconds and are worth doing for thirty, and one more prober, with some of their
/// checks under way.
async fn start_busy_victim(drill: &FaultTest) -> Process {
    let victim = drill.stack.spawn_prober("east", &["--prober-name", VICTIM_NAME]).await;
    victim.wait_ready().await;
    let url = drill.target.url("/slow/");
    drill
        .stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
             SELECT '{url}' || (3000 + n), 30, 10000 FROM generate_series(1, 120) AS n"
        ))
        .await;
    eventually(WAIT_TIMEOUT, "checks to be under way", async || {
        let running = victim.read_metric("picket_prober_checks_running");
        if running >= 4.0 { Ok(()) } else { Err(running) }
    })
    .await;
    victim
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f4_a_killed_probers_checks_are_performed_by_another_of_its_region() {
    let mut drill =
        FaultTest::start("F4", "kill -9 one of two probers, at work on slow checks", SINGLE_PROBER_TOPOLOGY)
            .await;
    let victim = start_busy_victim(&drill).await;

    victim.kill().await;
    let killed = drill.mark_fault_started().await;

    drill.wait_completed(&killed, SLOW_SITE_CONDITION).await;
    let redone = "SELECT count(*) FROM picket.check_results WHERE lateness_us > 5000000 AND outcome = 'up'";
    assert!(drill.stack.query_number(redone).await >= 2);
    let by_it = format!("{redone} AND prober = '{VICTIM_NAME}'");
    assert_eq!(drill.stack.query_number(&by_it).await, 0);
    drill.wait_served().await;
    drill.verify_account().await;
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f4_a_check_longer_than_the_ack_wait_is_performed_once() {
    let drill = FaultTest::start("F4b", "checks of 20 s", SINGLE_PROBER_TOPOLOGY).await;
    let url = drill.target.url("/slow/");
    drill
        .stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
             SELECT '{url}' || (20000 + n), 60, 30000 FROM generate_series(1, 30) AS n"
        ))
        .await;
    let done = "SELECT count(*) FROM picket.check_results WHERE total_us >= 20000000 AND outcome = 'up'";
    drill.stack.wait_at_least(WAIT_TIMEOUT, 10, done).await;
    drill.stack.execute_sql("UPDATE picket.sites SET enabled = false WHERE interval_seconds = 60").await;
    let to = drill.database_now().await;
    drill.wait_completed(&to, "interval_ms = 60000").await;

    let requests = drill.target.received_requests().iter().filter(|head| head.contains(" /slow/")).count();
    assert_eq!(i64::try_from(requests).unwrap_or(0), drill.stack.query_number(done).await, "each once");
    let account = drill.verify_account().await;
    assert_eq!(account.missed, 0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f5_a_stopping_prober_finishes_running_checks_and_pulls_no_more() {
    let mut drill =
        FaultTest::start("F5", "SIGTERM one of two probers, at work on slow checks", SINGLE_PROBER_TOPOLOGY)
            .await;
    let mut victim = start_busy_victim(&drill).await;

    victim.send_signal(Signal::TERM);
    let asked = drill.mark_fault_started().await;
    // Its checks take 3 s; the deadline that it has by default is 75 s.
    let status = victim.wait_exit(Duration::from_secs(20)).await;
    let ended = drill.database_now().await;

    assert!(status.success(), "{status}: {}", victim.read_log());
    assert!(victim.read_log().contains("finishing running checks"), "{}", victim.read_log());
    drill.wait_served().await;
    drill.wait_completed(&ended, SLOW_SITE_CONDITION).await;
    let by_it = format!("SELECT count(*) FROM report.checks WHERE prober = '{VICTIM_NAME}'");
    let finished = format!("{by_it} AND started_at + total_ms * interval '1 millisecond' > '{asked}'");
    assert!(drill.stack.query_number(&finished).await >= 2);
    let begun = format!("{by_it} AND scheduled_at > '{asked}'::timestamptz + interval '1 second'");
    assert_eq!(drill.stack.query_number(&begun).await, 0);
    let account = drill.verify_account().await;
    assert_eq!(account.missed, 0, "{account:#?}");
    drill.stop().await;
}
