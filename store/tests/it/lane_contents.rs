//! What a notifier reads of a lane: pages of notices, routes that changed, times without notifiers.

use std::time::Duration;

use picket_store::lanes::{self, Lane, LaneContents, LaneWork, NoticeChange, NotificationChange};
use sqlx::{AssertSqlSafe, types::Uuid};

use crate::{Database, new_database};

const LEASE: Duration = Duration::from_secs(30);

impl Database {
    async fn execute(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    /// A channel of people with a route of all sites; `more` are further columns of the route and values.
    async fn add_phone(&self, columns: &str, values: &str) {
        self.execute(&format!(
            "INSERT INTO picket.channels (name, kind) VALUES ('phone', 'ntfy');
             INSERT INTO picket.routes (name, channels{columns}) VALUES ('all', '{{phone}}'{values})"
        ))
        .await;
    }

    async fn open_incidents(&self, first: i64, last: i64) {
        self.execute(&format!(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
             SELECT n, clock_timestamp(), clock_timestamp(), 'timeout', 'no answer', '{{eu}}'
             FROM generate_series({first}, {last}) AS n"
        ))
        .await;
        self.plan_all().await;
    }

    async fn plan_all(&self) {
        while lanes::plan_notices(&self.store).await.unwrap() > 0 {}
    }

    /// Leases the lane of people of the channel `phone`, whatever is due.
    async fn lease_lane(&self) -> Lane {
        self.execute(
            "UPDATE picket.channel_lanes SET due_at = now(), leased_until = '-infinity'
             WHERE channel = 'phone' AND lane = 0",
        )
        .await;
        lanes::claim_lane(&self.store, "one", LEASE, 4, true).await.unwrap().unwrap()
    }

    async fn load(&self) -> LaneContents {
        let lane = self.lease_lane().await;
        lanes::load_lane(&self.store, &lane).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn notices_that_are_held_back_hide_no_newer_ones_and_a_page_is_bounded() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.open_incidents(1, 7_000).await;
    database
        .execute("UPDATE picket.notices SET due_at = now() + interval '1 day', reason = 'silenced'")
        .await;
    database.open_incidents(7_001, 7_010).await;

    let contents = database.load().await;
    let sites: Vec<_> = contents.notices.iter().filter_map(|notice| notice.site_id).collect();
    assert_eq!(sites, (7_001..=7_010).collect::<Vec<_>>(), "those that collect, and none that is held");
    assert_eq!(contents.more_notices, 0);

    // The silence is over.
    database.execute("UPDATE picket.notices SET due_at = now() WHERE reason = 'silenced'").await;
    let contents = database.load().await;
    assert_eq!((contents.notices.len(), contents.more_notices), (4_000, 3_010));
    let ids: Vec<_> = contents.notices.iter().map(|notice| notice.transition_id).collect();
    assert!(ids.is_sorted(), "in the order of recording");
    assert!(contents.notices.iter().all(|notice| notice.reason.is_some()), "those that are due come first");
}

#[tokio::test]
async fn an_end_is_on_the_page_of_its_beginning() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.open_incidents(1, 6_000).await;
    database
        .execute("UPDATE picket.notices SET due_at = now() + interval '1 minute', reason = 'storm'")
        .await;
    database.execute("UPDATE picket.incidents SET closed_at = now()").await;
    database.plan_all().await;

    let contents = database.load().await;
    assert_eq!((contents.notices.len(), contents.more_notices), (4_000, 8_000));
    let ends = contents.notices.iter().filter(|notice| notice.is_end).map(|notice| &notice.subject);
    let beginnings = contents.notices.iter().filter(|notice| !notice.is_end).map(|notice| &notice.subject);
    assert!(ends.eq(beginnings), "both of 2,500 incidents");
}

#[tokio::test]
async fn an_event_for_people_is_reduced_to_what_counts_need_and_read_in_full_for_what_is_shown() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.open_incidents(1, 1).await;

    let contents = database.load().await;
    let notice = &contents.notices[0];
    assert_eq!((&notice.payload["cause"], notice.payload.get("message")), (&"timeout".into(), None));
    let full = lanes::read_events(&database.store, &[notice.transition_id]).await.unwrap();
    assert_eq!(full[&notice.transition_id]["message"], "no answer");
    // E-mail attaches the full list.
    database.execute("UPDATE picket.channels SET kind = 'email'").await;
    assert_eq!(database.load().await.notices[0].payload["message"], "no answer");
}

#[tokio::test]
async fn a_route_that_is_renamed_or_removed_changes_nothing_for_what_waits() {
    let database = new_database().await;
    // The hours begin in a day or two.
    let columns = ", wait_ms, remind_ms, active";
    let values = ", 45000, 7200000, jsonb_build_object('time_zone', 'UTC', 'hours', jsonb_build_array(jsonb_build_object(
        'days', jsonb_build_array(extract(isodow FROM now() AT TIME ZONE 'UTC' + interval '2 days')::integer),
        'from', '00:00', 'to', '24:00')))";
    database.add_phone(columns, values).await;
    database.open_incidents(1, 1).await;
    let read = async || {
        let contents = database.load().await;
        let notice = &contents.notices[0];
        assert!(notice.active_from.is_some_and(|from| from.0 > contents.now), "held until the hours begin");
        (notice.wait_ms, notice.remind_ms, notice.active_from, notice.route.clone())
    };
    let before = read().await;
    assert_eq!((before.0, before.1), (Some(45_000), 7_200_000));

    database.execute("UPDATE picket.routes SET name = 'renamed'").await;
    assert_eq!(read().await, before);
    database.execute("DELETE FROM picket.routes").await;
    assert_eq!(read().await, before);

    // The end, and what follows a delivery, keep to it too.
    database.execute("UPDATE picket.incidents SET closed_at = now()").await;
    database.plan_all().await;
    let contents = database.load().await;
    assert!(
        contents.notices.iter().all(|notice| notice.wait_ms == Some(45_000)) && contents.notices.len() == 2
    );
    // It is forgotten when nothing waits for it.
    let prune = "SELECT picket.prune_notifications(-1, 10)";
    database.execute(prune).await;
    assert_eq!(database.count("SELECT count(*) FROM picket.former_routes").await, 1);
    database
        .execute("UPDATE picket.notices SET state = 'suppressed', reason = 'brief', ended_at = now()")
        .await;
    database.execute(prune).await;
    assert_eq!(database.count("SELECT count(*) FROM picket.former_routes").await, 0);
}

#[tokio::test]
async fn a_notice_held_back_is_looked_at_when_its_incident_ends_and_one_that_was_attempted_keeps_its_time() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.open_incidents(1, 2).await;
    database
        .execute(
            "UPDATE picket.notices SET due_at = now() + interval '1 day',
                 reason = CASE WHEN transition_id = 1 THEN 'channel_paused' END,
                 notification_id = CASE WHEN transition_id = 2 THEN gen_random_uuid() END",
        )
        .await;
    database.execute("UPDATE picket.incidents SET closed_at = now()").await;
    database.plan_all().await;

    let due = "SELECT coalesce(sum(transition_id), 0)::bigint FROM picket.notices
               WHERE due_at <= clock_timestamp() AND transition_id < 3";
    assert_eq!(database.count(due).await, 1);
}

#[tokio::test]
async fn the_first_attempt_of_a_notice_is_remembered_whichever_message_makes_it() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.open_incidents(1, 2).await;
    let attempt = async |lane: &Lane, site: i64| {
        let contents = lanes::load_lane(&database.store, lane).await.unwrap().unwrap();
        let notice = contents.notices.iter().find(|notice| notice.site_id == Some(site)).unwrap();
        let id = Uuid::now_v7();
        let work = LaneWork {
            notices: vec![NoticeChange::attempt(&notice.key(), id)],
            notification: Some(NotificationChange::new(id, "alert", None)),
            ..LaneWork::default()
        };
        assert!(lanes::write_lane_work(&database.store, lane, &work, LEASE).await.unwrap());
        let contents = lanes::load_lane(&database.store, lane).await.unwrap().unwrap();
        let first = |notice: &lanes::LaneNotice| notice.first_attempt_at;
        contents.notices.iter().map(first).collect::<Vec<_>>()
    };
    let lane = database.lease_lane().await;
    let [first, None] = attempt(&lane, 1).await[..] else { panic!("of the first alone") };
    assert!(first.is_some());
    let [again, second] = attempt(&lane, 2).await[..] else { panic!("two notices") };
    assert!(again == first && second > first);
    assert_eq!(attempt(&lane, 1).await, [first, second], "another message, and the same first attempt");
}

#[tokio::test]
async fn a_time_without_notifiers_is_told_until_something_has_been_delivered_after_it() {
    let database = new_database().await;
    database.add_phone("", "").await;
    database.execute("UPDATE picket.channels SET created_at = now() - interval '9 days'").await;
    database.execute("UPDATE picket.routes SET created_at = now() - interval '9 days'").await;
    database.open_incidents(1, 3).await;
    database.execute("UPDATE picket.incidents SET closed_at = now() WHERE site_id < 3").await;
    database.plan_all().await;
    database
        .execute(
            "UPDATE picket.transitions SET recorded_at = recorded_at - interval '3 hours';
             INSERT INTO picket.notification_gaps VALUES
                 (now() - interval '6 days', now() - interval '5 days'),
                 (now() - interval '4 hours', now() - interval '1 hour')",
        )
        .await;

    let contents = database.load().await;
    let gaps: Vec<_> = contents.gaps.iter().map(|gap| (gap.ended, gap.down)).collect();
    assert_eq!(gaps, [(2, 1)], "not the one in which nothing happened");
    let delivered = "UPDATE picket.channel_states SET last_delivered_at = now()";
    database.execute(delivered).await;
    assert!(database.load().await.gaps.is_empty());
}
