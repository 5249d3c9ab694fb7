//! What notifiers read of storms, of sites that flap and of acknowledgements, and what services with alerts
//! of their own are told.

use picket_store::lanes::{self, AttemptEnd, NoticeStep};
use sqlx::types::Uuid;

use crate::lanes::{execute, query_text};
use crate::new_database;

#[tokio::test]
async fn services_with_alerts_of_their_own_get_single_events_with_any_group_by() {
    let database = new_database().await;
    for (kind, group_by, expected) in [
        ("slack", "NULL", Some("route all")),
        ("slack", "'tag'", Some("tag shop")),
        ("slack", "'site'", Some("site 7")),
        ("webhook", "NULL", None),
        ("webhook", "'site'", None),
        ("webhook", "'route'", Some("route all")),
        ("webhook", "'tag'", Some("tag shop")),
        ("pagerduty", "'route'", None),
        ("pagerduty", "'tag'", None),
        ("opsgenie", "'route'", None),
        ("alertmanager", "'tag'", None),
    ] {
        let sql = format!(
            "picket.group_key_of({group_by}, 'all', '{{}}', '{kind}', 7, '{{shop}}', 'incident.7.1')"
        );
        assert_eq!(query_text(&database.pool, &sql).await.as_deref(), expected, "{kind} {group_by}");
    }
}

#[tokio::test]
async fn an_acknowledgement_is_told_to_services_that_were_told_of_the_incident_and_again_after_a_withdrawal()
{
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.sites (url, name) VALUES ('https://site-1.example/', 'site-1');
           INSERT INTO picket.channels (name, kind) VALUES ('duty', 'pagerduty'), ('genie', 'opsgenie'), ('hook', 'webhook'), ('ops', 'slack');
           INSERT INTO picket.routes (name, channels) VALUES ('all', '{duty,genie,hook,ops}');
           INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
           SELECT id, clock_timestamp(), clock_timestamp(), 'connect', 'connection refused', '{eu}' FROM picket.sites"#,
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    let acknowledge =
        "INSERT INTO picket.acknowledgements (incident_id) SELECT incident_id FROM picket.incidents";
    execute(&database.pool, acknowledge).await;

    let told =
        "SELECT string_agg(channel || ' ' || state || coalesce(' ' || group_key, ''), ', ' ORDER BY channel)
                FROM picket.notices WHERE step = 'acknowledgement'";
    assert_eq!(query_text(&database.pool, told).await.as_deref(), Some("duty waiting, genie waiting"));

    // Of those it is read together with its opening, which comes first.
    let lane = claim_lane_of(&database.store, "duty").await;
    let contents = lanes::load_lane(&database.store, &lane).await.unwrap().unwrap();
    let steps: Vec<_> = contents.notices.iter().map(|notice| (notice.step, notice.is_acknowledged)).collect();
    assert_eq!(steps, [(NoticeStep::Event, true), (NoticeStep::Acknowledgement, true)]);
    let later = "UPDATE picket.notices SET due_at = now() + interval '1 hour' WHERE step = 'event' AND channel = 'duty'";
    execute(&database.pool, later).await;
    let contents = lanes::load_lane(&database.store, &lane).await.unwrap().unwrap();
    assert_eq!(contents.notices.len(), 1, "the opening is attempted in an hour");
    assert!(contents.notices[0].blocked_until.is_some());

    let ended =
        "UPDATE picket.notices SET state = 'delivered', ended_at = now() WHERE channel IN ('duty', 'genie');
                 DELETE FROM picket.acknowledgements";
    execute(&database.pool, ended).await;
    execute(&database.pool, acknowledge).await;
    assert_eq!(query_text(&database.pool, told).await.as_deref(), Some("duty waiting, genie waiting"));
}

async fn claim_lane_of(store: &picket_store::Store, channel: &str) -> lanes::Lane {
    let lease = std::time::Duration::from_secs(30);
    while let Some(lane) = lanes::claim_lane(store, "one", lease, 8, true).await.unwrap() {
        if lane.channel == channel {
            return lane;
        }
    }
    panic!("no lane of {channel} is due");
}

#[tokio::test]
async fn a_site_that_flaps_is_read_with_the_number_and_the_length_of_its_outages_and_its_last_change() {
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.sites (url, name) VALUES ('https://site-1.example/', 'site-1');
           INSERT INTO picket.channels (name, kind) VALUES ('ops', 'slack');
           INSERT INTO picket.routes (name, channels, wait_ms) VALUES ('all', '{ops}', 0);
           DO $$
           BEGIN
               -- Three outages of three minutes each within forty minutes; the last one lasts.
               FOR ago IN REVERSE 40..3 BY 18 LOOP
                   INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
                   SELECT id, now() - ago * interval '1 minute', now() - ago * interval '1 minute', 'connect', 'refused', '{eu}' FROM picket.sites;
                   UPDATE picket.incidents SET closed_at = opened_at + interval '3 minutes' WHERE closed_at IS NULL AND ago > 4;
               END LOOP;
           END $$"#,
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}

    let lane = claim_lane_of(&database.store, "ops").await;
    let contents = lanes::load_lane(&database.store, &lane).await.unwrap().unwrap();
    let third = contents.notices.iter().rfind(|notice| !notice.is_end).unwrap();
    let since = third
        .flap_since
        .map(|at| (contents.now.as_millis() - picket_proto::Timestamp::from(at).as_millis()) / 60_000);
    assert_eq!((third.recent_openings, since), (3, Some(40)));
    let minutes = third.flap_down_ms / 60_000;
    assert_eq!(minutes, 3 + 3 + 4, "two of three minutes, and four so far");
    assert!(third.is_site_down && third.last_change.is_none(), "it is read for the calm only");
    let first = &contents.notices[0];
    assert_eq!((first.recent_openings, first.end_state.as_deref()), (1, Some("waiting")));

    execute(
        &database.pool,
        "UPDATE picket.incidents SET closed_at = now(), unwatched = true WHERE closed_at IS NULL;
         INSERT INTO picket.notices (transition_id, channel, step, route, group_key, lane, due_at)
         SELECT transition_id, 'ops', 'calm', 'all', 'route all', 0, now() FROM picket.transitions
         WHERE event = 'incident.opened' ORDER BY transition_id DESC LIMIT 1",
    )
    .await;
    let contents = lanes::load_lane(&database.store, &lane).await.unwrap().unwrap();
    let calm = contents.notices.iter().find(|notice| notice.step == NoticeStep::Calm).unwrap();
    assert_eq!(calm.recent_openings, 3);
    assert_eq!(calm.last_change.as_ref().unwrap()["unwatched"], true);
}

#[tokio::test]
async fn the_incidents_of_a_storm_are_those_of_its_digests_until_their_ends_are_planned() {
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.sites (url, name) SELECT 'https://site-' || n || '.example/', 'site-' || n FROM generate_series(1, 3) AS n;
           INSERT INTO picket.channels (name, kind) VALUES ('ops', 'slack');
           INSERT INTO picket.routes (name, channels, wait_ms) VALUES ('all', '{ops}', 0);
           INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
           SELECT id, now(), now(), 'connect', 'refused', '{eu}' FROM picket.sites ORDER BY id"#,
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    let lane = claim_lane_of(&database.store, "ops").await;
    execute(
        &database.pool,
        r#"UPDATE picket.channel_states SET storm = '{"digests": ["00000000-0000-0000-0000-000000000007"]}';
           UPDATE picket.notices SET state = 'delivered', ended_at = now(), notification_id = '00000000-0000-0000-0000-000000000007'
           WHERE transition_id IN (SELECT transition_id FROM picket.transitions WHERE payload ->> 'site' <> 'site-1')"#,
    )
    .await;
    let read = async || lanes::load_lane(&database.store, &lane).await.unwrap().unwrap().storm_open;
    let open = read().await;
    assert_eq!(
        (open.count, open.names.join(", ").as_str()),
        (2, "site-2, site-3"),
        "site-1 was told by no digest"
    );

    let closing = "UPDATE picket.incidents SET closed_at = now() WHERE site_id = (SELECT id FROM picket.sites WHERE name = 'site-2')";
    execute(&database.pool, closing).await;
    assert_eq!(read().await.count, 2, "the end is not planned yet");
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    assert_eq!(read().await.names, ["site-3"]);
}

#[tokio::test]
async fn a_late_attempt_at_an_opening_has_programs_told_of_the_end_once_more() {
    let database = new_database().await;
    execute(
        &database.pool,
        r#"INSERT INTO picket.sites (url, name) VALUES ('https://site-1.example/', 'site-1');
           INSERT INTO picket.channels (name, kind) VALUES ('duty', 'pagerduty'), ('ops', 'slack');
           INSERT INTO picket.routes (name, channels) VALUES ('all', '{duty,ops}');
           INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
           SELECT id, now(), now(), 'connect', 'refused', '{eu}' FROM picket.sites;
           UPDATE picket.incidents SET closed_at = now()"#,
    )
    .await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    execute(
        &database.pool,
        "UPDATE picket.notices SET state = 'delivered', ended_at = now(), notification_id = gen_random_uuid();
         INSERT INTO picket.notifications (notification_id, channel, lane, purpose, state, ended_at)
         SELECT notification_id, channel, lane, 'alert', 'delivered', now() FROM picket.notices",
    )
    .await;

    let message: Uuid = sqlx::query_scalar(
        "SELECT notification_id FROM picket.notices JOIN picket.transitions USING (transition_id)
         WHERE channel = 'duty' AND NOT is_end",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    let end = AttemptEnd {
        number: 1,
        outcome: "delivered",
        status: None,
        message: String::new(),
        retry_after_ms: None,
    };
    lanes::end_attempt(&database.store, message, &end).await.unwrap();

    let waiting = "SELECT string_agg(channel || ' ' || event, ', ') FROM picket.notices JOIN picket.transitions USING (transition_id)
                   WHERE state = 'waiting'";
    assert_eq!(query_text(&database.pool, waiting).await.as_deref(), Some("duty incident.closed"));
    claim_lane_of(&database.store, "duty").await;
}

/// An open incident that is planned for a channel of people.
const OPEN_INCIDENT: &str = r#"INSERT INTO picket.sites (url, name) VALUES ('https://site-1.example/', 'site-1');
    INSERT INTO picket.channels (name, kind) VALUES ('ops', 'slack'), ('desk', 'slack');
    INSERT INTO picket.routes (name, channels) VALUES ('all', '{ops,desk}');
    INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
    SELECT id, clock_timestamp(), clock_timestamp(), 'connect', 'connection refused', '{eu}' FROM picket.sites"#;

#[tokio::test]
async fn reminders_and_escalations_go_on_when_an_acknowledgement_is_withdrawn_while_the_incident_lasts() {
    let database = new_database().await;
    execute(&database.pool, OPEN_INCIDENT).await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    let suppress = "INSERT INTO picket.acknowledgements (incident_id) SELECT incident_id FROM picket.incidents;
        INSERT INTO picket.notices (transition_id, channel, step, number, route, lane, due_at, state, reason, ended_at)
        SELECT transition_id, channel, 'reminder', 1, route, lane, now(), 'suppressed', 'acknowledged', now()
        FROM picket.notices WHERE channel = 'ops'";
    execute(&database.pool, suppress).await;

    execute(&database.pool, "DELETE FROM picket.acknowledgements").await;

    let reminders = "SELECT state || coalesce(reason, '') FROM picket.notices WHERE step = 'reminder'";
    assert_eq!(query_text(&database.pool, reminders).await.as_deref(), Some("waiting"));
}

#[tokio::test]
async fn a_retry_finds_the_notices_of_its_channel_that_were_given_up_by_themselves() {
    let database = new_database().await;
    execute(&database.pool, OPEN_INCIDENT).await;
    while lanes::plan_notices(&database.store).await.unwrap() > 0 {}
    // The message went on without them, and was delivered.
    let give_up = "INSERT INTO picket.notifications (notification_id, channel, lane, purpose, state, ended_at)
        SELECT gen_random_uuid(), name, 0, 'alert', 'delivered', now() FROM picket.channels;
        UPDATE picket.notices SET state = 'failed', reason = 'exhausted', ended_at = now(), first_attempt_at = now() - interval '1 day',
            notification_id = (SELECT notification_id FROM picket.notifications AS message WHERE message.channel = notices.channel)";
    execute(&database.pool, give_up).await;

    execute(&database.pool, "SELECT picket.retry_failed(NULL, 'ops', now() - interval '1 hour')").await;

    let states = "SELECT string_agg(channel || ' ' || state || ' ' || (first_attempt_at IS NULL), ', ' ORDER BY channel)
                  FROM picket.notices";
    assert_eq!(
        query_text(&database.pool, states).await.as_deref(),
        Some("desk failed false, ops waiting true")
    );
}

#[tokio::test]
async fn a_channel_without_a_delivery_for_long_counts_as_failing_between_two_attempts_and_says_since_when() {
    let database = new_database().await;
    execute(&database.pool, OPEN_INCIDENT).await;
    execute(&database.pool, "UPDATE picket.channel_states SET failing_since = now() - interval '16 minutes', last_error = '500' WHERE channel = 'ops'").await;

    lanes::mark_failing_channels(&database.store, std::time::Duration::from_secs(900)).await.unwrap();
    lanes::mark_failing_channels(&database.store, std::time::Duration::from_secs(900)).await.unwrap();

    let events = "SELECT string_agg(event || ' ' || (payload ->> 'channel'), ', ') FROM picket.transitions WHERE event LIKE 'channel.%'";
    assert_eq!(query_text(&database.pool, events).await.as_deref(), Some("channel.failing ops"));
    execute(&database.pool, "UPDATE picket.channel_lanes SET due_at = now()").await;
    let lane = claim_lane_of(&database.store, "ops").await;
    let works = lanes::LaneWork {
        channel: Some(lanes::ChannelChange {
            succeeded: Some(true),
            is_failing: Some(false),
            ..lanes::ChannelChange::default()
        }),
        ..lanes::LaneWork::default()
    };
    let lease = std::time::Duration::from_secs(30);
    assert!(lanes::write_lane_work(&database.store, &lane, &works, lease).await.unwrap());
    let lasted =
        "SELECT (payload ->> 'at')::timestamptz - (payload ->> 'since')::timestamptz > interval '15 minutes'
                  FROM picket.transitions WHERE event = 'channel.working'";
    assert_eq!(query_text(&database.pool, lasted).await.as_deref(), Some("true"));
}

#[tokio::test]
async fn a_silence_of_all_sites_silences_no_event_of_picket_itself() {
    let database = new_database().await;
    execute(
        &database.pool,
        "INSERT INTO picket.silences (all_sites, starts_at, ends_at, reason) VALUES (true, now(), now() + interval '1 h', 'x')",
    )
    .await;

    let silenced = "SELECT picket.silenced_until(1, '{}', now()) IS NOT NULL || ' ' || (picket.silenced_until(NULL, '{}', now()) IS NOT NULL)";
    assert_eq!(query_text(&database.pool, silenced).await.as_deref(), Some("true false"));
}
