//! What has changed among sites and schedules: notified for speed, polled for truth.
//!
//! Each row carries the transaction that wrote it last. A reader remembers the oldest transaction that was still
//! running when it looked, and next time reads all rows of that one and later ones: no commit is missed, however
//! late it comes; what is read twice does no harm.

use std::time::Duration;

use futures_core::stream::BoxStream;
use picket_proto::{Shard, SiteId};
use sqlx::{
    Postgres, Transaction,
    postgres::{PgListener, PgNotification},
};

use crate::{
    Error, Store,
    leases::{from_shard, to_shard},
    schedules::{self, RemovedSite, SiteWithSchedules},
};

/// Nothing is read in one go that takes longer; a million sites take some seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How many changed sites are read in one statement.
const SITES_PER_QUERY: usize = 5_000;

/// How far a reader has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Hash of the cluster and its timeline. Transaction numbers are valid in one cluster alone, and a new timeline reuses the numbers
    /// of commits that it lost.
    timeline_hash: i64,
    /// The oldest transaction that was still running.
    oldest_xid: i64,
}

impl Cursor {
    /// Whether transaction numbers tell what changed between the two snapshots. Otherwise all sites have to be read again, and sites
    /// that are not found are gone.
    pub fn is_successor_of(self, before: Self) -> bool {
        self.timeline_hash == before.timeline_hash && self.oldest_xid >= before.oldest_xid
    }
}

/// Reads all sites of `shards` with their schedules in force, one after the other into `each`.
///
/// # Errors
/// When the database cannot be reached, or takes too long.
pub async fn load_shards(
    store: &Store,
    shards: &[Shard],
    mut each: impl FnMut(SiteWithSchedules),
) -> Result<Cursor, Error> {
    let shards: Vec<i16> = shards.iter().map(|shard| from_shard(*shard)).collect();
    let sql = format!(
        "{} WHERE site.shard = ANY ($1) AND site.enabled AND site.problem IS NULL",
        schedules::select_sql()
    );
    store
        .with_timeout(LOAD_TIMEOUT, "load schedules", async {
            let mut transaction = begin_snapshot(store).await?;
            let now = read_cursor(&mut transaction).await?;
            let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(shards).fetch(&mut *transaction);
            stream_rows(rows, &mut each).await?;
            transaction.commit().await?;
            Ok(now)
        })
        .await
}

/// Reads what may have changed since `since` among the sites of `shards`: sites as they are now into
/// `changed`, those that are gone into `removed`. All sites, where the snapshot that is returned does not
/// [follow](Snapshot::follows) `since`.
///
/// # Errors
/// When the database cannot be reached, or takes too long.
pub async fn load_changes(
    store: &Store,
    since: Cursor,
    shards: &[Shard],
    mut changed: impl FnMut(SiteWithSchedules),
    mut removed: impl FnMut(RemovedSite),
) -> Result<Cursor, Error> {
    let shards: Vec<i16> = shards.iter().map(|shard| from_shard(*shard)).collect();
    let sql = format!("{} WHERE site.id = ANY ($1)", schedules::select_sql());
    store
        .with_timeout(LOAD_TIMEOUT, "read changes of sites", async {
            let mut transaction = begin_snapshot(store).await?;
            let now = read_cursor(&mut transaction).await?;
            // Versions from the future are those of another cluster, from which this database was restored.
            const CHANGED: &str = "WITH span AS (
                     SELECT $1::text::xid8 AS first, pg_snapshot_xmax(pg_current_snapshot()) AS beyond
                 )
                 SELECT id FROM picket.sites, span WHERE version >= first AND version < beyond AND shard = ANY ($2)
                 UNION
                 SELECT site_id FROM picket.schedules, span
                 WHERE version >= first AND version < beyond AND shard = ANY ($2)";
            const ALL: &str = "SELECT id FROM picket.sites WHERE $1::text IS NOT NULL AND shard = ANY ($2)";
            let ids: Vec<i64> = sqlx::query_scalar(if now.is_successor_of(since) { CHANGED } else { ALL })
                .bind(since.oldest_xid.to_string())
                .bind(&shards)
                .fetch_all(&mut *transaction)
                .await?;
            let gone: Vec<(i64, i16)> = sqlx::query_as(
                "SELECT id, shard FROM picket.retired_sites WHERE version >= $1::text::xid8
                 AND version < pg_snapshot_xmax(pg_current_snapshot()) AND shard = ANY ($2)",
            )
            .bind(since.oldest_xid.to_string())
            .bind(&shards)
            .fetch_all(&mut *transaction)
            .await?;
            for chunk in ids.chunks(SITES_PER_QUERY) {
                let rows =
                    sqlx::query_as(sqlx::AssertSqlSafe(sql.clone())).bind(chunk).fetch(&mut *transaction);
                stream_rows(rows, &mut changed).await?;
            }
            gone.into_iter()
                .for_each(|(id, shard)| removed(RemovedSite { id: SiteId(id), shard: to_shard(shard) }));
            transaction.commit().await?;
            Ok(now)
        })
        .await
}

/// Hands rows over as they come: all of a chunk may have long bodies.
async fn stream_rows(
    mut rows: BoxStream<'_, Result<schedules::SiteScheduleRow, sqlx::Error>>,
    each: &mut impl FnMut(SiteWithSchedules),
) -> Result<(), sqlx::Error> {
    while let Some(row) = std::future::poll_fn(|context| rows.as_mut().poll_next(context)).await {
        each(row?.into());
    }
    Ok(())
}

async fn begin_snapshot(store: &Store) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = store.pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SET LOCAL statement_timeout = '120s'").execute(&mut *transaction).await?;
    Ok(transaction)
}

async fn read_cursor(transaction: &mut Transaction<'static, Postgres>) -> Result<Cursor, sqlx::Error> {
    let (history, oldest) = sqlx::query_as(
        "SELECT hashtextextended(picket.timeline(), 0), pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(Cursor { timeline_hash: history, oldest_xid: oldest })
}

/// What the database calls out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Sites or regions have changed.
    Sites,
    /// Leases were released.
    Leases,
    /// The connection was lost and made again: anything may have been missed.
    Reconnected,
}

/// Listens to what the database calls out. What is called while the connection is lost is not heard, so that
/// a listener must also poll.
pub struct ChangeListener(PgListener);

impl ChangeListener {
    /// Connects and listens.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(store: &Store) -> Result<Self, Error> {
        let listening = async {
            let mut listener = PgListener::connect_with(&store.pool).await?;
            listener.listen_all(["picket_sites", "picket_leases"]).await?;
            Ok(listener)
        };
        store.with_timeout(Duration::from_secs(10), "listen to the database", listening).await.map(Self)
    }

    /// Waits for the next call.
    ///
    /// # Errors
    /// When the connection is lost and cannot be made again.
    pub async fn next_notification(&mut self) -> Result<Notification, Error> {
        let heard: Option<PgNotification> =
            self.0.try_recv().await.map_err(Error::with_operation("listen to the database"))?;
        Ok(match heard.as_ref().map(PgNotification::channel) {
            Some("picket_sites") => Notification::Sites,
            Some("picket_leases") => Notification::Leases,
            _ => Notification::Reconnected,
        })
    }
}
