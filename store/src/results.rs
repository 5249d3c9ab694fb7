//! Results of checks: kept once each, whatever is delivered how often, and what cannot be kept, with the reason.

mod copy;
mod rows;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use picket_proto::{Cause, CheckResult, Outcome, RegionName, SiteId, Timestamp};
use sqlx::{Connection, PgConnection, pool::PoolConnection, postgres::Postgres};

use crate::{
    DbTimestamp, Error, ServerGuard, Store,
    incident_rules::RegionResult,
    incidents::{self, IncidentOutcome, NewResult},
    partitions, regions,
};
use rows::{BatchRows, DeadLetterRow, ResultRow};

const INSERT_RESULTS_SQL: &str = include_str!("results/insert.sql");
const INSERT_OPERATION: &str = "keep results";

/// A message that came over the bus, and what was made of it.
#[derive(Clone, Copy, Debug)]
pub struct IncomingResult<'a> {
    /// Where it was published.
    pub subject: &'a str,
    /// What was published; kept when the rest cannot be.
    pub payload: &'a [u8],
    /// What it is.
    pub content: ResultContent<'a>,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum ResultContent<'a> {
    /// The result of a scheduled or confirming check.
    Check(&'a CheckResult),
    /// The result of an ad-hoc check.
    Adhoc(&'a CheckResult),
    /// Nothing that can be used, and why.
    Rejected(&'a str),
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InsertSummary {
    /// How many rows are new, by what they say.
    pub new_rows: HashMap<(Outcome, Option<Cause>), u64>,
    /// Results that were there already.
    pub duplicates: u64,
    /// Dead letters that were [`Content::Unusable`] when they came.
    pub rejected: u64,
    /// Dead letters whose region does not exist.
    pub unknown_region: u64,
    /// Dead letters that the database refused for good.
    pub refused_by_database: u64,
    /// Why one of the dead letters is one.
    pub first_reason: Option<String>,
    /// What followed for the incidents of their sites.
    pub incidents: IncidentOutcome,
}

impl InsertSummary {
    /// How many rows are new.
    pub fn count_inserted(&self) -> u64 {
        self.new_rows.values().sum()
    }

    /// How many dead letters there are.
    pub fn count_dead_letters(&self) -> u64 {
        self.rejected + self.unknown_region + self.refused_by_database
    }
}

/// Keeps results. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResultStore {
    store: Store,
    /// Removed regions too: results that were under way name them.
    region_ids: Arc<RwLock<Arc<RegionIds>>>,
    copy_threshold: usize,
    /// So many batches are not copied, since one before them held rows that were there already: such batches come in swarms.
    copy_cooldown: Arc<AtomicU8>,
    guard: Option<ServerGuard>,
}

pub(crate) type RegionIds = HashMap<RegionName, i16>;

impl ResultStore {
    /// How long one statement may take before its connection is given up.
    const INSERT_TIMEOUT: Duration = Duration::from_secs(20);
    /// Below this the round trips of copying cost more than it saves.
    const DEFAULT_COPY_THRESHOLD: usize = 200;
    /// How many batches are not copied after one that was refused: as many as a sink that died had taken.
    const COPY_COOLDOWN_BATCHES: u8 = 3;
    /// How long it may take to find the rows that the database refuses.
    const BISECT_TIMEOUT: Duration = Duration::from_secs(120);

    /// Keeps results in `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            region_ids: Arc::default(),
            copy_threshold: Self::DEFAULT_COPY_THRESHOLD,
            copy_cooldown: Arc::default(),
            guard: None,
        }
    }

    /// The same, refusing connections made since the server was last compared with [`Error::NotCompared`].
    #[must_use]
    pub fn with_guard(self, guard: ServerGuard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same, but for how many rows of checks at once it takes to copy them instead of inserting them.
    #[must_use]
    pub fn with_copy_threshold(self, rows: usize) -> Self {
        Self { copy_threshold: rows, ..self }
    }

    /// Keeps `entries` in one transaction; what is there already stays as it is, except that a real result takes the
    /// place of a missed one. What the database refuses for good becomes a dead letter, like what is unusable.
    ///
    /// `now` is the latest time that the caller holds possible: what is due after it, and after now by the database's clock, is
    /// kept and opens or closes no incident.
    ///
    /// May be cancelled at any point: then all of it is kept or nothing, and the connection is not used again.
    ///
    /// # Errors
    /// Then nothing was kept, or all of it and nobody knows: the same entries are to be given again.
    pub async fn insert_batch(
        &self,
        entries: &[IncomingResult<'_>],
        now: Timestamp,
    ) -> Result<InsertSummary, Error> {
        let regions = self.resolve_regions(entries).await?;
        let rows = BatchRows::new(entries, &regions);
        if rows.results.len() >= self.copy_threshold && rows.has_only_checks() && self.should_copy() {
            match self.insert_rows(&rows, InsertMethod::Copy, now).await {
                Err(error) if permanent_error_reason(&error).is_some() => {
                    self.copy_cooldown.store(Self::COPY_COOLDOWN_BATCHES, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        let mut written = self.insert_rows(&rows, InsertMethod::Insert, now).await;
        if written.as_ref().is_err_and(is_partition_missing) {
            // A good result is not to blame for that. What still has no partition then lies too far away to be a tick.
            partitions::ensure_partitions_for(&self.store, rows.due_time_per_day()).await?;
            written = self.insert_rows(&rows, InsertMethod::Insert, now).await;
        }
        match written {
            Err(error) if permanent_error_reason(&error).is_some() => self.insert_bisecting(&rows, now).await,
            result => result,
        }
    }

    /// Waits until the database answers, for as long as one statement may take.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        self.load_regions().await.map(drop)
    }

    /// Whether it is likely that no row is there yet.
    fn should_copy(&self) -> bool {
        let one_less = |batches: u8| batches.checked_sub(1);
        self.copy_cooldown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }

    async fn insert_rows(
        &self,
        rows: &BatchRows<'_>,
        way: InsertMethod,
        now: Timestamp,
    ) -> Result<InsertSummary, Error> {
        let mut connection = self.acquire_connection().await?;
        let inserting = insert_in_transaction(connection.begin_use(), rows, way, now);
        let Ok(ended) = tokio::time::timeout(Self::INSERT_TIMEOUT, inserting).await else {
            return Err(Error::TimedOut { doing: INSERT_OPERATION, seconds: Self::INSERT_TIMEOUT.as_secs() });
        };
        connection.finish_use();
        let (new, decided) = ended.map_err(Error::with_operation(INSERT_OPERATION))?;
        Ok(InsertSummary { incidents: decided, ..rows.summarize_insert(new, 0) })
    }

    /// Halves what is refused until each refused row stands alone.
    async fn insert_bisecting(&self, rows: &BatchRows<'_>, now: Timestamp) -> Result<InsertSummary, Error> {
        let mut connection = self.acquire_connection().await?;
        // However this ends, nobody gets a connection that is inside a transaction.
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

    /// The regions' ids; read anew when an entry names one that was not there.
    async fn resolve_regions(&self, entries: &[IncomingResult<'_>]) -> Result<Arc<RegionIds>, Error> {
        let known = self.region_ids.read().unwrap_or_else(PoisonError::into_inner).clone();
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
        *self.region_ids.write().unwrap_or_else(PoisonError::into_inner) = ids.clone();
        Ok(ids)
    }
}

type CountsByOutcome = HashMap<(Outcome, Option<Cause>), u64>;

/// A connection of the pool, which is closed where it was dropped at work: what it would say then nobody asked for, and whoever
/// had it next would hear it.
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

/// How rows get into the database.
#[derive(Clone, Copy, Debug)]
enum InsertMethod {
    /// Rows of checks alone; refused where one is there already.
    Copy,
    Insert,
}

async fn insert_in_transaction(
    connection: &mut PgConnection,
    rows: &BatchRows<'_>,
    way: InsertMethod,
    now: Timestamp,
) -> Result<(CountsByOutcome, IncidentOutcome), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut fresh = Vec::new();
    let new = match way {
        InsertMethod::Copy => copy::copy_rows(&mut transaction, &rows.results, &mut fresh).await?,
        InsertMethod::Insert => {
            execute_insert(&mut transaction, &rows.results, &rows.dead_letters, &mut fresh).await?
        }
    };
    // Last, so that who waits for a site holds no row that the other still has to write.
    let decided = incidents::apply_results(&mut transaction, fresh, now).await?;
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
    message: Option<String>,
}

/// Says which rows are new; those that may make a difference go into `fresh`.
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
        // The types in the database have no other words.
        let Ok(outcome) = row.outcome.parse() else { continue };
        let cause = row.cause.as_deref().and_then(|cause| cause.parse().ok());
        match (row.site_id, row.region_id, row.scheduled_at, row.kind.and_then(|kind| kind.parse().ok())) {
            (Some(site), Some(region), Some(at), Some(kind)) => {
                let (at, message) = (at.into(), row.message);
                fresh.push(NewResult {
                    site: SiteId(site),
                    result: RegionResult { region, scheduled_at: at, kind, outcome, cause, message },
                });
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
        run_statement(connection, "SAVEPOINT part").await?;
        match execute_insert(connection, part, &[], &mut fresh)
            .await
            .map_err(Error::with_operation(INSERT_OPERATION))
        {
            Ok(counts) => {
                for (says, count) in counts {
                    *new.entry(says).or_default() += count;
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
                        parts.extend([second, first]);
                    }
                }
            }
        }
        run_statement(connection, "RELEASE part").await?;
    }
    execute_insert(connection, &[], &rows.dead_letters, &mut fresh)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    execute_insert(connection, &[], &refused, &mut fresh)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    let decided = incidents::apply_results(connection, fresh, now)
        .await
        .map_err(Error::with_operation(INSERT_OPERATION))?;
    run_statement(connection, "COMMIT").await?;
    let reason = refused.first().map(|dead| dead.reason.to_string());
    let written = rows.summarize_insert(new, refused.len());
    Ok(InsertSummary { first_reason: reason.or(written.first_reason), incidents: decided, ..written })
}

async fn run_statement(connection: &mut PgConnection, statement: &'static str) -> Result<(), Error> {
    sqlx::raw_sql(statement)
        .execute(connection)
        .await
        .map(drop)
        .map_err(Error::with_operation(INSERT_OPERATION))
}

/// Whether the day of a row has no partition.
fn is_partition_missing(error: &Error) -> bool {
    // A constraint that refuses a row has a name; the lack of a partition is told by the same code and has none.
    // Source: ExecFindPartition in Postgres's src/backend/executor/execPartition.c
    let Error::Database { source: sqlx::Error::Database(refusal), .. } = error else {
        return false;
    };
    refusal.is_check_violation() && refusal.constraint().is_none() && refusal.table() == Some("check_results")
}

/// Why the database will never take this, if that is what it said.
fn permanent_error_reason(error: &Error) -> Option<String> {
    /// A bad value, a broken constraint (no partition is one), too large for an index.
    /// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    const CLASSES: [&str; 3] = ["22", "23", "54"];

    let Error::Database { source: sqlx::Error::Database(refusal), .. } = error else {
        return None;
    };
    let code = refusal.code()?;
    CLASSES
        .iter()
        .any(|class| code.starts_with(class))
        .then(|| format!("the database refused it: {} ({code})", refusal.message()))
}
