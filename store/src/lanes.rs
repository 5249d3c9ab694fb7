//! The work of notifiers: planning of notices, and lanes of channels in which one notifier at a
//! time delivers them.
//!
//! All times are those of the database's clock, so that notifiers whose clocks differ agree.

mod backlog;
mod contents;
mod details;
mod pings;
mod work;

use std::time::Duration;

use serde_json::Value;
use sqlx::{
    PgConnection,
    types::{Json, Uuid},
};

pub use self::{
    backlog::{Backlog, list_channel_failures, read_backlog},
    contents::{
        Lane, LaneChannel, LaneContents, LaneNotice, NoticeKey, NoticeStep, StormOutages, WaitingMessage,
    },
    details::{OutageDetails, find_thread, read_outage_details},
    pings::{
        FiringEvent, PingedChannel, find_chain_problem, list_firing_events, record_due_events, take_pings,
    },
    work::{
        AddedNotice, AttemptEnd, AttemptStart, ChannelChange, LaneWork, NoticeChange, NoticeState,
        NotificationChange,
    },
};
use crate::{DbTimestamp, Error, Store};

const LANE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most notices looked at together.
const MAX_NOTICES: i64 = 20_000;
/// Most transitions that one plan covers.
const MAX_PLANNED: i32 = 2_000;

/// Writes the notices of transitions without; returns the number of transitions. The caller repeats
/// until it is zero.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn plan_notices(store: &Store) -> Result<i32, Error> {
    let query = sqlx::query_scalar("SELECT picket.plan_notices($1)").bind(MAX_PLANNED).fetch_one(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "plan the notices", query).await
}

/// Leases a lane in which there is something to do, of a channel of which this notifier has fewer than
/// `most_lanes`; one that fails only if `with_failing`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn claim_lane(
    store: &Store,
    notifier: &str,
    lease: Duration,
    most_lanes: i32,
    with_failing: bool,
) -> Result<Option<Lane>, Error> {
    let query =
        sqlx::query_as("SELECT channel, lane, epoch, is_failing FROM picket.claim_lane($1, $2, $3, $4)")
            .bind(notifier)
            .bind(to_millis(lease))
            .bind(most_lanes)
            .bind(with_failing)
            .fetch_optional(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "claim a lane", query).await
}

/// Ends the lease of a lane; false if another notifier has leased it since.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn release_lane(store: &Store, lane: &Lane) -> Result<bool, Error> {
    let query = sqlx::query_scalar("SELECT picket.release_lane($1, $2, $3)")
        .bind(&lane.channel)
        .bind(lane.lane)
        .bind(lane.epoch)
        .fetch_one(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "release a lane", query).await
}

/// Writes what was decided or learnt in a lane, and extends its lease; false, and nothing is
/// written, if another notifier has leased it since.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn write_lane_work(
    store: &Store,
    lane: &Lane,
    work: &LaneWork,
    lease: Duration,
) -> Result<bool, Error> {
    let query = sqlx::query_scalar("SELECT picket.write_lane_work($1, $2, $3, $4, $5)")
        .bind(&lane.channel)
        .bind(lane.lane)
        .bind(lane.epoch)
        .bind(Json(work))
        .bind(to_millis(lease))
        .fetch_one(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "write the notices of a lane", query).await
}

/// Records the end of an attempt whose lane another notifier has leased since. A
/// program that was told of the end meanwhile is told of the end once more.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn end_attempt(store: &Store, notification: Uuid, end: &AttemptEnd) -> Result<(), Error> {
    let query = sqlx::query("SELECT picket.end_attempt($1, $2), picket.repeat_end($1)")
        .bind(notification)
        .bind(Json(end))
        .execute(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "record the end of an attempt", query).await.map(drop)
}

/// Marks this notifier alive.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn mark_notifier(store: &Store, notifier: &str, version: &str) -> Result<(), Error> {
    let query =
        sqlx::query("SELECT picket.mark_notifier($1, $2)").bind(notifier).bind(version).execute(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "mark the notifier alive", query).await.map(drop)
}

/// Reads everything needed to decide what the channel is told next; `None` if the channel has been
/// removed.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn load_lane(store: &Store, lane: &Lane) -> Result<Option<LaneContents>, Error> {
    store
        .with_timeout(LANE_TIMEOUT, "read the notices of a lane", async {
            let mut transaction = store.pool.begin().await?;
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut *transaction)
                .await?;
            let channel: Option<LaneChannel> = sqlx::query_as(
                "SELECT channel.name, channel.kind, channel.settings || state.overrides AS settings, channel.enabled,
                        channel.pace_ms, state.next_send_at, state.problem, state.failing_since, state.is_failing, state.storm
                 FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
                 WHERE channel.name = $1",
            )
            .bind(&lane.channel)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(channel) = channel else { return Ok(None) };
            let now: DbTimestamp =
                sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *transaction).await?;
            let notices: Vec<LaneNotice> = sqlx::query_as(LANE_NOTICES_SQL)
                .bind(&lane.channel)
                .bind(lane.lane)
                .bind(now)
                .bind(MAX_NOTICES)
                .fetch_all(&mut *transaction)
                .await?;
            let messages: Vec<WaitingMessage> = sqlx::query_as(
                "SELECT message.notification_id, message.purpose, message.attempts, message.created_at,
                        message.receiver_ref,
                        EXISTS (SELECT FROM picket.delivery_attempts AS attempt
                                WHERE attempt.notification_id = message.notification_id
                                  -- One whose lane was taken over may have been delivered.
                                  AND (attempt.ended_at IS NULL OR attempt.outcome = 'delivered')) AS is_end_unknown
                 FROM picket.notifications AS message
                 WHERE message.channel = $1 AND message.lane = $2 AND message.state = 'waiting'",
            )
            .bind(&lane.channel)
            .bind(lane.lane)
            .fetch_all(&mut *transaction)
            .await?;
            let open_told: Vec<(String, i64)> = sqlx::query_as(
                "SELECT notice.group_key, count(*) FROM picket.incidents AS incident
                 JOIN picket.transitions AS transition
                   ON transition.incident_id = incident.incident_id AND transition.event = 'incident.opened'
                 JOIN picket.notices AS notice
                   ON notice.transition_id = transition.transition_id AND notice.channel = $1 AND notice.step = 'event'
                 WHERE incident.closed_at IS NULL AND notice.state = 'delivered' AND notice.group_key IS NOT NULL
                 GROUP BY notice.group_key",
            )
            .bind(&lane.channel)
            .fetch_all(&mut *transaction)
            .await?;
            let storm_open = match &channel.storm {
                Some(storm) => read_storm_outages(&mut transaction, &lane.channel, storm).await?,
                None => StormOutages::default(),
            };
            let oldest = notices.iter().map(|notice| notice.recorded_at).min();
            let gaps: Vec<(DbTimestamp, DbTimestamp)> =
                sqlx::query_as("SELECT gap_from, gap_to FROM picket.notification_gaps WHERE gap_to >= $1 ORDER BY gap_from")
                    .bind(oldest)
                    .fetch_all(&mut *transaction)
                    .await?;
            transaction.commit().await?;
            Ok(Some(LaneContents {
                now: now.into(),
                channel,
                notices,
                messages: messages.into_iter().map(|message| (message.notification_id, message)).collect(),
                open_told: open_told.into_iter().collect(),
                storm_open,
                gaps: gaps.into_iter().map(|(from, to)| (from.into(), to.into())).collect(),
            }))
        })
        .await
}

/// Incidents that the digests of `storm` told and whose ends are not planned yet.
async fn read_storm_outages(
    connection: &mut PgConnection,
    channel: &str,
    storm: &Value,
) -> Result<StormOutages, sqlx::Error> {
    const MAX_NAMES: i64 = 10;
    let listed = storm["digests"].as_array().into_iter().flatten();
    let digests: Vec<Uuid> = listed.filter_map(|id| id.as_str()?.parse().ok()).collect();
    let open: Vec<(Option<String>, i64)> = sqlx::query_as(
        "SELECT transition.payload ->> 'site', count(*) OVER ()
         FROM picket.notices AS notice
         JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
         WHERE notice.notification_id = ANY ($2) AND notice.channel = $1 AND notice.step = 'event' AND notice.state = 'delivered'
           AND transition.event = 'incident.opened'
           AND NOT EXISTS (SELECT FROM picket.transitions AS ended
                           WHERE ended.subject = transition.subject AND ended.is_end AND ended.planned_at IS NOT NULL)
         ORDER BY transition.transition_id LIMIT $3",
    )
    .bind(channel)
    .bind(digests)
    .bind(MAX_NAMES)
    .fetch_all(connection)
    .await?;
    Ok(StormOutages {
        count: open.first().map_or(0, |(_, count)| *count),
        names: open.into_iter().filter_map(|(name, _)| name).collect(),
    })
}

/// Notices that wait in a lane. Transitions of groups that are not due yet are read as well: an
/// incident that ends before it is due is brief. Of messages about a single event the oldest are enough.
const LANE_NOTICES_SQL: &str = "
    SELECT notice.transition_id, notice.step::text AS step, notice.number, notice.route, notice.group_key, notice.due_at,
           notice.reason, notice.notification_id, transition.event, transition.subject, transition.is_end,
           transition.incident_id, transition.site_id, transition.payload, transition.recorded_at,
           other.recorded_at AS other_recorded_at,
           CASE WHEN transition.is_end THEN twin_notice.state::text END AS begun_state,
           CASE WHEN transition.is_end THEN twin_notice.reason END AS begun_reason,
           CASE WHEN transition.is_end THEN twin_notice.notification_id END AS begun_notification,
           CASE WHEN NOT transition.is_end THEN twin_notice.state::text END AS end_state,
           EXISTS (SELECT FROM picket.acknowledgements AS acknowledgement
                   WHERE acknowledgement.incident_id = transition.incident_id) AS is_acknowledged,
           picket.silenced_until(transition.site_id, transition.tags, $3) AS silenced_until,
           picket.active_from(route.active, $3) AS active_from,
           route.wait_ms, coalesce(route.delay_ms, 0) AS delay_ms, coalesce(route.remind_ms, 3600000) AS remind_ms,
           coalesce(route.storm_after, 20) AS storm_after,
           flaps.openings AS recent_openings, flaps.since AS flap_since, flaps.down_ms AS flap_down_ms,
           CASE WHEN notice.step = 'calm' THEN
               (SELECT change.payload FROM picket.transitions AS change
                WHERE change.site_id = transition.site_id AND change.event IN ('incident.opened', 'incident.closed')
                ORDER BY change.recorded_at DESC, change.transition_id DESC LIMIT 1) END AS last_change,
           EXISTS (SELECT FROM picket.notices AS calm
                   JOIN picket.transitions AS flapped ON flapped.transition_id = calm.transition_id
                   WHERE calm.channel = $1 AND calm.lane = $2 AND calm.state = 'waiting' AND calm.step = 'calm'
                     AND flapped.site_id = transition.site_id) AS is_flapping,
           (SELECT max(change.recorded_at) FROM picket.transitions AS change
            WHERE change.site_id = transition.site_id AND change.event IN ('incident.opened', 'incident.closed'))
               AS site_changed_at,
           EXISTS (SELECT FROM picket.incidents AS incident
                   WHERE incident.site_id = transition.site_id AND incident.closed_at IS NULL) AS is_site_down,
           CASE WHEN notice.group_key IS NULL THEN
               (SELECT max(before.due_at) FROM picket.transitions AS earlier
                JOIN picket.notices AS before ON before.transition_id = earlier.transition_id
                WHERE earlier.subject = transition.subject
                  AND (earlier.transition_id < transition.transition_id
                       -- The incident is there before somebody takes care of it.
                       OR notice.step = 'acknowledgement' AND earlier.transition_id = transition.transition_id)
                  AND before.channel = $1 AND before.step = 'event' AND before.state = 'waiting') END AS blocked_until
    FROM picket.notices AS notice
    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
    LEFT JOIN picket.routes AS route ON route.name = notice.route
    LEFT JOIN LATERAL (SELECT twin.transition_id, twin.recorded_at FROM picket.transitions AS twin
                       WHERE twin.subject = transition.subject AND twin.is_end <> transition.is_end LIMIT 1) AS other ON true
    LEFT JOIN LATERAL (SELECT told.state, told.reason, told.notification_id FROM picket.notices AS told
                       WHERE told.transition_id = other.transition_id AND told.channel = notice.channel
                         AND told.step IN ('event', 'escalation')
                       ORDER BY told.state = 'delivered' DESC, told.step LIMIT 1) AS twin_notice ON true
    CROSS JOIN LATERAL (SELECT count(*) AS openings, min(incident.opened_at) AS since,
                               coalesce(sum(extract(epoch FROM least(incident.closed_at, $3) - incident.opened_at)) * 1000, 0)::bigint
                                   AS down_ms
                        FROM picket.transitions AS earlier
                        LEFT JOIN picket.incidents AS incident ON incident.incident_id = earlier.incident_id
                        WHERE (transition.event = 'incident.opened' OR notice.step = 'calm')
                          AND earlier.site_id = transition.site_id AND earlier.event = 'incident.opened'
                          AND earlier.recorded_at > transition.recorded_at - interval '1 hour'
                          AND (earlier.recorded_at <= transition.recorded_at OR notice.step = 'calm')) AS flaps
    WHERE notice.channel = $1 AND notice.lane = $2 AND notice.state = 'waiting'
      AND CASE WHEN notice.group_key IS NOT NULL THEN notice.step = 'event' OR notice.due_at <= $3
               ELSE notice.transition_id = ANY (ARRAY(
                   SELECT single.transition_id FROM picket.notices AS single
                   WHERE single.channel = $1 AND single.lane = $2 AND single.state = 'waiting'
                     AND single.group_key IS NULL AND single.due_at <= $3
                   ORDER BY single.transition_id LIMIT 50)) AND notice.due_at <= $3 END
    ORDER BY notice.transition_id, notice.step, notice.number
    LIMIT $4";

fn to_millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
