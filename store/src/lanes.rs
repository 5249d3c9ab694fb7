//! The work of notifiers: planning of notices, and lanes of channels in which one notifier at a
//! time delivers them.
//!
//! All times are those of the database's clock, so that notifiers whose clocks differ agree.

mod backlog;
mod work;

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{ChannelKind, Timestamp};
use serde_json::Value;
use sqlx::types::{Json, Uuid};

pub use self::{
    backlog::{Backlog, list_channel_failures, read_backlog},
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

/// A lane that this notifier has leased.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Lane {
    /// Name of the channel.
    pub channel: String,
    /// Number of the lane.
    pub lane: i16,
    /// Fences this notifier's writes.
    pub epoch: i64,
    /// True if the last attempt of the channel failed.
    pub is_failing: bool,
}

/// Everything needed to decide what a channel is told next.
#[derive(Clone, Debug)]
pub struct LaneContents {
    /// The database's clock.
    pub now: Timestamp,
    /// The channel.
    pub channel: LaneChannel,
    /// Notices that wait, the oldest transition first.
    pub notices: Vec<LaneNotice>,
    /// Messages whose attempts have not succeeded yet, by number.
    pub messages: BTreeMap<Uuid, WaitingMessage>,
    /// Number of open incidents that the channel has been told of, by group.
    pub open_told: BTreeMap<String, i64>,
    /// Spans in which no notifier ran and something was recorded that waits here.
    pub gaps: Vec<(Timestamp, Timestamp)>,
}

/// Definition and state of a channel.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LaneChannel {
    /// Name.
    pub name: String,
    /// Kind; of a later build, one that this build does not know.
    pub kind: String,
    /// Settings with the receiver's changes.
    pub settings: Json<Value>,
    /// False while paused.
    pub enabled: bool,
    /// Least time between two messages, in milliseconds; `None` for the kind's own.
    pub pace_ms: Option<i32>,
    /// Time before which nothing is sent.
    pub next_send_at: DbTimestamp,
    /// Why the channel cannot be used.
    pub problem: Option<String>,
    /// First failure since the last delivery.
    pub failing_since: Option<DbTimestamp>,
    /// True if the channel counts as failing.
    pub is_failing: bool,
    /// Storm in progress.
    pub storm: Option<Json<Value>>,
}

impl LaneChannel {
    /// The kind; `None` if this build does not know it.
    pub fn known_kind(&self) -> Option<ChannelKind> {
        self.kind.parse().ok()
    }
}

/// Key of a notice within its channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoticeKey {
    /// Number of the transition.
    pub transition_id: i64,
    /// Step.
    pub step: NoticeStep,
    /// Number of the reminder or of the step of escalation.
    pub number: i16,
}

/// Why a channel is told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeStep {
    /// The transition itself.
    Event,
    /// What began still lasts.
    Reminder,
    /// Nobody has acknowledged.
    Escalation,
    /// A site that was flapping has become steady.
    Calm,
}

impl NoticeStep {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Reminder => "reminder",
            Self::Escalation => "escalation",
            Self::Calm => "calm",
        }
    }
}

impl From<String> for NoticeStep {
    fn from(word: String) -> Self {
        match word.as_str() {
            "reminder" => Self::Reminder,
            "escalation" => Self::Escalation,
            "calm" => Self::Calm,
            // The enum type of the database contains no other word.
            _ => Self::Event,
        }
    }
}

/// A notice that waits, with what decides on it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LaneNotice {
    /// Number of the transition.
    pub transition_id: i64,
    /// Why the channel is told.
    #[sqlx(try_from = "String")]
    pub step: NoticeStep,
    /// Number of the reminder or of the step of escalation.
    pub number: i16,
    /// Name of the route.
    pub route: Option<String>,
    /// Notices with the same key share a message; `None`: a single message for each event.
    pub group_key: Option<String>,
    /// Earliest time to look at it.
    pub due_at: DbTimestamp,
    /// What it waits for, if not for its time.
    pub reason: Option<String>,
    /// The message with which it was attempted.
    pub notification_id: Option<Uuid>,
    /// Name of the event.
    pub event: String,
    /// What the event is about.
    pub subject: String,
    /// True for an end.
    pub is_end: bool,
    /// Number of the incident.
    pub incident_id: Option<i64>,
    /// Number of the site.
    pub site_id: Option<i64>,
    /// The event as published.
    pub payload: Json<Value>,
    /// Time when the transition was recorded.
    pub recorded_at: DbTimestamp,
    /// Of a beginning: time when its end was recorded. Of an end: that of its beginning.
    pub other_recorded_at: Option<DbTimestamp>,
    /// Of an end: state of the notice of its beginning; `None` if there is none.
    pub begun_state: Option<String>,
    /// Of an end: reason in that notice.
    pub begun_reason: Option<String>,
    /// True if somebody takes care of the incident.
    pub is_acknowledged: bool,
    /// End of the site's silence.
    pub silenced_until: Option<DbTimestamp>,
    /// Start of the next active hours of the route, or now; `None` if there are none in the week.
    pub active_from: Option<DbTimestamp>,
    /// Wait of the route, in milliseconds.
    pub wait_ms: Option<i32>,
    /// Delay of the route, in milliseconds.
    pub delay_ms: i32,
    /// First reminder of the route, in milliseconds; 0 for none.
    pub remind_ms: i32,
    /// More beginnings than this at once are a storm.
    pub storm_after: i32,
    /// Incidents of the site that opened in the hour before this transition, including it.
    pub recent_openings: i64,
    /// True if the channel has been told that the site is flapping.
    pub is_flapping: bool,
    /// Last opening or closing of an incident of the site.
    pub site_changed_at: Option<DbTimestamp>,
    /// True if an incident of the site is open.
    pub is_site_down: bool,
    /// Of a message about a single event: due time of an earlier event about the same subject that waits.
    pub blocked_until: Option<DbTimestamp>,
}

impl LaneNotice {
    /// Key within the channel.
    pub fn key(&self) -> NoticeKey {
        NoticeKey { transition_id: self.transition_id, step: self.step, number: self.number }
    }
}

/// A message whose attempts have not succeeded yet.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct WaitingMessage {
    /// Number.
    pub notification_id: Uuid,
    /// What it is for; `test` for one that a person asked for.
    pub purpose: String,
    /// Attempts so far.
    pub attempts: i32,
    /// Time of the first attempt.
    pub created_at: DbTimestamp,
    /// Earliest time of the next attempt.
    pub next_attempt_at: DbTimestamp,
    /// True if it is unknown whether the last attempt succeeded.
    pub is_end_unknown: bool,
    /// What the receiver gave.
    pub receiver_ref: Option<Json<Value>>,
}

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
                "SELECT message.notification_id, message.purpose, message.attempts, message.created_at, message.next_attempt_at,
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

/// What the deciding check of an incident measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct OutageDetails {
    /// Number of the incident.
    pub incident_id: i64,
    /// HTTP status.
    pub http_status: Option<i16>,
    /// Phases in microseconds.
    pub dns_us: Option<i32>,
    /// Time to connect.
    pub connect_us: Option<i32>,
    /// Time of the TLS handshake.
    pub tls_us: Option<i32>,
    /// Time to the first byte.
    pub first_byte_us: Option<i32>,
    /// Time of the transfer.
    pub transfer_us: Option<i32>,
    /// Failed checks so far; `None` for an outage of more than six hours, which would take long to count.
    pub failed_checks: Option<i64>,
}

/// Reads what the deciding checks of these incidents measured.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_outage_details(store: &Store, incidents: &[i64]) -> Result<Vec<OutageDetails>, Error> {
    let query = sqlx::query_as(
        "SELECT incident.incident_id, result.http_status, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us,
                result.transfer_us,
                CASE WHEN span.until - incident.first_failure_at <= interval '6 hours' THEN (
                    SELECT count(*) FROM picket.schedules AS schedule
                    CROSS JOIN picket.ticks(schedule.interval_ms, schedule.phase_ms, schedule.valid_from,
                                            coalesce(schedule.valid_to, 'infinity'),
                                            incident.first_failure_at - interval '1 microsecond', span.until) AS tick
                    JOIN picket.check_results AS failed
                      ON failed.scheduled_at = tick AND failed.site_id = incident.site_id
                     AND failed.region_id = schedule.region_id AND failed.kind = 'scheduled'
                    WHERE schedule.site_id = incident.site_id AND failed.outcome = 'down') END AS failed_checks
         FROM picket.incidents AS incident
         CROSS JOIN LATERAL (SELECT coalesce(incident.closed_at, clock_timestamp()) AS until) AS span
         LEFT JOIN LATERAL (SELECT * FROM picket.check_results AS deciding
                            WHERE deciding.scheduled_at = incident.opened_at AND deciding.site_id = incident.site_id
                              AND deciding.outcome = 'down' ORDER BY deciding.region_id LIMIT 1) AS result ON true
         WHERE incident.incident_id = ANY ($1)",
    );
    let query = query.bind(incidents).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "read the checks of incidents", query).await
}

/// First message to a channel about an incident, and what the receiver gave for it.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_thread(
    store: &Store,
    channel: &str,
    subject: &str,
) -> Result<Option<(Uuid, Option<Value>)>, Error> {
    let query = sqlx::query_as(
        "SELECT message.notification_id, message.receiver_ref
         FROM picket.transitions AS transition
         JOIN picket.notices AS notice ON notice.transition_id = transition.transition_id AND notice.channel = $1
         JOIN picket.notifications AS message ON message.notification_id = notice.notification_id
         WHERE transition.subject = $2 AND notice.state = 'delivered'
         ORDER BY message.created_at LIMIT 1",
    );
    let query = query.bind(channel).bind(subject).fetch_optional(&store.pool);
    let found: Option<(Uuid, Option<Json<Value>>)> =
        store.with_timeout(LANE_TIMEOUT, "find the thread of a message", query).await?;
    Ok(found.map(|(id, left)| (id, left.map(|left| left.0))))
}

/// A channel requested regularly.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PingedChannel {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Settings.
    pub settings: Json<Value>,
}

/// Takes the turns of the channels due for their regular request: watchdogs, and
/// Alertmanagers, which forget what is not repeated.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn take_pings(store: &Store, interval: Duration) -> Result<Vec<PingedChannel>, Error> {
    let query = sqlx::query_as(
        "SELECT channel.name, channel.kind, channel.settings || state.overrides AS settings
         FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
         WHERE channel.enabled AND channel.kind IN ('watchdog', 'alertmanager') AND state.problem IS NULL
           AND state.next_ping_at <= clock_timestamp() AND picket.take_ping(channel.name, $1)",
    );
    let query = query.bind(to_millis(interval)).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "take the turns of watchdogs", query).await
}

/// What keeps the whole chain from working; `None` if it works.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_chain_problem(store: &Store) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar("SELECT picket.chain_problem()").fetch_one(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "look at the whole chain", query).await
}

/// An event of which a channel has been told and that lasts, or ended lately.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FiringEvent {
    /// Name of the event.
    pub event: String,
    /// What the event is about.
    pub subject: String,
    /// True for an end.
    pub is_end: bool,
    /// Number of the incident.
    pub incident_id: Option<i64>,
    /// Number of the site.
    pub site_id: Option<i64>,
    /// The event as published.
    pub payload: Json<Value>,
    /// Time when it was recorded.
    pub recorded_at: DbTimestamp,
}

/// Lists what a channel has been told of and lasts, and the ends of the last five minutes, the newest
/// first. Warnings, regions and channels for 30 days; incidents as long as they are open.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_firing_events(store: &Store, channel: &str) -> Result<Vec<FiringEvent>, Error> {
    let query = sqlx::query_as(
        "WITH candidate AS (
             SELECT transition.* FROM picket.incidents AS incident
             JOIN picket.transitions AS transition ON transition.incident_id = incident.incident_id AND NOT transition.is_end
             WHERE incident.closed_at IS NULL
             UNION ALL
             SELECT begun.* FROM picket.transitions AS begun
             WHERE begun.recorded_at > clock_timestamp() - interval '30 days' AND begun.incident_id IS NULL AND NOT begun.is_end
               AND begun.event IN ('warning.opened', 'region.silent', 'channel.failing')
               AND NOT EXISTS (SELECT FROM picket.transitions AS ended WHERE ended.subject = begun.subject AND ended.is_end)
             UNION ALL
             SELECT ended.* FROM picket.transitions AS ended
             WHERE ended.recorded_at > clock_timestamp() - interval '5 minutes' AND ended.is_end
         )
         SELECT event, subject, is_end, incident_id, site_id, payload, recorded_at FROM candidate
         WHERE EXISTS (SELECT FROM picket.notices AS notice
                       WHERE notice.transition_id = candidate.transition_id AND notice.channel = $1
                         AND notice.step IN ('event', 'escalation') AND notice.state = 'delivered')
         ORDER BY transition_id DESC LIMIT 5000",
    );
    let query = query.bind(channel).fetch_all(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "list what is firing", query).await
}

/// Records events of certificates that end soon, and of checks unaccounted for; returns
/// their number.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_due_events(store: &Store) -> Result<i32, Error> {
    const RECORD_TIMEOUT: Duration = Duration::from_secs(25);
    let query = sqlx::query_scalar(
        "SELECT picket.record_certificate_events() + picket.record_ledger_event()::integer",
    );
    store.with_timeout(RECORD_TIMEOUT, "record due events", query.fetch_one(&store.pool)).await
}
