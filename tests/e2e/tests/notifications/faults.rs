//! Notifiers that die or hang, servers that are away, clocks that differ.

use std::{collections::BTreeMap, time::Duration};

use picket_e2e::clock_skew;
use picket_harness::{eventually, receiver::Answer, servers};
use rustix::process::Signal;
use serde_json::json;

use crate::drill::{Drill, WAIT_TIMEOUT};

/// Kills one of three notifiers again and again while incidents open and close. Returns the number of
/// requests for each `webhook-id`.
async fn kill_notifiers_in_the_middle(sites: i64, kills: usize) -> (Drill, BTreeMap<String, usize>) {
    let mut drill = Drill::start(3).await;
    drill.add_sites(sites).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.receiver.answer(Answer::Late(Duration::from_millis(20)));

    let batch = sites / i64::try_from(kills).unwrap();
    for round in 0..kills {
        let first = 1 + i64::try_from(round).unwrap() * batch;
        let before = drill.receiver.count();
        drill.open_incidents(first, first + batch - 1).await;
        drill.wait_requests(before + 10).await;
        drill.notifiers.remove(0).kill().await;
        drill.add_notifier().await;
    }
    // Lanes of dead notifiers are free when their leases are over.
    drill.wait_settled().await;
    drill.close_incidents(1, sites).await;
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;

    let mut seen = BTreeMap::new();
    for request in drill.receiver.requests() {
        *seen.entry(request.header("webhook-id").to_owned()).or_insert(0) += 1;
    }
    (drill, seen)
}

async fn assert_nothing_lost_and_doubles_marked(sites: i64, kills: usize) {
    let (drill, seen) = kill_notifiers_in_the_middle(sites, kills).await;
    assert_eq!(i64::try_from(seen.len()).unwrap(), 2 * sites, "every event once, by its webhook-id");
    let unknown = drill
        .stack
        .query_number("SELECT count(*) FROM picket.delivery_attempts WHERE ended_at IS NULL")
        .await;
    let doubled: usize = seen.values().map(|times| times - 1).sum();
    assert!(
        i64::try_from(doubled).unwrap() <= unknown,
        "{doubled} doubles, {unknown} attempts with an unknown end"
    );
    let known = drill
        .stack
        .query_number("SELECT coalesce(sum(unknown_ends), 0)::bigint FROM report.notifications")
        .await;
    assert_eq!(known, unknown, "each is named in report.notifications");
}

#[tokio::test]
async fn n1_n2_notifiers_that_are_killed_in_the_middle_lose_nothing_and_each_double_has_the_id_of_its_first()
{
    assert_nothing_lost_and_doubles_marked(150, 3).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn n1_n2_a_thousand_incidents_under_ten_kills_lose_nothing() {
    assert_nothing_lost_and_doubles_marked(1_000, 10).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn n3_a_notifier_that_was_suspended_beyond_its_lease_writes_nothing_but_the_end_of_its_attempt() {
    let mut drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "0")]).await;
    drill.receiver.answer(Answer::Late(Duration::from_secs(2)));
    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.notifiers[0].send_signal(Signal::STOP);
    drill.add_notifier().await;
    drill.receiver.answer(Answer::status(200));

    let requests = drill.wait_requests(2).await;
    assert!(requests[1].text().contains("Sent again"), "{}", requests[1].text());
    drill.wait_settled().await;
    drill.notifiers[0].send_signal(Signal::CONT);
    let ended = "SELECT count(*) FROM picket.delivery_attempts WHERE ended_at IS NOT NULL";
    eventually(WAIT_TIMEOUT, "the end of the suspended attempt", async || {
        match drill.stack.query_number(ended).await {
            2 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    assert_eq!(drill.receiver.count(), 2);
    assert_eq!(drill.stack.query_number("SELECT count(*) FROM picket.notifications").await, 1);
    assert!(drill.notifiers[0].fetch_metric("picket_notifier_lost_leases_total").await >= 1.0);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n8_events_that_are_purged_deleted_or_never_arrive_are_told_from_the_database() {
    let drill = Drill::start(1).await;
    drill.add_sites(4).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    let _coordinator = drill.stack.spawn_coordinator(&[]).await;
    let _sink = drill.stack.spawn_sink(&[]).await;
    let jetstream = drill.stack.connect_jetstream().await;
    let consumer = eventually(WAIT_TIMEOUT, "the consumer of notifiers", async || {
        let stream = jetstream.get_stream("PICKET_EVENTS").await.map_err(|why| why.to_string())?;
        stream.consumer_info("notifier").await.map_err(|why| why.to_string())
    })
    .await;
    assert_eq!(consumer.config.max_deliver, -1);

    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    jetstream.get_stream("PICKET_EVENTS").await.unwrap().delete_consumer("notifier").await.unwrap();
    drill.open_incidents(2, 2).await;
    drill.wait_requests(2).await;
    jetstream.get_stream("PICKET_EVENTS").await.unwrap().purge().await.unwrap();
    drill.open_incidents(3, 3).await;
    drill.wait_requests(3).await;
    jetstream.delete_stream("PICKET_EVENTS").await.unwrap();
    drill.open_incidents(4, 4).await;
    drill.wait_requests(4).await;
    drill.wait_settled().await;
    assert_eq!(drill.receiver.count(), 4);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n8_notifiers_tell_later_of_incidents_while_nats_or_postgres_were_away() {
    let mut postgres = servers::start_postgres().await;
    let url = postgres.create_database().await;
    let stack = picket_e2e::Stack::start_on(&["eu", "us"], url).await;
    let mut drill = Drill { stack, receiver: picket_harness::Receiver::start().await, notifiers: Vec::new() };
    drill.add_notifier().await;
    drill.add_sites(3).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;

    drill.stack.nats.stop().await;
    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.receiver.answer(Answer::Late(Duration::from_secs(1)));
    drill.open_incidents(2, 2).await;
    drill.wait_requests(2).await;
    postgres.stop().await;
    drill.notifiers[0].wait_unready("database").await;
    drill.stack.nats.start().await;
    postgres.start().await;
    drill.receiver.answer(Answer::status(200));
    drill.notifiers[0].wait_ready().await;
    eventually(WAIT_TIMEOUT, "a database that answers", async || {
        sqlx::query("SELECT 1").execute(&drill.stack.database).await.map(drop).map_err(|why| why.to_string())
    })
    .await;
    drill.open_incidents(3, 3).await;
    drill.wait_settled().await;
    drill.assert_ledger_closed().await;

    let mut seen = BTreeMap::new();
    for request in drill.receiver.requests() {
        *seen.entry(request.json()["data"]["site_id"].as_i64().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(seen[&2] <= 2, "at most the message in flight is doubled: {seen:?}");
}

#[tokio::test]
async fn n9_incidents_during_a_time_without_notifiers_are_one_message() {
    let mut drill = Drill::start(1).await;
    drill.add_sites(60).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "500")]).await;
    drill.notifiers.remove(0).terminate().await;

    drill.open_incidents(1, 50).await;
    drill.close_incidents(1, 48).await;
    // Three hours ago the last notifier was seen, and the incidents lie in between.
    drill
        .stack
        .execute_sql(
            "UPDATE picket.notifiers SET seen_at = seen_at - interval '3 hours';
             UPDATE picket.transitions SET recorded_at = recorded_at - CASE WHEN is_end THEN interval '20 minutes' ELSE interval '50 minutes' END;
             UPDATE picket.channels SET created_at = created_at - interval '1 day';
             UPDATE picket.routes SET created_at = created_at - interval '1 day'",
        )
        .await;
    drill.add_notifier().await;
    drill.wait_requests(1).await;
    drill.wait_settled().await;

    let requests = drill.receiver.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let text = requests[0].text();
    assert!(
        text.contains("While notifications were off") && text.contains("48 incidents opened and closed"),
        "{text}"
    );
    assert!(text.contains("2 sites are down now"), "{text}");
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n13_two_notifiers_with_clocks_ten_minutes_apart_tell_everything_once() {
    let library = clock_skew::build_library(&servers::scratch_dir("skew"));
    let mut drill = Drill::start(0).await;
    drill.add_sites(40).await;
    drill.add_webhook("hook").await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["hook", "phone"], &[("wait_ms", "500")]).await;
    for seconds in ["-300", "300"] {
        let notifier = drill.spawn_notifier(&clock_skew::skew_variables(&library, seconds)).await;
        notifier.wait_ready().await;
        drill.notifiers.push(notifier);
    }
    for site in 1..=20 {
        drill.open_incidents(site, site).await;
    }
    drill.wait_settled().await;
    drill.close_incidents(1, 20).await;
    drill.wait_settled().await;

    let hooks = drill.receiver.requests().iter().filter(|request| request.path == "/hook").count();
    assert_eq!(hooks, 40);
    let unknown =
        "SELECT count(*) FROM picket.delivery_attempts WHERE ended_at IS NULL OR outcome <> 'delivered'";
    assert_eq!(drill.stack.query_number(unknown).await, 0);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n16_no_secret_is_in_logs_tables_metrics_or_errors() {
    const SECRET: &str = "xoxb-very-secret-token";
    let mut drill = Drill::start(0).await;
    let dir = servers::scratch_dir("secrets");
    let path = dir.join("secrets.toml");
    let url = drill.receiver.url(&format!("/services/{SECRET}"));
    std::fs::write(
        &path,
        format!(
            "[secret.slack-ops]\nvalue = \"{url}\"\nhosts = [\"{}\"]\ninsecure = true\n",
            drill.receiver.address()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let notifier = drill.spawn_notifier(&[("PICKET_SECRETS_FILE", &path), ("PICKET_LOG", "debug")]).await;
    notifier.wait_ready().await;
    drill.notifiers.push(notifier);
    drill.add_sites(1).await;
    drill.add_channel("slack", "slack", &json!({"url": {"secret": "slack-ops"}})).await;
    drill.add_route("all", &["slack"], &[("wait_ms", "0")]).await;
    // The answer repeats the URL, and so does the failure of a connection.
    drill.receiver.answer(Answer::Status(403, String::new(), format!("no such hook: {url}")));
    drill.open_incidents(1, 1).await;
    drill.wait_requests(2).await;
    drill.receiver.answer(Answer::Reset);
    drill.wait_requests(3).await;
    drill.receiver.answer(Answer::status(200));
    drill.wait_settled().await;

    assert!(
        drill.receiver.requests().iter().all(|request| request.path.contains(SECRET)),
        "the receiver has it"
    );
    assert!(!drill.notifiers[0].read_log().contains(SECRET));
    let metrics = drill.notifiers[0].fetch("/metrics").await.unwrap();
    assert!(!metrics.body.contains(SECRET));
    for table in [
        "channels",
        "channel_states",
        "notifications",
        "delivery_attempts",
        "notices",
        "transitions",
        "outbox",
    ] {
        let sql = format!("SELECT count(*) FROM picket.{table} AS t WHERE t::text LIKE '%{SECRET}%'");
        assert_eq!(drill.stack.query_number(&sql).await, 0, "{table}");
    }
    drill.assert_ledger_closed().await;
}
