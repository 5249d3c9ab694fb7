//! The work of notifiers: planning of notices, and lanes of channels in which one notifier at a
//! time delivers them.
//!
//! All times are those of the database's clock, so that notifiers whose clocks differ agree.

mod backlog;
mod contents;
mod details;
mod load;
mod pings;
mod work;

use std::time::Duration;

use sqlx::types::{Json, Uuid};

pub use self::{
    backlog::{Backlog, list_channel_failures, read_backlog},
    contents::{
        Gap, Lane, LaneChannel, LaneContents, LaneNotice, NoticeKey, NoticeStep, StormOutages, WaitingMessage,
    },
    details::{OutageDetails, find_thread, read_events, read_outage_details},
    load::load_lane,
    pings::{
        FiringEvent, PingedChannel, find_chain_problem, list_firing_events, record_due_events, take_pings,
    },
    work::{
        AddedNotice, AttemptEnd, AttemptStart, ChannelChange, LaneWork, NoticeChange, NoticeState,
        NotificationChange,
    },
};
use crate::{Error, Store};

const LANE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Has what waits for a channel tried now: it delivers again.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn try_waiting(store: &Store, channel: &str) -> Result<(), Error> {
    let query = sqlx::query("SELECT picket.try_waiting($1)").bind(channel).execute(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "try what waits for a channel", query).await.map(drop)
}

/// Records that channels fail that have not delivered for so long, also between two attempts.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn mark_failing_channels(store: &Store, after: Duration) -> Result<(), Error> {
    let query =
        sqlx::query("SELECT picket.mark_failing_channels($1)").bind(to_millis(after)).execute(&store.pool);
    store.with_timeout(LANE_TIMEOUT, "mark channels that fail", query).await.map(drop)
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

/// Time until there may be work in an unleased lane; `None` if there is none. Zero for a due lane.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_next_work(store: &Store) -> Result<Option<Duration>, Error> {
    let query = sqlx::query_scalar(
        "SELECT extract(epoch FROM min(greatest(lane.due_at, lane.leased_until, state.next_send_at)) - clock_timestamp())::float8
         FROM picket.channel_lanes AS lane JOIN picket.channel_states AS state ON state.channel = lane.channel
         WHERE lane.due_at < 'infinity'",
    );
    let query = query.fetch_one(&store.pool);
    let seconds: Option<f64> = store.with_timeout(LANE_TIMEOUT, "look for the next work", query).await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}

fn to_millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
