//! Change feed of sites and schedules: notifications for speed, polling for correctness.
//!
//! Each row carries the transaction that wrote it last. A reader remembers the oldest transaction
//! still running at the time of a read, and next reads all rows of that transaction and later ones.
//! No commit is missed, however late; rows read twice do no harm.

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

/// Deadline of one read. A million sites take some seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Number of changed sites read by a single statement.
const SITES_PER_QUERY: usize = 5_000;

/// Position of a reader in the change feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Hash of the cluster and its timeline. Transaction ids are valid in one cluster only, and a
    /// new timeline reuses the ids of commits that were lost.
    timeline_hash: i64,
    /// The oldest transaction still running.
    oldest_xid: i64,
}

impl Cursor {
    /// Returns true if transaction ids identify the changes since cursor `before`. Otherwise all
    /// sites have to be read again, and sites not found are gone.
    pub fn is_successor_of(self, before: Self) -> bool {
        self.timeline_hash == before.timeline_hash && self.oldest_xid >= before.oldest_xid
    }
}

/// Reads all enabled sites of `shards` with their schedules in force, and passes them to `each` one
/// by one.
///
/// # Errors
/// If the database cannot be reached, or takes too long.
pub async fn load_shards(
    store: &Store,
    shards: &[Shard],
    mut each: impl FnMut(SiteWithSchedules),
) -> Result<Cursor, Error> {
    let shards: Vec<i16> = shards.iter().map(|shard| from_shard(*shard)).collect();
    let sql = format!(
        // Sites with a problem have no schedules, and their columns may be unreadable.
        "{} WHERE site.shard = ANY ($1) AND site.enabled AND site.problem IS NULL",
        schedules::select_sql()
    );
    store
        .with_timeout(LOAD_TIMEOUT, "load schedules", async {
            let mut transaction = begin_snapshot(store).await?;
            // Read in the snapshot of the sites, so that the next read begins exactly where this
            // one ends.
            let now = read_cursor(&mut transaction).await?;
            let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(shards).fetch(&mut *transaction);
            stream_rows(rows, &mut each).await?;
            transaction.commit().await?;
            Ok(now)
        })
        .await
}

/// Reads changes since `since` among the sites of `shards`: passes current sites to `changed` and
/// deleted sites to `removed`. Passes all sites if the returned cursor is not a
/// [successor](Cursor::is_successor_of) of `since`.
///
/// # Errors
/// If the database cannot be reached, or takes too long.
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
            // All statements must see the snapshot of the cursor, or a commit between them could be
            // missed.
            let mut transaction = begin_snapshot(store).await?;
            let now = read_cursor(&mut transaction).await?;
            // Versions in the future come from another cluster, from which this database was
            // restored.
            const CHANGED_SITES_SQL: &str = "WITH span AS (
                     SELECT $1::text::xid8 AS first, pg_snapshot_xmax(pg_current_snapshot()) AS beyond
                 )
                 SELECT id FROM picket.sites, span WHERE version >= first AND version < beyond AND shard = ANY ($2)
                 UNION
                 SELECT site_id FROM picket.schedules, span
                 WHERE version >= first AND version < beyond AND shard = ANY ($2)";
            const ALL_SITES_SQL: &str = "SELECT id FROM picket.sites WHERE $1::text IS NOT NULL AND shard = ANY ($2)";
            let ids: Vec<i64> = sqlx::query_scalar(if now.is_successor_of(since) { CHANGED_SITES_SQL } else { ALL_SITES_SQL })
                .bind(since.oldest_xid.to_string())
                .bind(&shards)
                .fetch_all(&mut *transaction)
                .await?;
            let deleted: Vec<(i64, i16)> = sqlx::query_as(
                "SELECT id, shard FROM picket.retired_sites WHERE version >= $1::text::xid8
                 AND version < pg_snapshot_xmax(pg_current_snapshot()) AND shard = ANY ($2)",
            )
            .bind(since.oldest_xid.to_string())
            .bind(&shards)
            .fetch_all(&mut *transaction)
            .await?;
            // In chunks, which bounds the ids that one statement looks up.
            for chunk in ids.chunks(SITES_PER_QUERY) {
                let rows =
                    sqlx::query_as(sqlx::AssertSqlSafe(sql.clone())).bind(chunk).fetch(&mut *transaction);
                stream_rows(rows, &mut changed).await?;
            }
            deleted.into_iter()
                .for_each(|(id, shard)| removed(RemovedSite { id: SiteId(id), shard: to_shard(shard) }));
            transaction.commit().await?;
            Ok(now)
        })
        .await
}

/// Passes rows on one by one, since a chunk of sites with long bodies needs much memory.
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
    // Replaces the 30 s of the session.
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

/// A notification from the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Sites or regions have changed.
    Sites,
    /// Leases were released.
    Leases,
    /// Settings have changed.
    Settings,
    /// An event has been recorded, or there may be work in a lane of a channel.
    Notices,
    /// The connection was lost and restored; notifications may have been missed.
    Reconnected,
}

/// Listener for notifications. Notifications sent while the connection is lost are not delivered,
/// so that the caller must also poll.
pub struct ChangeListener(PgListener);

impl ChangeListener {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub async fn connect(store: &Store) -> Result<Self, Error> {
        Self::subscribe(store, &["picket_sites", "picket_leases", "picket_settings"]).await
    }

    /// Connects and subscribes to the notifications for notifiers.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub async fn connect_to_notices(store: &Store) -> Result<Self, Error> {
        Self::subscribe(store, &["picket_notices"]).await
    }

    async fn subscribe(store: &Store, channels: &[&str]) -> Result<Self, Error> {
        let listening = async {
            let mut listener = PgListener::connect_with(&store.pool).await?;
            listener.listen_all(channels.iter().copied()).await?;
            Ok(listener)
        };
        store.with_timeout(Duration::from_secs(10), "listen to the database", listening).await.map(Self)
    }

    /// Waits for the next notification.
    ///
    /// # Errors
    /// If the connection is lost and cannot be restored.
    pub async fn next_notification(&mut self) -> Result<Notification, Error> {
        let received: Option<PgNotification> =
            self.0.try_recv().await.map_err(Error::with_operation("listen to the database"))?;
        Ok(match received.as_ref().map(PgNotification::channel) {
            Some("picket_sites") => Notification::Sites,
            Some("picket_leases") => Notification::Leases,
            Some("picket_settings") => Notification::Settings,
            Some("picket_notices") => Notification::Notices,
            // `None` is the driver's sign of a new connection.
            _ => Notification::Reconnected,
        })
    }
}
