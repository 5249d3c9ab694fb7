//! Channels that cannot be read or are paused, routes that change, and what wakes a notifier.

use picket_harness::eventually;
use serde_json::json;

use crate::drill::{Drill, WAIT_TIMEOUT};

impl Drill {
    async fn wait_number(&self, expected: i64, sql: &str) {
        eventually(WAIT_TIMEOUT, sql, async || match self.stack.query_number(sql).await {
            found if found == expected => Ok(()),
            found => Err(found),
        })
        .await;
    }

    fn find_texts(&self, needle: &str) -> Vec<String> {
        let texts = self.receiver.requests().into_iter().map(|request| request.text());
        texts.filter(|text| text.contains(needle)).collect()
    }
}

#[tokio::test]
async fn a_channel_that_cannot_be_read_fails_is_told_to_others_and_is_told_all_once_it_can_be_read() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_ntfy("phone").await;
    drill.add_channel("pigeon", "pigeon", &json!({})).await;
    drill.add_channel("broken", "ntfy", &json!({"api_url": drill.receiver.url(""), "topic": [5]})).await;
    drill.add_route("all", &["pigeon", "broken"], &[("wait_ms", "0")]).await;
    drill.add_route("channels", &["phone"], &[("events", "'{channel}'"), ("wait_ms", "0")]).await;

    drill.open_incidents(1, 1).await;
    drill
        .wait_number(2, "SELECT count(*) FROM picket.channel_states WHERE is_failing AND problem IS NOT NULL")
        .await;
    // Retried on the schedule, each attempt with the reason.
    let retried = "SELECT count(DISTINCT notification_id) FROM picket.delivery_attempts
                   WHERE number >= 2 AND outcome = 'retry' AND (message LIKE '%not known%' OR message LIKE '%topic%')";
    drill.wait_number(2, retried).await;
    eventually(WAIT_TIMEOUT, "the other channel is told", async || {
        let told =
            drill.find_texts("CHANNEL FAILING").join("\n") + &drill.find_texts("2 channels").join("\n");
        let is_told = told.contains("2 channels") || told.contains("pigeon") && told.contains("broken");
        if is_told { Ok(()) } else { Err(told) }
    })
    .await;

    let settings = json!({"api_url": drill.receiver.url(""), "topic": "ops"});
    drill
        .stack
        .execute_sql(&format!(
            "UPDATE picket.channels SET kind = 'ntfy', settings = '{settings}' WHERE name <> 'phone'"
        ))
        .await;
    drill.wait_settled().await;
    assert_eq!(drill.find_texts("DOWN site-1").len(), 2);
    drill
        .wait_number(3, "SELECT count(*) FROM picket.channel_states WHERE NOT is_failing AND problem IS NULL")
        .await;
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn the_state_of_a_storm_that_cannot_be_read_is_dropped_and_reported_once() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "0")]).await;
    drill
        .stack
        .execute_sql(
            r#"UPDATE picket.channel_states SET storm = '{"next_at": "2020-01-01T00:00:00Z", "stage": "gale"}';
               UPDATE picket.channel_lanes SET due_at = now() WHERE lane = 0"#,
        )
        .await;

    drill.wait_number(0, "SELECT count(*) FROM picket.channel_states WHERE storm IS NOT NULL").await;
    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.wait_settled().await;
    assert_eq!(drill.notifiers[0].read_log().matches("storm cannot be read").count(), 1);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn a_paused_channel_is_told_what_is_true_when_it_is_resumed_and_nothing_of_what_is_over() {
    let drill = Drill::start(1).await;
    drill.add_sites(3).await;
    drill.add_ntfy("phone").await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["phone", "hook"], &[("wait_ms", "0")]).await;
    drill.open_incidents(1, 1).await;
    drill.wait_requests(2).await;
    drill.wait_settled().await;

    drill.stack.execute_sql("UPDATE picket.channels SET enabled = false").await;
    drill.close_incidents(1, 1).await;
    drill.open_incidents(2, 3).await;
    let held = "SELECT count(*) FROM picket.notices WHERE state = 'waiting' AND step = 'event' AND reason = 'channel_paused'";
    drill.wait_number(6, held).await;
    // One ends after it was held back.
    drill.close_incidents(3, 3).await;
    drill.wait_number(4, held).await;
    assert_eq!(drill.count_notices("suppressed", "channel_paused").await, 4);
    assert_eq!(drill.receiver.count(), 2);

    drill.stack.execute_sql("UPDATE picket.channels SET enabled = true").await;
    drill.wait_settled().await;
    let hooks: Vec<_> = drill.receiver.requests()[2..]
        .iter()
        .filter(|request| request.path == "/hook")
        .map(|request| (request.json()["type"].clone(), request.json()["data"]["site_id"].clone()))
        .collect();
    assert_eq!(hooks.len(), 2, "{hooks:?}");
    assert!(
        hooks.contains(&("incident.closed".into(), 1.into()))
            && hooks.contains(&("incident.opened".into(), 2.into()))
    );
    let texts = drill.find_texts("\"phone\"")[1..].join("\n");
    assert!(
        texts.contains("site-1") && texts.contains("DOWN site-2") && !texts.contains("site-3"),
        "{texts}"
    );
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn a_route_that_is_renamed_or_removed_loses_nothing_of_what_waits() {
    let drill = Drill::start(1).await;
    drill.add_sites(2).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "4000")]).await;

    drill.open_incidents(1, 1).await;
    drill.stack.execute_sql("UPDATE picket.routes SET name = 'renamed'").await;
    drill.open_incidents(2, 2).await;
    drill.wait_number(2, "SELECT count(*) FROM picket.notices WHERE state = 'waiting'").await;
    drill.stack.execute_sql("DELETE FROM picket.routes").await;
    drill.wait_settled().await;

    assert_eq!(drill.count_notices("delivered", "").await, 2);
    let early =
        "SELECT count(*) FROM picket.delivery_attempts AS attempt JOIN picket.notices USING (notification_id)
                 JOIN picket.transitions AS transition USING (transition_id)
                 WHERE attempt.started_at < transition.recorded_at + interval '4 seconds'";
    assert_eq!(drill.stack.query_number(early).await, 0);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn an_event_that_no_sink_publishes_wakes_an_idle_notifier_by_the_database() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    let listening =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    drill.wait_number(1, listening).await;

    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    let late =
        "SELECT count(*) FROM picket.delivery_attempts AS attempt JOIN picket.notices USING (notification_id)
                JOIN picket.transitions AS transition USING (transition_id)
                WHERE attempt.started_at > transition.recorded_at + interval '2 seconds'";
    assert_eq!(drill.stack.query_number(late).await, 0);
}
