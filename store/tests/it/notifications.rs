//! What people ask of notifications: tests, catching up, retries, silences, acknowledgements, and the
//! ledger of notices.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp};
use picket_store::{
    acknowledgements::{self, Acknowledged},
    channel_tests::{self, TestRequest},
    channels,
    notifications::{self, NoticesOf, NotificationFilter, RetrySelection},
    routes::{self, RoutePlace},
    silences::{self, NewSilence, SilenceFilter, SilenceTarget},
};
use serde_json::json;

use crate::{
    Database, new_database,
    notification_definitions::{add_channels, route},
    wall_clock_now,
};

impl Database {
    async fn run_sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn read_text(&self, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Plans all notices.
    async fn plan(&self) {
        self.run_sql("SELECT picket.plan_notices(1000)").await;
    }

    async fn add_route(&self, fields: serde_json::Value) {
        routes::add_route(&self.store, &route(fields), RoutePlace::Last).await.unwrap();
    }
}

const OPEN_INCIDENT: &str = "INSERT INTO picket.sites (url, tags) VALUES ('https://shop.example/', '{shop}') ON CONFLICT DO NOTHING;
    INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, regions) VALUES (1, now(), now(), 'timeout', '{eu}')";

fn in_an_hour() -> Timestamp {
    wall_clock_now().saturating_add(Duration::from_secs(3_600))
}

#[tokio::test]
async fn a_new_channel_is_told_of_what_is_open_only_if_it_is_to_catch_up_and_only_once() {
    let database = new_database().await;
    let store = &database.store;
    database.run_sql(OPEN_INCIDENT).await;
    database.plan().await;
    add_channels(&database, &["ops", "mail"]).await;
    database.add_route(json!({"name": "shop", "tags": ["shop"], "channels": ["ops"]})).await;
    database.add_route(json!({"name": "other", "tags": ["blog"], "channels": ["ops", "mail"]})).await;
    database.plan().await;
    let channel_waits = async || channels::find_channel(store, "ops").await.unwrap().unwrap().state.waiting;
    assert_eq!(channel_waits().await, 0);

    assert_eq!(channels::catch_up(store, None, Some("other")).await.unwrap(), 0);
    assert_eq!(channels::catch_up(store, Some("mail"), None).await.unwrap(), 0);
    assert_eq!(channels::catch_up(store, None, Some("shop")).await.unwrap(), 1);
    assert_eq!(channels::catch_up(store, Some("ops"), None).await.unwrap(), 0);

    assert_eq!(channel_waits().await, 1);
    let due = "SELECT (due_at <= now())::text FROM picket.channel_lanes WHERE channel = 'ops' AND lane = 0";
    assert_eq!(database.read_text(due).await, "true");
    // The end is told to it too, and the ledger counts both.
    database.run_sql("UPDATE picket.incidents SET closed_at = now()").await;
    database.plan().await;
    assert_eq!(channel_waits().await, 2);
    let ledger = notifications::read_notification_ledger(store, Timestamp::from_micros(0), in_an_hour(), 10)
        .await
        .unwrap();
    assert_eq!((ledger.channels[0].waiting, ledger.unaccounted_total(), ledger.untold), (2, 0, 0));
    let notices = notifications::list_notices(store, NoticesOf::Incident(1), 10).await.unwrap();
    let events: Vec<_> =
        notices.iter().map(|notice| (notice.event.as_str(), notice.route.as_deref())).collect();
    assert_eq!(events, [("incident.opened", Some("shop")), ("incident.closed", Some("shop"))]);
    assert_eq!(channels::catch_up(store, Some("ops"), None).await.unwrap(), 0, "nothing is open");
}

#[tokio::test]
async fn an_incident_that_is_not_planned_yet_is_caught_up_with_once() {
    let database = new_database().await;
    database.run_sql(OPEN_INCIDENT).await;
    add_channels(&database, &["ops"]).await;
    database.add_route(json!({"name": "shop", "channels": ["ops"]})).await;

    assert_eq!(channels::catch_up(&database.store, Some("ops"), None).await.unwrap(), 1);
    database.plan().await;

    assert_eq!(database.read_text("SELECT count(*)::text FROM picket.notices").await, "1");
    let to = in_an_hour();
    let ledger = notifications::read_notification_ledger(&database.store, Timestamp::from_micros(0), to, 10)
        .await
        .unwrap();
    assert_eq!((ledger.channels.len(), ledger.channels[0].waiting, ledger.unaccounted_total()), (1, 1, 0));
}

#[tokio::test]
async fn a_missing_notice_is_unaccounted_for_and_the_reasons_of_others_are_counted() {
    let database = new_database().await;
    let store = &database.store;
    add_channels(&database, &["ops"]).await;
    database.add_route(json!({"name": "all", "channels": ["ops"]})).await;
    database.run_sql(OPEN_INCIDENT).await;
    database.plan().await;
    let read = async || {
        notifications::read_notification_ledger(store, Timestamp::from_micros(0), in_an_hour(), 10)
            .await
            .unwrap()
    };
    let status = async || notifications::read_notification_status(store).await.unwrap().unwrap();
    assert_eq!(read().await.unaccounted_total(), 0);
    assert_eq!(
        (status().await.waiting, status().await.unaccounted, status().await.notifiers.running),
        (1, 0, 0)
    );

    database
        .run_sql("UPDATE picket.notices SET state = 'suppressed', reason = 'brief', ended_at = now()")
        .await;
    let reasons = read().await.reasons;
    assert_eq!(
        (reasons[0].channel.as_str(), reasons[0].reason.as_str(), reasons[0].notices),
        ("ops", "brief", 1)
    );
    database.run_sql("UPDATE picket.notices SET state = 'delivered', reason = NULL").await;
    assert_eq!(read().await.unaccounted_total(), 1, "no notification proves the delivery");
    database.run_sql("DELETE FROM picket.notices").await;
    let ledger = read().await;
    assert_eq!((ledger.unaccounted_total(), ledger.unaccounted[0].incident_id), (1, Some(1)));
    assert_eq!(status().await.unaccounted, 1);
}

#[tokio::test]
async fn a_failed_notification_is_tried_again_under_its_number() {
    let database = new_database().await;
    let store = &database.store;
    add_channels(&database, &["ops", "mail"]).await;
    database.add_route(json!({"name": "all", "channels": ["ops", "mail"]})).await;
    database.run_sql(OPEN_INCIDENT).await;
    database.plan().await;
    database
        .run_sql(
            "INSERT INTO picket.notifications (notification_id, channel, lane, purpose, state, reason, ended_at)
             SELECT gen_random_uuid(), name, 0, 'alert', 'failed', 'refused', now() FROM picket.channels;
             UPDATE picket.notices AS notice
             SET state = 'failed', reason = 'refused', ended_at = now(), notification_id = message.notification_id
             FROM picket.notifications AS message WHERE message.channel = notice.channel;
             INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
             SELECT notification_id, 1, 'n', 1, 'refused', 400, 'no', now() FROM picket.notifications;
             UPDATE picket.channel_lanes SET due_at = 'infinity'",
        )
        .await;
    let failed = async |channel| {
        let filter = NotificationFilter {
            channel: Some(channel),
            state: Some("failed"),
            ..NotificationFilter::default()
        };
        notifications::list_notifications(store, filter).await.unwrap()
    };
    let old = failed("ops").await.remove(0);
    let id = old.notification_id.parse().unwrap();
    assert_eq!((old.last_status, old.incident_ids, old.unknown_ends), (Some(400), vec![1], 0));
    assert_eq!(notifications::list_attempts(store, id).await.unwrap()[0].outcome, "refused");

    let since = |seconds| wall_clock_now().saturating_add(Duration::from_secs(seconds));
    assert_eq!(
        notifications::retry_failed(store, RetrySelection::Channel("mail", since(60))).await.unwrap(),
        0
    );
    assert_eq!(notifications::retry_failed(store, RetrySelection::One(id)).await.unwrap(), 1);

    assert!(failed("ops").await.is_empty());
    let told = notifications::list_notices(store, NoticesOf::Notification(id), 10).await.unwrap();
    assert_eq!((told[0].state.as_str(), told[0].reason.as_deref()), ("waiting", None));
    let due = "SELECT string_agg(channel, ',') FROM picket.channel_lanes WHERE due_at <= now()";
    assert_eq!(database.read_text(due).await, "ops");
    let hour_ago = Timestamp::from_micros(wall_clock_now().as_micros() - 3_600_000_000);
    assert_eq!(
        notifications::retry_failed(store, RetrySelection::Channel("mail", hour_ago)).await.unwrap(),
        1
    );
    assert!(failed("mail").await.is_empty());
}

#[tokio::test]
async fn a_test_is_requested_of_a_paused_channel_read_and_cancelled() {
    let database = new_database().await;
    let store = &database.store;
    add_channels(&database, &["ops"]).await;
    database.run_sql("UPDATE picket.channels SET enabled = false").await;

    assert_eq!(channel_tests::request_test(store, "none").await.unwrap(), TestRequest::UnknownChannel);
    let TestRequest::Requested(id) = channel_tests::request_test(store, "ops").await.unwrap() else {
        panic!("not requested")
    };
    let due = "SELECT (due_at <= now())::text FROM picket.channel_lanes WHERE channel = 'ops' AND lane = 0";
    assert_eq!(database.read_text(due).await, "true");
    assert!(!channel_tests::read_test(store, id).await.unwrap().is_over());
    database
        .run_sql(
            "INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
             SELECT notification_id, 1, 'n', 1, 'retry', 503, 'busy', clock_timestamp() FROM picket.notifications",
        )
        .await;
    let test = channel_tests::read_test(store, id).await.unwrap();
    assert!(
        test.is_over() && test.status == Some(503) && test.outcome.as_deref() == Some("retry"),
        "{test:?}"
    );
    channel_tests::cancel_test(store, id).await.unwrap();
    assert_eq!(channel_tests::read_test(store, id).await.unwrap().state, "superseded");

    for _ in 0..5 {
        assert!(matches!(
            channel_tests::request_test(store, "ops").await.unwrap(),
            TestRequest::Requested(_)
        ));
    }
    assert_eq!(channel_tests::request_test(store, "ops").await.unwrap(), TestRequest::Busy);
    assert_eq!(
        notifications::list_notifications(store, NotificationFilter::default()).await.unwrap().len(),
        6
    );
}

#[tokio::test]
async fn removing_a_channel_suppresses_all_that_waits_for_it() {
    let database = new_database().await;
    add_channels(&database, &["ops"]).await;
    database.add_route(json!({"name": "all", "channels": ["ops"]})).await;
    database.run_sql(OPEN_INCIDENT).await;
    database.plan().await;

    routes::remove_route(&database.store, "all", None).await.unwrap();
    channels::remove_channel(&database.store, "ops", None).await.unwrap();

    let notices = notifications::list_notices(&database.store, NoticesOf::Incident(1), 10).await.unwrap();
    assert_eq!(
        (notices[0].state.as_str(), notices[0].reason.as_deref()),
        ("suppressed", Some("channel_removed"))
    );
}

#[tokio::test]
async fn a_silence_of_a_site_a_tag_or_all_has_an_end_and_a_reason() {
    let database = new_database().await;
    let store = &database.store;
    database
        .run_sql("INSERT INTO picket.sites (url, name, tags) VALUES ('https://a.example/', 'shop', '{shop}')")
        .await;
    let now = wall_clock_now();
    let silence = |target| NewSilence {
        target,
        from: now,
        to: in_an_hour(),
        reason: "move".into(),
        created_by: Some("ci".into()),
    };
    for target in [SilenceTarget::Site(SiteId(1)), SilenceTarget::Tag("shop".into()), SilenceTarget::All] {
        silences::add_silence(store, &silence(target)).await.unwrap();
    }
    silences::add_silence(store, &silence(SilenceTarget::Site(SiteId(9)))).await.unwrap_err();
    let endless = NewSilence { to: Timestamp::MAX, ..silence(SilenceTarget::All) };
    silences::add_silence(store, &endless).await.unwrap_err();
    let groundless = NewSilence { reason: " ".into(), ..silence(SilenceTarget::All) };
    silences::add_silence(store, &groundless).await.unwrap_err();

    let listed = silences::list_silences(store, SilenceFilter::default()).await.unwrap();
    let shown: Vec<_> =
        listed.iter().map(|row| (row.id, row.site.as_deref(), row.tag.as_deref(), row.all)).collect();
    assert_eq!(
        shown,
        [(3, None, None, true), (2, None, Some("shop"), false), (1, Some("shop"), None, false)]
    );
    assert_eq!((listed[0].state.as_str(), listed[0].created_by.as_str()), ("now", "ci"));
    let tags = ["shop".to_owned()];
    let of_tag = SilenceFilter { tags: Some(&tags), ..SilenceFilter::default() };
    assert_eq!(silences::list_silences(store, of_tag).await.unwrap().len(), 2);

    assert!(
        silences::change_silence(store, &listed[0], now.saturating_add(Duration::from_micros(1)), "done")
            .await
            .unwrap()
    );
    assert!(!silences::change_silence(store, &listed[0], in_an_hour(), "again").await.unwrap());
    let left = silences::list_silences(store, SilenceFilter::default()).await.unwrap();
    assert_eq!(left.len(), 2);
    assert!(!silences::remove_silence(store, 2, Some(&listed[0].version)).await.unwrap());
    assert!(silences::remove_silence(store, 2, Some(&listed[1].version)).await.unwrap());
    let over = SilenceFilter { over: true, ..SilenceFilter::default() };
    assert_eq!(silences::list_silences(store, over).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_open_incident_is_acknowledged_once_and_the_acknowledgement_can_be_withdrawn() {
    let database = new_database().await;
    let store = &database.store;
    database.run_sql(OPEN_INCIDENT).await;
    let acknowledge =
        async |note| acknowledgements::acknowledge_incident(store, 1, Some("ann"), note).await.unwrap();

    let Acknowledged::Now(first) = acknowledge(Some("on it")).await else { panic!("not acknowledged") };
    assert_eq!((first.acknowledged_by.as_str(), first.note.as_deref()), ("ann", Some("on it")));
    assert_eq!(acknowledge(None).await, Acknowledged::Before(first.clone()));
    assert_eq!(acknowledgements::list_acknowledgements(store, &[1, 2]).await.unwrap(), [first]);
    assert!(acknowledgements::withdraw_acknowledgement(store, 1).await.unwrap());
    assert!(!acknowledgements::withdraw_acknowledgement(store, 1).await.unwrap());
    assert!(acknowledgements::acknowledge_incident(store, 1, None, Some("")).await.is_err());

    database.run_sql("UPDATE picket.incidents SET closed_at = now()").await;
    assert_eq!(acknowledge(None).await, Acknowledged::Closed);
    let missing = acknowledgements::acknowledge_incident(store, 9, None, None).await.unwrap();
    assert_eq!(missing, Acknowledged::NotFound);
}
