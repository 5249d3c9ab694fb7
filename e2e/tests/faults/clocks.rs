//! Clocks that are wrong.

use std::time::Duration;

use picket_e2e::{
    drill::{Drill, LEASE, LONG, Scene, Setting},
    skew::{self, DatabaseClock},
};
use picket_testkit::{eventually, servers::Postgres};
use tokio::time::Instant;

fn variables<'a>(library: &'a str, seconds: &'a str) -> [(&'a str, &'a str); 2] {
    [("LD_PRELOAD", library), ("SKEW_SECONDS", seconds)]
}

#[tokio::test]
async fn f15_coordinators_whose_clocks_are_minutes_wrong_schedule_what_is_due_when_it_is_due_and_say_so() {
    let mut drill =
        Drill::start("F15", "coordinators 5 min fast and 5 min slow take over", Scene::default()).await;
    let library = skew::library(&drill.scratch());

    for seconds in ["300", "-300"] {
        let wrong = drill.coordinator_with(&[], &variables(&library, seconds)).await;
        wrong.ready().await;
        drill.coordinators.push(wrong);
    }
    drill.injured().await;
    drill.share().await;
    drill.served().await;
    // Now they are alone, and close the ledger as well.
    for right in drill.coordinators.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    drill.share().await;
    drill.served().await;
    for wrong in &drill.coordinators {
        wrong.says("this machine's clock is").await;
    }

    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f15b_probers_and_sinks_whose_clocks_are_minutes_wrong_lose_nothing_and_date_checks_rightly() {
    let mut drill = Drill::start(
        "F15b",
        "all probers and sinks replaced by ones 10 min fast or slow",
        Scene { probers: 1, sinks: 1, ..Scene::default() },
    )
    .await;
    let library = skew::library(&drill.scratch());

    let wrong = [("east", "600"), ("west", "-600")];
    for (region, seconds) in wrong {
        let prober = drill.prober_with(region, &variables(&library, seconds)).await;
        prober.ready().await;
        drill.probers.push((region, prober));
    }
    for (_, right) in drill.probers.drain(..2).collect::<Vec<_>>() {
        right.stop().await;
    }
    for (_, seconds) in wrong {
        let sink = drill.stack.process("picket-sink", &[], &variables(&library, seconds)).await;
        sink.ready().await;
        drill.sinks.push(sink);
    }
    drill.sinks.remove(0).stop().await;
    drill.injured().await;
    drill.served().await;
    for (_, prober) in &drill.probers {
        prober.says("this machine's clock is").await;
    }

    let account = drill.account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    let earliest = "SELECT (min(lateness_us) / 1000)::bigint FROM picket.check_results";
    assert!(drill.stack.number(earliest).await >= 0, "no check began before it was due");
    drill.stop().await;
}

const DAYS_45: i64 = 45 * 86_400;

/// A drill on a database whose clock can be set; it is right at first.
async fn on_a_clock(injury: &'static str, fault: &'static str) -> (Drill, Postgres, DatabaseClock) {
    let (postgres, clock) = DatabaseClock::start().await;
    let setting = Setting { database: Some(postgres.url().to_owned()), ..Setting::default() };
    (Drill::start_in(fault, injury, Scene::default(), setting).await, postgres, clock)
}

/// Now by the right clock, as SQL has it.
fn right_now() -> String {
    picket_proto::Timestamp::from(time::OffsetDateTime::now_utc()).to_string()
}

/// Waits until each schedule that is due often has a real result of a tick that is due from now on by the right clock.
async fn served(drill: &Drill) {
    drill.stack.served_since(LONG, &right_now(), "interval_ms <= 5000").await;
}

async fn days_of_results(drill: &Drill) -> i64 {
    drill
        .stack
        .number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'picket.check_results'::regclass")
        .await
}

async fn all_say(drill: &Drill, text: &str) {
    for coordinator in &drill.coordinators {
        coordinator.says(text).await;
    }
}

#[tokio::test]
async fn f21_a_database_clock_that_is_45_days_ahead_for_a_while_deletes_nothing_and_stops_nothing() {
    let (mut drill, _postgres, clock) =
        on_a_clock("the database's clock 45 days ahead and back", "F21").await;
    let days = days_of_results(&drill).await;
    let marks = "SELECT count(*) FROM picket.leases WHERE scheduled_through > '{now}'::timestamptz + interval '1 hour'";

    clock.set(DAYS_45);
    drill.injured_at(&right_now());
    all_say(&drill, "which nothing confirms: time goes on as before").await;
    served(&drill).await;
    all_say(&drill, "nothing is deleted for its age: the database's clock has jumped by").await;
    assert_eq!(days_of_results(&drill).await, days);
    let ahead = drill.stack.number(&marks.replace("{now}", &right_now())).await;
    assert_eq!(ahead, 0, "nothing is said to be scheduled up to then");

    clock.set(0);
    drill.healed().await;
    all_say(&drill, "the database's clock is as it was before it jumped").await;
    drill.share().await;
    drill.served().await;
    for process in drill.processes() {
        process.ready().await;
    }

    assert_eq!(days_of_results(&drill).await, days);
    let account = drill.account().await;
    assert_eq!((account.missed, account.gap, account.dead_letters), (0, 0, 0), "{account:#?}");
    assert_eq!(drill.coordinators_count("leases_lost_total"), 0.0);
    drill.stop().await;
}

#[tokio::test]
async fn f21b_a_database_clock_that_is_400_s_ahead_of_everyone_steadily_costs_nothing() {
    let (postgres, clock) = DatabaseClock::start().await;
    clock.set(400);
    let setting = Setting { database: Some(postgres.url().to_owned()), ..Setting::default() };
    let injury = "the database's clock 400 s ahead of all others, steadily";
    let mut drill = Drill::start_in("F21b", injury, Scene::default(), setting).await;
    drill.injured().await;

    drill.served().await;

    let account = drill.account().await;
    assert_eq!((account.missed, account.gap, account.dead_letters), (0, 0, 0), "{account:#?}");
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21c_a_database_clock_that_is_ahead_for_a_while_leaves_no_job_expired_and_nothing_for_a_restart() {
    let (mut drill, _postgres, clock) =
        on_a_clock("the database's clock 180 s ahead and back, coordinators killed meanwhile", "F21c").await;

    clock.set(180);
    drill.injured_at(&right_now());
    all_say(&drill, "which nothing confirms").await;
    served(&drill).await;
    // Those that are started now have no memory of the right time.
    for coordinator in drill.coordinators.drain(..).collect::<Vec<_>>() {
        coordinator.kill().await;
    }
    for _ in 0..2 {
        let fresh = drill.coordinator().await;
        fresh.unready("which no other clock").await;
        drill.coordinators.push(fresh);
    }
    drill.endure(Duration::from_secs(12)).await;
    clock.set(0);
    drill.healed().await;

    let healed = Instant::now();
    drill.share().await;
    served(&drill).await;
    assert!(healed.elapsed() < Duration::from_secs(60), "{:?}", healed.elapsed());
    for process in drill.processes() {
        process.ready().await;
    }
    let account = drill.account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    assert_eq!(account.missed_for("expired"), 0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21d_a_database_clock_that_goes_back_ten_minutes_costs_a_dead_coordinators_shards_a_lease() {
    let (mut drill, _postgres, clock) =
        on_a_clock("the database's clock goes back by 10 min, a coordinator is killed", "F21d").await;

    clock.set(-600);
    drill.injured_at(&right_now());
    all_say(&drill, "which nothing confirms").await;
    drill.coordinators.remove(0).kill().await;
    let killed = Instant::now();
    drill.share().await;
    served(&drill).await;
    assert!(killed.elapsed() < 5 * LEASE, "far less than the ten minutes: {:?}", killed.elapsed());
    for coordinator in &drill.coordinators {
        coordinator.ready().await;
    }
    clock.set(0);
    drill.healed().await;
    drill.share().await;
    drill.served().await;

    let account = drill.account().await;
    assert_eq!((account.gap, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f21e_marks_that_were_left_in_the_future_are_repaired_and_ticks_go_on_at_once() {
    let mut drill = Drill::start("F21e", "marks left 45 days in the future", Scene::default()).await;
    for coordinator in drill.coordinators.drain(..).collect::<Vec<_>>() {
        coordinator.kill().await;
    }
    drill
        .stack
        .execute(
            "UPDATE picket.leases SET scheduled_through = now() + interval '45 days',
                 accounted_through = now() + interval '45 days', expires_at = now() + interval '45 days';
             INSERT INTO picket.gaps SELECT shard, now(), now() + interval '45 days' FROM picket.leases;
             UPDATE picket.coordinators SET seen_at = now() + interval '45 days'",
        )
        .await;
    drill.injured().await;
    for _ in 0..2 {
        let fresh = drill.coordinator().await;
        drill.coordinators.push(fresh);
    }

    let began = Instant::now();
    drill.share().await;
    drill.served().await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    eventually(LONG, "repaired marks", async || {
        let repaired = drill.coordinators_count("marks_repaired_total");
        if repaired > 0.0 { Ok(()) } else { Err(repaired) }
    })
    .await;
    drill.healed().await;

    // The drill's account looks for every tick; those without a scheduler have a row, or lie in what is left of the gap.
    let account = drill.account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    drill.stop().await;
}
