//! The watermark of stored results, kept in the database itself: after a failover or a restore it says from which message on results
//! have to be replayed.

use std::time::Duration;

use picket_proto::Timestamp;

use crate::{DbTimestamp, Error, Store};

const WATERMARK_TIMEOUT: Duration = Duration::from_secs(10);

/// A position in the stream of results: all messages up to it are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultWatermark {
    /// When the stream was created. The sequences of a recreated stream start again.
    pub stream_created_at: Timestamp,
    /// The sequence of the last message.
    pub last_sequence: u64,
}

/// Identity of the server, and its watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerWatermark {
    /// Differs after every event that may have cost commits: a restart, a promotion, a restore.
    pub server: String,
    /// Absent until a sink has written the first one.
    pub watermark: Option<ResultWatermark>,
}

/// Reads the identity of the server and the watermark.
///
/// # Errors
/// When the database cannot be reached in time.
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

/// Advances the watermark, or sets it to a position in another stream. Returns false and changes nothing if the server is no longer
/// `server`: commits that the caller relies on may be lost.
///
/// # Errors
/// When the database cannot be reached in time.
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
                     ON CONFLICT (one) DO UPDATE
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
