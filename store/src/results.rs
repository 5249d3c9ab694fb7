//! Results of checks: stored exactly once, regardless of redeliveries. Unstorable messages are
//! stored as dead letters with the reason.

mod rows;
mod types;

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::RwLock;
use picket_proto::{RegionName, SiteId, Timestamp};
use sqlx::{Connection, PgConnection, pool::PoolConnection, postgres::Postgres};

pub use self::types::{IncomingResult, InsertSummary, ResultContent};
use self::{
    rows::{BatchRows, DeadLetterRow, ResultRow},
    types::{CountsByOutcome, RegionIds},
};
use crate::{
    DbTimestamp, Error, ServerGuard, Store,
    decisions::{self, Decisions, NewResult},
    error::DriverError,
    partitions, regions,
};

const INSERT_RESULTS_SQL: &str = include_str!("results/insert.sql");
const INSERT_OPERATION: &str = "store results";

/// Stores results. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResultStore {
    store: Store,
    /// Ids by name. Includes removed regions, because results in flight may name them.
    region_ids: Arc<RwLock<Arc<RegionIds>>>,
    guard: Option<ServerGuard>,
}

impl ResultStore {
    /// Maximum time of one statement before its connection is closed.
    const INSERT_TIMEOUT: Duration = Duration::from_secs(20);
    /// Maximum time to find the rows rejected by the database.
    const BISECT_TIMEOUT: Duration = Duration::from_secs(120);

    /// Creates a result store on `store`.
    pub fn new(store: Store) -> Self {
        Self { store, region_ids: Arc::default(), guard: None }
    }

    /// Rejects connections newer than the last verification of the server with
    /// [`Error::ServerNotVerified`].
    #[must_use]
    pub fn with_guard(self, guard: ServerGuard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// Stores `entries` in one transaction. Existing rows stay unchanged, except that a real result
    /// replaces a missed one. Entries rejected permanently by the database become dead letters, as
    /// rejected messages do.
    ///
    /// `now` is the latest time that the caller considers possible. Results due both after `now`
    /// and after the database's clock are stored, but open or close no incident.
    ///
    /// Cancel safe: a cancelled call stores the batch completely or not at all, and its connection
    /// is not reused.
    ///
    /// # Errors
    /// The batch is stored completely or not at all, and the caller cannot know which. Retry with
    /// the same entries.
    pub async fn insert_batch(
        &self,
        entries: &[IncomingResult<'_>],
        now: Timestamp,
    ) -> Result<InsertSummary, Error> {
        let regions = self.resolve_regions(entries).await?;
        let rows = BatchRows::new(entries, &regions);
        let mut written = self.insert_rows(&rows, now).await;
        if written.as_ref().is_err_and(is_partition_missing) {
            // The missing partition may be created on demand. A day still without one is too far
            // away for a tick.
            partitions::ensure_partitions_for(&self.store, rows.due_time_per_day()).await?;
            written = self.insert_rows(&rows, now).await;
        }
        match written {
            Err(error) if permanent_error_reason(&error).is_some() => self.insert_bisecting(&rows, now).await,
            result => result,
        }
    }

    /// Waits for a response of the database, up to the deadline of one query.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn ping(&self) -> Result<(), Error> {
        self.load_regions().await.map(drop)
    }

    async fn insert_rows(&self, rows: &BatchRows<'_>, now: Timestamp) -> Result<InsertSummary, Error> {
        let mut connection = self.acquire_connection().await?;
        let inserting = insert_in_transaction(connection.begin_use(), rows, now);
        let Ok(ended) = tokio::time::timeout(Self::INSERT_TIMEOUT, inserting).await else {
            return Err(Error::TimedOut { doing: INSERT_OPERATION, seconds: Self::INSERT_TIMEOUT.as_secs() });
        };
        // Reached only without a timeout: the connection is idle and can return to the pool.
        connection.finish_use();
        let (new, decided) = ended.map_err(Error::with_operation(INSERT_OPERATION))?;
        Ok(InsertSummary {
            incidents: decided.incidents,
            warnings: decided.warnings,
            ..rows.summarize_insert(new, 0)
        })
    }

    /// Stores the batch by bisection: halves rejected parts until each rejected row is isolated.
    async fn insert_bisecting(&self, rows: &BatchRows<'_>, now: Timestamp) -> Result<InsertSummary, Error> {
        let mut connection = self.acquire_connection().await?;
        // Never marked as idle: whatever the result, no other caller gets a connection inside a
        // transaction.
        let searching = insert_bisecting(connection.begin_use(), rows, now);
        match tokio::time::timeout(Self::BISECT_TIMEOUT, searching).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::TimedOut { doing: INSERT_OPERATION, seconds: Self::BISECT_TIMEOUT.as_secs() })
            }
        }
    }

    async fn acquire_connection(&self) -> Result<CheckedOutConnection, Error> {
        let connection =
            self.store.pool.acquire().await.map_err(Error::with_operation("connect to the database"))?;
        if self.guard.as_ref().is_some_and(|guard| !guard.is_verified()) {
            return Err(Error::ServerNotVerified);
        }
        Ok(CheckedOutConnection { connection, is_busy: false })
    }

    /// Returns the ids of the regions; reloads them if an entry names an unknown region.
    async fn resolve_regions(&self, entries: &[IncomingResult<'_>]) -> Result<Arc<RegionIds>, Error> {
        let known = self.region_ids.read().clone();
        let named: HashSet<&RegionName> = entries
            .iter()
            .filter_map(|entry| match entry.content {
                ResultContent::Check(result) => Some(&result.region),
                _ => None,
            })
            .collect();
        if named.into_iter().all(|region| known.contains_key(region)) {
            return Ok(known);
        }
        self.load_regions().await
    }

    async fn load_regions(&self) -> Result<Arc<RegionIds>, Error> {
        let numbers = regions::list_region_ids(&self.store).await?;
        let ids = numbers.into_iter().map(|(id, name)| (name, id));
        let ids: Arc<RegionIds> = Arc::new(ids.collect());
        *self.region_ids.write() = ids.clone();
        Ok(ids)
    }
}

/// A pool connection that is closed if dropped while in use: a pending response would otherwise
/// reach the next user.
struct CheckedOutConnection {
    connection: PoolConnection<Postgres>,
    is_busy: bool,
}

impl CheckedOutConnection {
    fn begin_use(&mut self) -> &mut PgConnection {
        self.is_busy = true;
        &mut self.connection
    }

    fn finish_use(&mut self) {
        self.is_busy = false;
    }
}

impl Drop for CheckedOutConnection {
    fn drop(&mut self) {
        if self.is_busy {
            self.connection.close_on_drop();
        }
    }
}

async fn insert_in_transaction(
    connection: &mut PgConnection,
    rows: &BatchRows<'_>,
    now: Timestamp,
) -> Result<(CountsByOutcome, Decisions), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut fresh = Vec::new();
    let new = execute_insert(&mut transaction, &rows.results, &rows.dead_letters, &mut fresh).await?;
    // Applied last, so that a transaction that waits for a site holds no row lock which the other
    // transaction still needs.
    let decided = decisions::apply_results(&mut transaction, fresh, now).await?;
    transaction.commit().await?;
    Ok((new, decided))
}

#[derive(sqlx::FromRow)]
struct InsertedRow {
    outcome: String,
    cause: Option<String>,
    count: i64,
    site_id: Option<i64>,
    region_id: Option<i16>,
    scheduled_at: Option<DbTimestamp>,
    kind: Option<String>,
    concerns_incidents: bool,
    concerns_warnings: bool,
}

/// Inserts rows and returns the numbers of new rows; adds results that may affect incidents or
/// warnings to `fresh`.
async fn execute_insert(
    connection: &mut PgConnection,
    usable: &[ResultRow<'_>],
    dead: &[DeadLetterRow<'_>],
    fresh: &mut Vec<NewResult>,
) -> Result<CountsByOutcome, sqlx::Error> {
    let query = rows::bind_rows(sqlx::query_as(INSERT_RESULTS_SQL), usable, dead);
    let inserted: Vec<InsertedRow> = query.fetch_all(connection).await?;
    let mut new = CountsByOutcome::new();
    for row in inserted {
        // The enum types of the database contain no other words.
        let Ok(outcome) = row.outcome.parse() else { continue };
        let cause = row.cause.as_deref().and_then(|cause| cause.parse().ok());
        match (row.site_id, row.region_id, row.scheduled_at, row.kind.and_then(|kind| kind.parse().ok())) {
            (Some(site), Some(region), Some(at), Some(kind)) => {
                let key = (Timestamp::from(at), SiteId(site), region, kind);
                fresh
                    .extend(rows::find_check(usable, key).and_then(|found| {
                        found.to_new_result(row.concerns_incidents, row.concerns_warnings)
                    }));
            }
            _ => *new.entry((outcome, cause)).or_default() += row.count.unsigned_abs(),
        }
    }
    Ok(new)
}

async fn insert_bisecting(
    connection: &mut PgConnection,
    rows: &BatchRows<'_>,
    now: Timestamp,
) -> Result<InsertSummary, Error> {
    let mut new = CountsByOutcome::new();
    let mut refused: Vec<DeadLetterRow<'_>> = Vec::new();
    let mut fresh = Vec::new();
    run_statement(connection, "BEGIN").await?;
    let mut parts = vec![rows.results.as_slice()];
    while let Some(part) = parts.pop() {
        // A failed part must not abort the whole transaction.
        run_statement(connection, "SAVEPOINT part").await?;
        match execute_insert(connection, part, &[], &mut fresh)
            .await
            .map_err(Error::with_operation(INSERT_OPERATION))
        {
            Ok(counts) => {
                for (outcome, count) in counts {
                    *new.entry(outcome).or_default() += count;
                }
            }
            Err(error) => {
                let Some(reason) = permanent_error_reason(&error) else {
                    return Err(error);
                };
                run_statement(connection, "ROLLBACK TO part").await?;
                match part {
                    [] => {}
                    [alone] => refused.push(alone.to_dead_letter(reason)),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        // The first half is popped next, which preserves the order of keys.
                        parts.extend([second, first]);
                    }
                }
            }
        }
        run_statement(connection, "RELEASE part").await?;
    }
    // Dead letters take no part in the bisection.
    execute_insert(connection, &[], &rows.dead_letters, &mut fresh)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    execute_insert(connection, &[], &refused, &mut fresh)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    let decided = decisions::apply_results(connection, fresh, now)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    run_statement(connection, "COMMIT").await?;
    let reason = refused.first().map(|dead| dead.reason.to_string());
    let written = rows.summarize_insert(new, refused.len());
    Ok(InsertSummary {
        first_reason: reason.or(written.first_reason),
        incidents: decided.incidents,
        warnings: decided.warnings,
        ..written
    })
}

async fn run_statement(connection: &mut PgConnection, statement: &'static str) -> Result<(), Error> {
    sqlx::raw_sql(statement)
        .execute(connection)
        .await
        .map(drop)
        .map_err(Error::with_operation(INSERT_OPERATION))
}

/// Returns true if the day of a row has no partition.
fn is_partition_missing(error: &Error) -> bool {
    // A violated constraint has a name; a missing partition is reported with the same code and
    // without a name. Source: ExecFindPartition in Postgres's src/backend/executor/execPartition.c
    let Error::Database { source: DriverError(sqlx::Error::Database(refusal)), .. } = error else {
        return false;
    };
    refusal.is_check_violation() && refusal.constraint().is_none() && refusal.table() == Some("check_results")
}

/// Returns the reason if the database has rejected the statement permanently.
fn permanent_error_reason(error: &Error) -> Option<String> {
    /// Invalid value, violated constraint (including a missing partition), too large for an index.
    /// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    const CLASSES: [&str; 3] = ["22", "23", "54"];

    let Error::Database { source: DriverError(sqlx::Error::Database(refusal)), .. } = error else {
        return None;
    };
    let code = refusal.code()?;
    CLASSES
        .iter()
        .any(|class| code.starts_with(class))
        .then(|| format!("the database refused it: {} ({code})", refusal.message()))
}
