//! Reading of a lane before a decision.

use picket_proto::ChannelKind;
use serde_json::Value;
use sqlx::{PgConnection, types::Uuid};

use super::{
    LANE_TIMEOUT,
    contents::{Gap, Lane, LaneChannel, LaneContents, LaneNotice, StormOutages, WaitingMessage},
};
use crate::{DbTimestamp, Error, Store};

/// Most notices read together, and told by a single message: bounds the memory of a notifier in a
/// storm.
const PAGE_NOTICES: i64 = 4_000;

/// Reads everything needed for the next decision on a lane; `None` if the channel has been removed.
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
                        channel.pace_ms, channel.created_at, state.next_send_at, state.problem, state.is_gone,
                        state.failing_since, state.is_failing, state.last_delivered_at, state.storm
                 FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
                 WHERE channel.name = $1",
            )
            .bind(&lane.channel)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(channel) = channel else { return Ok(None) };
            let now: DbTimestamp =
                sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *transaction).await?;
            // Channels that attach the full list need the text of every event.
            let lists_all =
                matches!(channel.known_kind(), Some(ChannelKind::Email | ChannelKind::Exec));
            let notices: Vec<LaneNotice> = sqlx::query_as(LANE_NOTICES_SQL)
                .bind(&lane.channel)
                .bind(lane.lane)
                .bind(now)
                .bind(PAGE_NOTICES)
                .bind(lists_all)
                .fetch_all(&mut *transaction)
                .await?;
            let found = i64::try_from(notices.len()).unwrap_or(i64::MAX);
            let all: i64 = match found >= PAGE_NOTICES {
                true => {
                    sqlx::query_scalar(COUNT_NOTICES_SQL)
                        .bind(&lane.channel)
                        .bind(lane.lane)
                        .bind(now)
                        .fetch_one(&mut *transaction)
                        .await?
                }
                false => found,
            };
            let messages: Vec<WaitingMessage> = sqlx::query_as(
                "SELECT message.notification_id, message.purpose, message.attempts, message.receiver_ref, message.contents,
                        message.may_have_arrived OR EXISTS (SELECT FROM picket.delivery_attempts AS attempt
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
            let gaps: Vec<Gap> = match notices.iter().any(|notice| notice.group_key.is_some()) {
                true => {
                    sqlx::query_as(GAPS_SQL)
                        .bind(&lane.channel)
                        .bind(channel.last_delivered_at.unwrap_or(channel.created_at))
                        .fetch_all(&mut *transaction)
                        .await?
                }
                false => Vec::new(),
            };
            transaction.commit().await?;
            Ok(Some(LaneContents {
                now: now.into(),
                channel,
                notices,
                more_notices: all - found,
                messages: messages.into_iter().map(|message| (message.notification_id, message)).collect(),
                open_told: open_told.into_iter().collect(),
                storm_open,
                gaps,
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

/// A page of the waiting notices of a lane. Due notices come first: notices held back by a silence, by
/// hours or by a pause are not read before their time, in any number. Beginnings of a group still
/// collecting are read as well, because they extend the wait. An end is read with its beginning, because a
/// single line tells both. Of messages about a single event the oldest are enough.
///
/// Events of people's channels are reduced to the fields of counts and titles; [`super::read_events`] has the
/// rest.
const LANE_NOTICES_SQL: &str = "
    WITH page AS MATERIALIZED (
        SELECT * FROM picket.notices AS notice
        WHERE notice.channel = $1 AND notice.lane = $2 AND notice.state = 'waiting'
          AND CASE WHEN notice.group_key IS NOT NULL
                   THEN notice.due_at <= $3 OR notice.step = 'event' AND (notice.reason IS NULL OR notice.reason = 'storm')
                   ELSE notice.due_at <= $3 AND notice.transition_id = ANY (ARRAY(
                       SELECT single.transition_id FROM picket.notices AS single
                       WHERE single.channel = $1 AND single.lane = $2 AND single.state = 'waiting'
                         AND single.group_key IS NULL AND single.due_at <= $3
                       ORDER BY single.transition_id LIMIT 50)) END
        ORDER BY notice.due_at <= $3 DESC, coalesce(notice.beginning_id, notice.transition_id)
        FETCH FIRST ($4) ROWS WITH TIES
    ),
    flapping AS MATERIALIZED (
        SELECT DISTINCT flapped.site_id FROM picket.notices AS calm
        JOIN picket.transitions AS flapped ON flapped.transition_id = calm.transition_id
        WHERE calm.channel = $1 AND calm.lane = $2 AND calm.state = 'waiting' AND calm.step = 'calm' AND flapped.site_id IS NOT NULL
    )
    SELECT notice.transition_id, notice.step::text AS step, notice.number, notice.route, notice.route_id, notice.group_key,
           notice.due_at, notice.reason, notice.notification_id, notice.first_attempt_at, transition.event, transition.subject,
           transition.is_end, transition.incident_id, transition.site_id,
           CASE WHEN notice.group_key IS NULL OR $5 THEN transition.payload
                ELSE jsonb_strip_nulls(jsonb_build_object(
                    'site', transition.payload -> 'site', 'region', transition.payload -> 'region',
                    'channel', transition.payload -> 'channel', 'cause', transition.payload -> 'cause',
                    'kind', transition.payload -> 'kind', 'regions', transition.payload -> 'regions',
                    'tags', transition.payload -> 'tags', 'unwatched', transition.payload -> 'unwatched')) END AS payload,
           transition.recorded_at,
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
           coalesce(transition.site_id IN (SELECT flapping.site_id FROM flapping), false) AS is_flapping,
           CASE WHEN notice.step = 'calm' THEN
               (SELECT max(change.recorded_at) FROM picket.transitions AS change
                WHERE change.site_id = transition.site_id AND change.event IN ('incident.opened', 'incident.closed')) END
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
    FROM page AS notice
    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
    LEFT JOIN picket.known_routes AS route ON route.route_id = notice.route_id
    LEFT JOIN LATERAL (SELECT twin.transition_id, twin.recorded_at FROM picket.transitions AS twin
                       WHERE twin.subject = transition.subject AND twin.is_end <> transition.is_end
                         -- A beginning is over once its end is planned, so that one message tells both.
                         AND (transition.is_end OR twin.planned_at IS NOT NULL) LIMIT 1) AS other ON true
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
    ORDER BY notice.transition_id, notice.step, notice.number";

/// Number of the people's notices of a lane, of which a full page is the first part.
const COUNT_NOTICES_SQL: &str = "
    SELECT count(*) FROM picket.notices AS notice
    WHERE notice.channel = $1 AND notice.lane = $2 AND notice.state = 'waiting' AND notice.group_key IS NOT NULL
      AND (notice.due_at <= $3 OR notice.step = 'event' AND (notice.reason IS NULL OR notice.reason = 'storm'))";

/// Times without notifiers in which an event of the channel was recorded, and since which nothing has been
/// delivered; the newest few.
const GAPS_SQL: &str = "
    SELECT gap.gap_from, gap.gap_to, told.ended, down.number AS down
    FROM picket.notification_gaps AS gap
    CROSS JOIN LATERAL (
        SELECT count(*) AS begun,
               count(*) FILTER (WHERE transition.event = 'incident.opened' AND EXISTS (
                   SELECT FROM picket.transitions AS ended
                   WHERE ended.subject = transition.subject AND ended.is_end AND ended.recorded_at <= gap.gap_to)) AS ended
        FROM picket.transitions AS transition
        JOIN picket.notices AS notice
          ON notice.transition_id = transition.transition_id AND notice.channel = $1 AND notice.step = 'event'
        WHERE transition.recorded_at BETWEEN gap.gap_from AND gap.gap_to) AS told
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM picket.incidents AS incident
        WHERE incident.closed_at IS NULL
          AND EXISTS (SELECT FROM picket.transitions AS opened
                      JOIN picket.notices AS notice ON notice.transition_id = opened.transition_id AND notice.channel = $1
                      WHERE opened.incident_id = incident.incident_id AND notice.step = 'event')) AS down
    WHERE gap.gap_to >= $2 AND told.begun > 0
    ORDER BY gap.gap_from DESC LIMIT 3";
