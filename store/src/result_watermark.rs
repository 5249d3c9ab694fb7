//! Watermark of stored results. Stored in the database itself: after a failover or a restore,
//! results have to be replayed from this position.

use std::time::Duration;

use picket_proto::Timestamp;

use crate::{DbTimestamp, Error, Store};

const WATERMARK_TIMEOUT: Duration = Duration::from_secs(10);

/// A position in the result stream: all messages up to this one are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultWatermark {
    /// Creation time of the stream. A recreated stream restarts its sequence numbers.
    pub stream_created_at: Timestamp,
    /// Sequence number of the last stored message.
    pub last_sequence: u64,
}

/// Identity of the server, and its watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerWatermark {
    /// Changes with every event that may lose commits: a restart, a promotion, a restore.
    pub server: String,
    /// Absent until a sink writes the first watermark.
    pub watermark: Option<ResultWatermark>,
}

/// Reads the identity of the server and the watermark.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn load_watermark(store: &Store) -> Result<ServerWatermark, Error> {
    let (server, created, through): (String, Option<DbTimestamp>, Option<i64>) = store
        .with_timeout(
            WATERMARK_TIMEOUT,
            "read the watermark of results",
            sqlx::query_as(
                "SELECT picket.server_run(), stored.stream_created, stored.through
                 FROM (SELECT) AS one LEFT JOIN picket.results_stored AS stored ON true",
            )
            .fetch_one(&store.pool),
        )
        .await?;
    let watermark = created.zip(through).map(|(created, through)| ResultWatermark {
        stream_created_at: created.into(),
        last_sequence: through.unsigned_abs(),
    });
    Ok(ServerWatermark { server, watermark })
}

/// Advances the watermark, or moves it to a position in another stream. Returns false without any
/// change if the server is not `server` any more, because commits required by the caller may be
/// lost.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn advance_watermark(store: &Store, server: &str, to: ResultWatermark) -> Result<bool, Error> {
    let moved = store
        .with_timeout(
            WATERMARK_TIMEOUT,
            "advance the watermark of results",
            sqlx::query_scalar(
                "WITH here AS MATERIALIZED (SELECT picket.server_run() = $1 AS same),
                 moved AS (
                     INSERT INTO picket.results_stored AS kept (stream_created, through)
                     SELECT $2, $3 FROM here WHERE same
                     ON CONFLICT (singleton) DO UPDATE
                     SET stream_created = excluded.stream_created, through = excluded.through, noted_at = clock_timestamp()
                     WHERE kept.stream_created <> excluded.stream_created OR kept.through < excluded.through
                 )
                 SELECT same FROM here",
            )
            .bind(server)
            .bind(DbTimestamp(to.stream_created_at))
            .bind(i64::try_from(to.last_sequence).unwrap_or(i64::MAX))
            .fetch_one(&store.pool),
        )
        .await?;
    Ok(moved)
}
