//! What waits to be told and which channels fail, for metrics and alerts.

use super::LANE_TIMEOUT;
use crate::{Error, Store};

/// What waits to be told.
#[derive(Clone, Debug, Default, PartialEq, sqlx::FromRow)]
pub struct Backlog {
    /// Notices that are due and wait.
    pub waiting: i64,
    /// Seconds since the oldest of them was due.
    pub oldest_seconds: Option<f64>,
    /// Transitions without notices.
    pub unplanned: i64,
}

/// Reads what waits to be told. Notices that wait for silences, hours or digests are not counted.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_backlog(store: &Store) -> Result<Backlog, Error> {
    let query = sqlx::query_as(
        "SELECT count(*) AS waiting, extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest_seconds,
                (SELECT count(*) FROM picket.transitions WHERE planned_at IS NULL) AS unplanned
         FROM picket.notices WHERE state = 'waiting' AND due_at <= clock_timestamp()",
    );
    store.with_timeout(LANE_TIMEOUT, "read what waits to be told", query.fetch_one(&store.pool)).await
}

/// Lists all channels, each with whether it counts as failing.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_channel_failures(store: &Store) -> Result<Vec<(String, bool)>, Error> {
    let query = sqlx::query_as("SELECT channel, is_failing FROM picket.channel_states ORDER BY channel");
    store.with_timeout(LANE_TIMEOUT, "read which channels fail", query.fetch_all(&store.pool)).await
}
