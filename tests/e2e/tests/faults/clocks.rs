//! Clocks that are wrong.

use std::time::Duration;

use picket_e2e::{
    clock_skew::{self, DatabaseClock},
    fault_test::{Environment, FaultTest, LEASE_TIME, Topology, WAIT_TIMEOUT},
};
use picket_harness::{eventually, servers::TestPostgres};
use tokio::time::Instant;

#[tokio::test]
async fn f15_coordinators_with_clocks_minutes_off_schedule_ticks_on_time_and_warn() {
    let mut drill =
        FaultTest::start("F15", "coordinators 5 min fast and 5 min slow take over", Topology::default())
            .await;
    let library = clock_skew::build_library(&drill.scratch_dir());

    for seconds in ["300", "-300"] {
        let wrong = drill.spawn_coordinator_with(&[], &clock_skew::skew_variables(&library, seconds)).await;
        wrong.wait_ready().await;
        drill.coordinators.push(wrong);
    }
    drill.mark_fault_started().await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    // Now they are alone, and close the ledger as well.
    for right in drill.coordinators.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    drill.wait_balanced().await;
    drill.wait_served().await;
    for wrong in &drill.coordinators {
        wrong.wait_logged("wall clock differs from the database clock").await;
    }

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f15b_probers_and_sinks_with_clocks_minutes_off_lose_nothing_and_date_checks_correctly() {
    let mut drill = FaultTest::start(
        "F15b",
        "all probers and sinks replaced by ones 10 min fast or slow",
        Topology { probers: 1, sinks: 1, ..Topology::default() },
    )
    .await;
    let library = clock_skew::build_library(&drill.scratch_dir());

    let wrong = [("east", "600"), ("west", "-600")];
    for (region, seconds) in wrong {
        let prober = drill.spawn_prober_with(region, &clock_skew::skew_variables(&library, seconds)).await;
        prober.wait_ready().await;
        drill.probers.push((region, prober));
    }
    for (_, right) in drill.probers.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    for (_, seconds) in wrong {
        let sink = drill
            .stack
            .spawn_process("picket-sink", &[], &clock_skew::skew_variables(&library, seconds))
            .await;
        sink.wait_ready().await;
        drill.sinks.push(sink);
    }
    drill.sinks.remove(0).stop().await;
    drill.mark_fault_started().await;
    drill.wait_served().await;
    for (_, prober) in &drill.probers {
        prober.wait_logged("clock of this machine is wrong").await;
    }

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    let earliest = "SELECT (min(lateness_us) / 1000)::bigint FROM picket.check_results";
    assert!(drill.stack.query_number(earliest).await >= 0, "no check began before it was due");
    drill.stop().await;
}

const CLOCK_STEP_S: i64 = 45 * 86_400;

/// A drill on a database whose clock can be set; it is right at first.
async fn start_with_clock(
    description: &'static str,
    fault: &'static str,
) -> (FaultTest, TestPostgres, DatabaseClock) {
    let (postgres, clock) = DatabaseClock::start().await;
    let setting = Environment { database: Some(postgres.url().to_owned()), ..Environment::default() };
    (FaultTest::start_with(fault, description, Topology::default(), setting).await, postgres, clock)
}

/// Now by the right clock, as SQL has it.
fn now_sql() -> String {
    picket_proto::Timestamp::from(time::OffsetDateTime::now_utc()).to_string()
}

/// Waits until each schedule that is due often has a real result of a tick that is due from now on by the right clock.
async fn wait_served(drill: &FaultTest) {
    drill.stack.wait_served_since(WAIT_TIMEOUT, &now_sql(), "interval_ms <= 5000").await;
}

async fn count_result_days(drill: &FaultTest) -> i64 {
    drill
        .stack
        .query_number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'picket.check_results'::regclass")
        .await
}

async fn wait_all_logged(drill: &FaultTest, text: &str) {
    for coordinator in &drill.coordinators {
        coordinator.wait_logged(text).await;
    }
}

#[tokio::test]
async fn f21_a_database_clock_that_is_45_days_ahead_for_a_while_deletes_nothing_and_stops_nothing() {
    let (mut drill, _postgres, clock) =
        start_with_clock("the database's clock 45 days ahead and back", "F21").await;
    let days = count_result_days(&drill).await;
    let marks = "SELECT count(*) FROM picket.leases WHERE scheduled_through > '{now}'::timestamptz + interval '1 hour'";

    clock.set_offset(CLOCK_STEP_S);
    drill.mark_fault_started_at(&now_sql());
    wait_all_logged(&drill, "database clock jumped, unconfirmed").await;
    wait_served(&drill).await;
    wait_all_logged(&drill, r#""retention paused","reason":"the database's clock has jumped by"#).await;
    assert_eq!(count_result_days(&drill).await, days);
    let ahead = drill.stack.query_number(&marks.replace("{now}", &now_sql())).await;
    assert_eq!(ahead, 0, "no watermark is up to then");

    clock.set_offset(0);
    drill.mark_fault_ended().await;
    wait_all_logged(&drill, "database clock is back at the time before its jump").await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    for process in drill.all_processes() {
        process.wait_ready().await;
    }

    assert_eq!(count_result_days(&drill).await, days);
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.gap, account.dead_letters), (0, 0, 0), "{account:#?}");
    assert_eq!(drill.sum_coordinator_metric("leases_lost_total"), 0.0);
    drill.stop().await;
}

#[tokio::test]
async fn f21b_a_database_clock_steadily_400_s_ahead_costs_nothing() {
    let (postgres, clock) = DatabaseClock::start().await;
    clock.set_offset(400);
    let setting = Environment { database: Some(postgres.url().to_owned()), ..Environment::default() };
    let description = "the database's clock 400 s ahead of all others, steadily";
    let mut drill = FaultTest::start_with("F21b", description, Topology::default(), setting).await;
    drill.mark_fault_started().await;

    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.gap, account.dead_letters), (0, 0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21c_a_database_clock_temporarily_ahead_leaves_no_expired_job_and_no_state_for_a_restart() {
    let (mut drill, _postgres, clock) =
        start_with_clock("the database's clock 180 s ahead and back, coordinators killed meanwhile", "F21c")
            .await;

    clock.set_offset(180);
    drill.mark_fault_started_at(&now_sql());
    wait_all_logged(&drill, "database clock jumped, unconfirmed").await;
    wait_served(&drill).await;
    // Processes started now have no earlier reading of the right time.
    for coordinator in drill.coordinators.drain(..).collect::<Vec<_>>() {
        coordinator.kill().await;
    }
    for _ in 0..2 {
        let fresh = drill.spawn_coordinator().await;
        fresh.wait_unready("unconfirmed by any other clock").await;
        drill.coordinators.push(fresh);
    }
    drill.run_for(Duration::from_secs(12)).await;
    clock.set_offset(0);
    drill.mark_fault_ended().await;

    let healed = Instant::now();
    drill.wait_balanced().await;
    wait_served(&drill).await;
    assert!(healed.elapsed() < Duration::from_secs(60), "{:?}", healed.elapsed());
    for process in drill.all_processes() {
        process.wait_ready().await;
    }
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    assert_eq!(account.missed_for_cause("expired"), 0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21d_a_database_clock_that_goes_back_ten_minutes_costs_a_dead_coordinators_shards_a_lease() {
    let (mut drill, _postgres, clock) =
        start_with_clock("the database's clock goes back by 10 min, a coordinator is killed", "F21d").await;

    clock.set_offset(-600);
    drill.mark_fault_started_at(&now_sql());
    wait_all_logged(&drill, "database clock jumped, unconfirmed").await;
    drill.coordinators.remove(0).kill().await;
    let killed = Instant::now();
    drill.wait_balanced().await;
    wait_served(&drill).await;
    assert!(killed.elapsed() < 5 * LEASE_TIME, "far less than the ten minutes: {:?}", killed.elapsed());
    for coordinator in &drill.coordinators {
        coordinator.wait_ready().await;
    }
    clock.set_offset(0);
    drill.mark_fault_ended().await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!((account.gap, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21e_timestamps_left_in_the_future_are_repaired_and_ticks_resume_immediately() {
    let mut drill = FaultTest::start("F21e", "marks left 45 days in the future", Topology::default()).await;
    for coordinator in drill.coordinators.drain(..).collect::<Vec<_>>() {
        coordinator.kill().await;
    }
    drill
        .stack
        .execute_sql(
            "UPDATE picket.leases SET scheduled_through = now() + interval '45 days',
                 accounted_through = now() + interval '45 days', expires_at = now() + interval '45 days';
             INSERT INTO picket.gaps SELECT shard, now(), now() + interval '45 days' FROM picket.leases;
             UPDATE picket.coordinators SET seen_at = now() + interval '45 days'",
        )
        .await;
    drill.mark_fault_started().await;
    for _ in 0..2 {
        let fresh = drill.spawn_coordinator().await;
        drill.coordinators.push(fresh);
    }

    let began = Instant::now();
    drill.wait_balanced().await;
    drill.wait_served().await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    eventually(WAIT_TIMEOUT, "repaired marks", async || {
        let repaired = drill.sum_coordinator_metric("future_timestamps_repaired_total");
        if repaired > 0.0 { Ok(()) } else { Err(repaired) }
    })
    .await;
    drill.mark_fault_ended().await;

    // The drill's account looks for every tick; those without a scheduler have a row, or lie in what is left of the gap.
    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    drill.stop().await;
}
