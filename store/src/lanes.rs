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

use sqlx::types::{Json, Uuid};

pub use self::{
    backlog::{Backlog, list_channel_failures, read_backlog},
    contents::{Lane, LaneChannel, LaneContents, LaneNotice, NoticeKey, NoticeStep, WaitingMessage},
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

/// Records the end of an attempt whose lane another notifier has leased since.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn end_attempt(store: &Store, notification: Uuid, end: &AttemptEnd) -> Result<(), Error> {
    let query = sqlx::query("SELECT picket.end_attempt($1, $2)")
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
                gaps: gaps.into_iter().map(|(from, to)| (from.into(), to.into())).collect(),
            }))
        })
        .await
}

/// Notices that wait in a lane. Transitions of groups that are not due yet are read as well: an
/// incident that ends before it is due is brief. Of messages about a single event the oldest are enough.
const LANE_NOTICES_SQL: &str = "
    SELECT notice.transition_id, notice.step::text AS step, notice.number, notice.route, notice.group_key, notice.due_at,
           notice.reason, notice.notification_id, transition.event, transition.subject, transition.is_end,
           transition.incident_id, transition.site_id, transition.payload, transition.recorded_at,
           other.recorded_at AS other_recorded_at, begun.state::text AS begun_state, begun.reason AS begun_reason,
           EXISTS (SELECT FROM picket.acknowledgements AS acknowledgement
                   WHERE acknowledgement.incident_id = transition.incident_id) AS is_acknowledged,
           picket.silenced_until(transition.site_id, transition.tags, $3) AS silenced_until,
           picket.active_from(route.active, $3) AS active_from,
           route.wait_ms, coalesce(route.delay_ms, 0) AS delay_ms, coalesce(route.remind_ms, 3600000) AS remind_ms,
           coalesce(route.storm_after, 20) AS storm_after,
           CASE WHEN transition.event = 'incident.opened' THEN
               (SELECT count(*) FROM picket.transitions AS earlier
                WHERE earlier.site_id = transition.site_id AND earlier.event = 'incident.opened'
                  AND earlier.recorded_at > transition.recorded_at - interval '1 hour'
                  AND earlier.recorded_at <= transition.recorded_at) ELSE 0 END AS recent_openings,
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
                WHERE earlier.subject = transition.subject AND earlier.transition_id < transition.transition_id
                  AND before.channel = $1 AND before.step = 'event' AND before.state = 'waiting') END AS blocked_until
    FROM picket.notices AS notice
    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
    LEFT JOIN picket.routes AS route ON route.name = notice.route
    LEFT JOIN LATERAL (SELECT twin.transition_id, twin.recorded_at FROM picket.transitions AS twin
                       WHERE twin.subject = transition.subject AND twin.is_end <> transition.is_end LIMIT 1) AS other ON true
    LEFT JOIN LATERAL (SELECT told.state, told.reason FROM picket.notices AS told
                       WHERE transition.is_end AND told.transition_id = other.transition_id AND told.channel = notice.channel
                         AND told.step IN ('event', 'escalation')
                       ORDER BY told.state = 'delivered' DESC, told.step LIMIT 1) AS begun ON true
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
