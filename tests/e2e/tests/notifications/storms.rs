//! Many sites at once.

use std::time::Duration;

use picket_harness::{eventually, proc::peak_resident_kib, receiver::Answer};
use tokio::time::interval;

use crate::drill::{Drill, WAIT_TIMEOUT};

async fn count_messages(drill: &Drill, path: &str) -> usize {
    drill.receiver.requests().iter().filter(|request| request.path == path).count()
}

#[tokio::test]
async fn n10_three_thousand_sites_down_within_10_s_are_few_messages_to_people_and_every_event_to_programs() {
    const SITES: i64 = 3_000;
    let drill = Drill::start(2).await;
    drill.add_sites(SITES).await;
    drill.add_ntfy("phone").await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["phone", "hook"], &[]).await;
    drill.receiver.answer(Answer::status(200));

    let mut seconds = interval(Duration::from_secs(1));
    for batch in 0..10 {
        seconds.tick().await;
        drill.open_incidents(batch * SITES / 10 + 1, (batch + 1) * SITES / 10).await;
    }
    drill.wait_requests(usize::try_from(SITES).unwrap() + 1).await;
    drill.wait_settled().await;
    let told = drill.receiver.requests().into_iter().find(|request| request.path == "/").unwrap();
    assert!(told.text().contains("3000 sites"), "{}", told.text());
    drill.close_incidents(1, SITES).await;
    drill.wait_settled().await;

    let people = count_messages(&drill, "/").await;
    assert!(people <= 6, "{people} messages to people");
    assert_eq!(count_messages(&drill, "/hook").await, usize::try_from(2 * SITES).unwrap());
    assert_eq!(drill.count_notices("delivered", "").await, 4 * SITES);
    drill.assert_ledger_closed().await;
    print_speed(&drill).await;
}

#[tokio::test]
async fn a_storm_holds_up_nothing_else_and_is_over_although_an_older_outage_lasts() {
    let drill = Drill::start(1).await;
    drill.add_sites(30).await;
    drill.add_ntfy("phone").await;
    let more = [("wait_ms", "1000"), ("storm_after", "5"), ("events", "'{incident,region}'")];
    drill.add_route("all", &["phone"], &more).await;
    let texts = || drill.receiver.requests().iter().map(|request| request.text()).collect::<Vec<_>>();

    drill.open_incidents(30, 30).await;
    drill.wait_requests(1).await;
    drill.open_incidents(1, 9).await;
    drill.wait_requests(2).await;
    assert!(texts()[1].contains("DOWN 9 sites"), "{:?}", texts());

    // A further site waits for the next digest; a region that is silent does not.
    drill.open_incidents(10, 10).await;
    drill
        .stack
        .execute_sql(
            "INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions WHERE name = 'eu'",
        )
        .await;
    drill.wait_requests(3).await;
    assert!(texts()[2].contains("REGION SILENT eu"), "{:?}", texts());

    drill.close_incidents(1, 10).await;
    drill.wait_requests(4).await;
    drill.wait_settled().await;
    let last = texts().pop().unwrap();
    assert!(last.contains("The storm is over: none of its 9 sites is down any more."), "{last}");
    assert!(!last.contains("site-30"), "{last}");

    // After it a message is an ordinary one again.
    drill.open_incidents(11, 11).await;
    let requests = drill.wait_requests(5).await;
    assert!(requests[4].text().contains("DOWN site-11"), "{}", requests[4].text());
    drill.close_incidents(11, 30).await;
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;
}

/// Each message to people tells of a page of notices, so that memory does not grow with the storm.
#[tokio::test]
#[ignore = "slow: just e2e"]
#[expect(clippy::print_stdout, reason = "the output is for a person")]
async fn n10_twenty_thousand_sites_down_at_once_need_little_memory_and_a_message_for_each_page() {
    const SITES: i64 = 20_000;
    const MAX_GROWTH_KIB: u64 = 48 * 1_024;
    let drill = Drill::start(1).await;
    drill.add_sites(SITES).await;
    drill.add_ntfy("phone").await;
    drill.add_ntfy("desk").await;
    drill.add_route("all", &["phone", "desk"], &[]).await;
    let idle = drill.notifiers[0].memory_kib();

    for batch in 0..10 {
        drill.open_incidents(batch * SITES / 10 + 1, (batch + 1) * SITES / 10).await;
    }
    drill.wait_requests(2).await;
    let held =
        "SELECT count(*) FROM picket.notices WHERE state = 'waiting' AND step = 'event' AND reason = 'storm'";
    eventually(WAIT_TIMEOUT, "the rest waits for the next digest", async || {
        match drill.stack.query_number(held).await {
            32_000 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    let text = drill.receiver.requests()[0].text();
    assert!(text.contains("4000 sites") && text.contains("16000 changes more"), "{text}");
    drill.close_incidents(1, SITES).await;
    drill.wait_settled().await;

    let peak = peak_resident_kib(drill.notifiers[0].pid()).unwrap();
    println!("memory: {idle} KiB idle, at most {peak} KiB");
    assert!(peak < idle + MAX_GROWTH_KIB, "from {idle} to {peak} KiB");
    let messages = drill.receiver.count();
    // Two notices of each site are ten pages, beside the first and the last message of the storm.
    assert!(messages <= 24, "{messages} messages to two channels");
    drill.assert_ledger_closed().await;
}

/// Prints what `BENCHMARKS.md` records, of the incidents that opened: timing decides no test.
#[expect(clippy::print_stdout, reason = "the output is for a person")]
async fn print_speed(drill: &Drill) {
    let planned: (f64, f64) = sqlx::query_as(
        "SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM planned_at - recorded_at))::float8,
                max(extract(epoch FROM planned_at - recorded_at))::float8 FROM picket.transitions WHERE event = 'incident.opened'",
    )
    .fetch_one(&drill.stack.database)
    .await
    .unwrap();
    let attempted: (f64, f64) = sqlx::query_as(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY waited)::float8, percentile_disc(0.99) WITHIN GROUP (ORDER BY waited)::float8
         FROM (SELECT extract(epoch FROM min(attempt.started_at) - transition.recorded_at) AS waited
               FROM picket.notices AS notice JOIN picket.transitions AS transition USING (transition_id)
               JOIN picket.delivery_attempts AS attempt USING (notification_id)
               WHERE notice.channel = 'hook' AND transition.event = 'incident.opened' GROUP BY transition.transition_id, transition.recorded_at) AS first",
    )
    .fetch_one(&drill.stack.database)
    .await
    .unwrap();
    println!(
        "planned after {:.2} s (p99), {:.2} s (longest); first attempt after {:.2} s (p50), {:.2} s (p99)",
        planned.0, planned.1, attempted.0, attempted.1
    );
    for notifier in &drill.notifiers {
        println!("memory of {}: {} KiB", notifier.name(), notifier.memory_kib());
    }
}
