//! The ledger: what became of every tick. It is closed by the holders of the shards, a piece at a time, and can be read
//! for any span that is over.

use std::time::Duration;

use picket_proto::{Epoch, Shard, Timestamp};
use serde::Serialize;

use crate::{
    DbTimestamp, Error, Store,
    leases::{from_shard, to_millis},
};

/// What closing a piece came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseSummary {
    /// How long ago the ticks were due up to which all are accounted for, in the shard that could be moved and is furthest
    /// behind; absent when none is held.
    pub lag: Option<Duration>,
    /// Rows written, by cause.
    pub missed_by_cause: Vec<(String, u64)>,
}

/// A span in which ticks of a shard may not have been published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub shard: Shard,
    /// Ticks after this.
    pub from: Timestamp,
    /// Up to this.
    pub to: Timestamp,
}

/// A row of `report.ledger`, or a sum of such rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LedgerRow {
    /// The site; absent in a sum over sites.
    pub site_id: Option<i64>,
    /// Where.
    pub region: String,
    /// Ticks that should have been.
    pub expected: i64,
    /// Rows by outcome.
    pub up: i64,
    /// Rows by outcome.
    pub down: i64,
    /// Rows by outcome.
    pub missed: i64,
    /// Ticks without a row that lie in a gap.
    pub gap: i64,
    /// Ticks without a row.
    pub unaccounted: i64,
}

/// A piece is to take far less than this.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);

/// Closes the ledger of `held`, from where each shard stands: up to `grace` ago, and by at most `piece` for those that
/// are furthest behind. Results stored by the bus before `late_since` are all in the database; without it all are.
/// `None` when not all of `held` are held by `who` any more; then nothing was changed.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn close_interval(
    store: &Store,
    who: &str,
    held: &[(Shard, Epoch)],
    grace: Duration,
    piece: Duration,
    late_since: Option<Timestamp>,
) -> Result<Option<CloseSummary>, Error> {
    /// What `picket.close_ledger` says of a shard that was lost.
    const FENCED: &str = "55000";

    type Answer = (Option<i64>, Option<Vec<String>>, Option<Vec<i64>>);
    let closing = store
        .with_timeout(
            LEDGER_TIMEOUT,
            "close the ledger",
            sqlx::query_as::<_, Answer>(
                "SELECT picket.micros(clock_timestamp()) - picket.micros(accounted_through), causes, ticks FROM picket.close_ledger(
                     $1, $2, $3, $4 * interval '1 millisecond', $5 * interval '1 millisecond', $6)",
            )
            .bind(who)
            .bind(held.iter().map(|(shard, _)| from_shard(*shard)).collect::<Vec<_>>())
            .bind(held.iter().map(|(_, epoch)| epoch.0).collect::<Vec<_>>())
            .bind(to_millis(grace))
            .bind(to_millis(piece))
            .bind(late_since.map(DbTimestamp))
            .fetch_one(&store.pool),
        )
        .await;
    let (behind_us, causes, ticks) = match closing {
        Err(Error::Database { source: sqlx::Error::Database(why), .. })
            if why.code().as_deref() == Some(FENCED) =>
        {
            return Ok(None);
        }
        closing => closing?,
    };
    let ticks = ticks.unwrap_or_default().into_iter().map(i64::unsigned_abs);
    Ok(Some(CloseSummary {
        lag: behind_us.map(|us| Duration::from_micros(us.max(0).unsigned_abs())),
        missed_by_cause: causes.unwrap_or_default().into_iter().zip(ticks).collect(),
    }))
}

/// Writes down spans in which ticks may not have been published, of shards that had any.
///
/// # Errors
/// When the database cannot be reached in time; trying again is safe.
pub async fn record_gaps(store: &Store, gaps: &[Gap]) -> Result<(), Error> {
    store
        .with_timeout(
            LEDGER_TIMEOUT,
            "write gaps down",
            sqlx::query(
                "INSERT INTO picket.gaps (shard, gap_from, gap_to)
                 SELECT shard, gap_from, max(gap_to)
                 FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[]) AS gap (shard, gap_from, gap_to)
                 WHERE picket.had_schedules(shard, gap_from)
                 GROUP BY shard, gap_from
                 ON CONFLICT (shard, gap_from) DO UPDATE SET gap_to = greatest(gaps.gap_to, excluded.gap_to)",
            )
            .bind(gaps.iter().map(|gap| from_shard(gap.shard)).collect::<Vec<_>>())
            .bind(gaps.iter().map(|gap| DbTimestamp(gap.from)).collect::<Vec<_>>())
            .bind(gaps.iter().map(|gap| DbTimestamp(gap.to)).collect::<Vec<_>>())
            .execute(&store.pool),
        )
        .await?;
    Ok(())
}

/// The database's clock, and the moment up to which the ledger of every shard that has schedules is closed.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn read_accounted_through(store: &Store) -> Result<(Timestamp, Option<Timestamp>), Error> {
    let (now, through): (DbTimestamp, Option<DbTimestamp>) = store
        .with_timeout(
            LEDGER_TIMEOUT,
            "read how far the ledger is closed",
            sqlx::query_as(
                "SELECT now(), (SELECT min(accounted_through) FROM picket.leases AS lease
                                WHERE EXISTS (SELECT FROM picket.schedules AS schedule
                                              WHERE schedule.shard = lease.shard AND schedule.valid_to IS NULL))",
            )
            .fetch_one(&store.pool),
        )
        .await?;
    Ok((now.into(), through.map(Timestamp::from)))
}

/// The ledger of a span, summed up by region.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_by_region(store: &Store, from: Timestamp, to: Timestamp) -> Result<Vec<LedgerRow>, Error> {
    fetch_ledger(
        store,
        "SELECT NULL::bigint AS site_id, region, sum(expected)::bigint AS expected, sum(up)::bigint AS up,
                sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
                sum(unaccounted)::bigint AS unaccounted
         FROM report.ledger($1, $2) GROUP BY region ORDER BY region",
        from,
        to,
    )
    .await
}

/// The ledger of a span, by site and region.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list_by_site(store: &Store, from: Timestamp, to: Timestamp) -> Result<Vec<LedgerRow>, Error> {
    fetch_ledger(
        store,
        "SELECT site_id, region, expected, up, down, missed, gap, unaccounted
         FROM report.ledger($1, $2) ORDER BY unaccounted = 0, site_id, region",
        from,
        to,
    )
    .await
}

async fn fetch_ledger(
    store: &Store,
    sql: &'static str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<LedgerRow>, Error> {
    store
        .with_timeout(
            LEDGER_TIMEOUT,
            "read the ledger",
            sqlx::query_as(sql).bind(DbTimestamp(from)).bind(DbTimestamp(to)).fetch_all(&store.pool),
        )
        .await
}

/// How many ticks of a span were missed, by region and cause, the most frequent first.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn count_missed_by_cause(
    store: &Store,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<(String, String, i64)>, Error> {
    store
        .with_timeout(
            LEDGER_TIMEOUT,
            "read why ticks were missed",
            sqlx::query_as(
                "SELECT region.name, cause::text, count(*) AS ticks
                 FROM picket.tick_results AS result JOIN picket.regions AS region ON region.id = result.region_id
                 WHERE scheduled_at > $1 AND scheduled_at <= $2 AND outcome = 'missed'
                 GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
            )
            .bind(DbTimestamp(from))
            .bind(DbTimestamp(to))
            .fetch_all(&store.pool),
        )
        .await
}
