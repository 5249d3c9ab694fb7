//! Hours of routes, transitions of later builds, and lanes after a clock that was ahead.

use picket_store::lanes;
use sqlx::{AssertSqlSafe, PgPool};

use crate::new_database;

/// Runs an SQL expression and returns its value as text.
pub(crate) async fn query_text(pool: &PgPool, sql: &str) -> Option<String> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT ({sql})::text")))
        .fetch_one(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Runs SQL statements.
pub(crate) async fn execute(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn active_hours_keep_to_the_wall_clock_over_a_change_of_the_clocks() {
    let database = new_database().await;
    let office = r#"{"time_zone": "Europe/Berlin", "hours": [{"days": [1, 2, 3, 4, 5, 6, 7], "from": "08:00", "to": "18:00"}]}"#;
    let night = r#"{"time_zone": "Europe/Berlin", "hours": [{"days": [6], "from": "22:00", "to": "06:00"}]}"#;
    let all = r#"{"time_zone": "Europe/Berlin", "hours": [{"days": [7], "from": "00:00", "to": "24:00"}]}"#;
    for (active, at, expected) in [
        // Summer time ends on 2026-10-25 at 01:00 UTC: eight in the morning is an hour later in UTC.
        (office, "2026-10-24T03:00Z", "2026-10-24 06:00:00+00"),
        (office, "2026-10-25T03:00Z", "2026-10-25 07:00:00+00"),
        (office, "2026-10-25T16:59Z", "2026-10-25 16:59:00+00"),
        (office, "2026-10-25T17:00Z", "2026-10-26 07:00:00+00"),
        // Over midnight, from Saturday on.
        (night, "2026-11-28T23:00Z", "2026-11-28 23:00:00+00"),
        (night, "2026-11-29T04:59Z", "2026-11-29 04:59:00+00"),
        (night, "2026-11-29T05:00Z", "2026-12-05 21:00:00+00"),
        (all, "2026-11-29T22:59Z", "2026-11-29 22:59:00+00"),
        (all, "2026-11-29T23:00Z", "2026-12-05 23:00:00+00"),
    ] {
        let sql = format!("picket.active_from('{active}', '{at}')");
        assert_eq!(query_text(&database.pool, &sql).await.as_deref(), Some(expected), "{at} {active}");
    }
    let always = query_text(&database.pool, "picket.active_from(NULL, '2026-11-29T23:00Z')").await;
    assert_eq!(always.as_deref(), Some("2026-11-29 23:00:00+00"));
}

#[tokio::test]
async fn n17_an_event_with_fields_and_a_name_of_a_later_build_is_a_transition_as_it_is() {
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.channels (name, kind) VALUES ('hook', 'webhook');
           INSERT INTO picket.routes (name, channels, events) VALUES ('all', '{hook}', '{incident}');
           INSERT INTO picket.outbox (event_id, subject, payload) VALUES
               ('incident.7.1.merged', 'picket.event.incident.merged',
                '{"v": 2, "id": "incident.7.1.merged", "event": "incident.merged", "site_id": 7, "colour": {"new": [1]}}'),
               ('thing.1.new', 'picket.event.thing.new', '{"v": 1, "id": "thing.1.new", "event": "thing.new"}')"#,
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}

    let kept = query_text(
        &database.pool,
        "SELECT payload -> 'colour' FROM picket.transitions WHERE event = 'incident.merged'",
    )
    .await;
    assert_eq!(kept.as_deref(), Some(r#"{"new": [1]}"#));
    let told = query_text(
        &database.pool,
        "SELECT string_agg(event || ' ' || channels, ', ' ORDER BY event) FROM picket.transitions",
    )
    .await;
    assert_eq!(told.as_deref(), Some("incident.merged 1, thing.new 0"));
}

#[tokio::test]
async fn notices_do_not_wait_for_the_times_of_a_clock_that_was_ahead() {
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.channels (name, kind) VALUES ('hook', 'webhook');
           INSERT INTO picket.routes (name, channels) VALUES ('all', '{hook}');
           INSERT INTO picket.outbox (event_id, subject, payload) VALUES
               ('incident.7.1.opened', 'picket.event.incident.opened',
                '{"v": 1, "id": "incident.7.1.opened", "event": "incident.opened", "site_id": 7}')"#,
    )
    .await;
    lanes::mark_notifier(&database.store, "one", "1").await.unwrap();
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    let lease = std::time::Duration::from_secs(30);
    lanes::claim_lane(&database.store, "one", lease, 4, true).await.unwrap().unwrap();
    // As if all of it was written by a clock that was 45 days ahead.
    execute(
        &database.pool,
        "UPDATE picket.notifiers SET seen_at = seen_at + interval '45 days';
         UPDATE picket.transitions SET recorded_at = recorded_at + interval '45 days';
         UPDATE picket.notices SET due_at = due_at + interval '45 days';
         UPDATE picket.channel_states SET next_send_at = now() + interval '45 days';
         UPDATE picket.channel_lanes SET due_at = now() + interval '45 days', leased_until = now() + interval '45 days'",
    )
    .await;
    assert_eq!(lanes::claim_lane(&database.store, "two", lease, 4, true).await.unwrap(), None);

    lanes::mark_notifier(&database.store, "two", "1").await.unwrap();
    let claimed = lanes::claim_lane(&database.store, "two", lease, 4, true).await.unwrap();
    assert!(claimed.is_some_and(|lane| lane.channel == "hook"));
    let ahead = query_text(
        &database.pool,
        "SELECT count(*) FROM picket.transitions WHERE recorded_at > now() + interval '1 minute'",
    )
    .await;
    assert_eq!(ahead.as_deref(), Some("0"));
}

#[tokio::test]
async fn the_kinds_for_programs_are_the_same_in_sql_and_in_the_code() {
    use picket_proto::{Audience, ChannelKind};
    let database = new_database().await;
    for kind in ChannelKind::ALL_KINDS {
        let sql = format!("picket.is_for_programs('{kind}')");
        let is_for_programs = query_text(&database.pool, &sql).await;
        assert_eq!(
            is_for_programs.as_deref() == Some("true"),
            kind.audience() == Audience::Programs,
            "{kind}"
        );
    }
}

#[tokio::test]
async fn the_ledger_finds_a_lost_notice_a_lost_transition_and_a_claimed_delivery_without_a_message() {
    let database = new_database().await;
    execute(
        &database.pool,
        "INSERT INTO picket.channels (name, kind) VALUES ('hook', 'webhook'), ('other', 'webhook');
         INSERT INTO picket.routes (name, channels) VALUES ('all', '{hook,other}');
         INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
         SELECT n, now(), now(), '{eu}' FROM generate_series(1, 3) AS n",
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    let unaccounted =
        "SELECT coalesce(sum(unaccounted), 0) FROM report.notification_ledger('-infinity', 'infinity')";
    assert_eq!(query_text(&database.pool, unaccounted).await.as_deref(), Some("0"));

    execute(&database.pool, "DELETE FROM picket.notices WHERE transition_id = 1 AND channel = 'hook'").await;
    assert_eq!(query_text(&database.pool, unaccounted).await.as_deref(), Some("1"));
    execute(&database.pool, "DELETE FROM picket.transitions WHERE transition_id = 2").await;
    assert_eq!(query_text(&database.pool, unaccounted).await.as_deref(), Some("2"));
    execute(
        &database.pool,
        "UPDATE picket.notices SET state = 'delivered', ended_at = now() WHERE transition_id = 3 AND channel = 'hook'",
    )
    .await;
    assert_eq!(query_text(&database.pool, unaccounted).await.as_deref(), Some("3"));
}
