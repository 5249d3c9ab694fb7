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

use picket_proto::{Cause, CheckResult, Outcome, Region, SiteId, Timestamp};
use sqlx::{Connection, PgConnection, pool::PoolConnection, postgres::Postgres};

use crate::{
    DbTimestamp, Error, Guard, Store,
    incidents::{self, Decided, Fresh},
    partitions, regions,
    verdict::Evidence,
};
use rows::{Dead, Rows, Usable};

const INSERT: &str = include_str!("results/insert.sql");
const KEEP: &str = "keep results";

/// A message that came over the bus, and what was made of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where it was published.
    pub subject: &'a str,
    /// What was published; kept when the rest cannot be.
    pub payload: &'a [u8],
    /// What it is.
    pub content: Content<'a>,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// The result of a scheduled or confirming check.
    Check(&'a CheckResult),
    /// The result of an ad-hoc check.
    Adhoc(&'a CheckResult),
    /// Nothing that can be used, and why.
    Unusable(&'a str),
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many rows are new, by what they say.
    pub new: HashMap<(Outcome, Option<Cause>), u64>,
    /// Results that were there already.
    pub duplicates: u64,
    /// Dead letters that were [`Content::Unusable`] when they came.
    pub unusable: u64,
    /// Dead letters whose region does not exist.
    pub of_unknown_regions: u64,
    /// Dead letters that the database refused for good.
    pub refused: u64,
    /// Why one of the dead letters is one.
    pub reason: Option<String>,
    /// What followed for the incidents of their sites.
    pub decided: Decided,
}

impl Written {
    /// How many rows are new.
    pub fn inserted(&self) -> u64 {
        self.new.values().sum()
    }

    /// How many dead letters there are.
    pub fn dead(&self) -> u64 {
        self.unusable + self.of_unknown_regions + self.refused
    }
}

/// Keeps results. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Results {
    store: Store,
    /// Removed regions too: results that were under way name them.
    regions: Arc<RwLock<Arc<RegionIds>>>,
    copy_from: usize,
    /// So many batches are not copied, since one before them held rows that were there already: such batches come in swarms.
    not_copied: Arc<AtomicU8>,
    guard: Option<Guard>,
}

pub(crate) type RegionIds = HashMap<Region, i16>;

impl Results {
    /// How long one statement may take before its connection is given up.
    const LIMIT: Duration = Duration::from_secs(20);
    /// Below this the round trips of copying cost more than it saves.
    const COPY_FROM: usize = 200;
    /// How many batches are not copied after one that was refused: as many as a sink that died had taken.
    const AFTER_REFUSAL: u8 = 3;
    /// How long it may take to find the rows that the database refuses.
    const SEARCH_LIMIT: Duration = Duration::from_secs(120);

    /// Keeps results in `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            regions: Arc::default(),
            copy_from: Self::COPY_FROM,
            not_copied: Arc::default(),
            guard: None,
        }
    }

    /// The same, refusing connections made since the server was last compared with [`Error::NotCompared`].
    #[must_use]
    pub fn guarded_by(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same, but for how many rows of checks at once it takes to copy them instead of inserting them.
    #[must_use]
    pub fn copying_from(self, rows: usize) -> Self {
        Self { copy_from: rows, ..self }
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
    pub async fn insert(&self, entries: &[Entry<'_>], now: Timestamp) -> Result<Written, Error> {
        let regions = self.regions_of(entries).await?;
        let rows = Rows::new(entries, &regions);
        if rows.usable.len() >= self.copy_from && rows.are_checks() && self.may_copy() {
            match self.insert_all(&rows, Way::Copy, now).await {
                Err(error) if refusal(&error).is_some() => {
                    self.not_copied.store(Self::AFTER_REFUSAL, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        let mut written = self.insert_all(&rows, Way::Insert, now).await;
        if written.as_ref().is_err_and(lacks_partition) {
            // A good result is not to blame for that. What still has no partition then lies too far away to be a tick.
            partitions::ensure_for(&self.store, rows.moments()).await?;
            written = self.insert_all(&rows, Way::Insert, now).await;
        }
        match written {
            Err(error) if refusal(&error).is_some() => self.insert_around_refused(&rows, now).await,
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
    fn may_copy(&self) -> bool {
        let one_less = |batches: u8| batches.checked_sub(1);
        self.not_copied.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }

    async fn insert_all(&self, rows: &Rows<'_>, way: Way, now: Timestamp) -> Result<Written, Error> {
        let mut connection = self.connect().await?;
        let inserting = insert_and_decide(connection.busy(), rows, way, now);
        let Ok(ended) = tokio::time::timeout(Self::LIMIT, inserting).await else {
            return Err(Error::TimedOut { doing: KEEP, seconds: Self::LIMIT.as_secs() });
        };
        connection.rests();
        let (new, decided) = ended.map_err(Error::doing(KEEP))?;
        Ok(Written { decided, ..rows.written(new, 0) })
    }

    /// Halves what is refused until each refused row stands alone.
    async fn insert_around_refused(&self, rows: &Rows<'_>, now: Timestamp) -> Result<Written, Error> {
        let mut connection = self.connect().await?;
        // However this ends, nobody gets a connection that is inside a transaction.
        let searching = insert_around_refused(connection.busy(), rows, now);
        match tokio::time::timeout(Self::SEARCH_LIMIT, searching).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { doing: KEEP, seconds: Self::SEARCH_LIMIT.as_secs() }),
        }
    }

    async fn connect(&self) -> Result<Lent, Error> {
        let connection = self.store.pool.acquire().await.map_err(Error::doing("connect to the database"))?;
        if self.guard.as_ref().is_some_and(|guard| !guard.holds()) {
            return Err(Error::NotCompared);
        }
        Ok(Lent { connection, busy: false })
    }

    /// The regions' ids; read anew when an entry names one that was not there.
    async fn regions_of(&self, entries: &[Entry<'_>]) -> Result<Arc<RegionIds>, Error> {
        let known = self.regions.read().unwrap_or_else(PoisonError::into_inner).clone();
        let named: HashSet<&Region> = entries
            .iter()
            .filter_map(|entry| match entry.content {
                Content::Check(result) => Some(&result.region),
                _ => None,
            })
            .collect();
        if named.into_iter().all(|region| known.contains_key(region)) {
            return Ok(known);
        }
        self.load_regions().await
    }

    async fn load_regions(&self) -> Result<Arc<RegionIds>, Error> {
        let numbers = regions::numbers(&self.store).await?;
        let ids = numbers.into_iter().map(|(id, name)| (name, id));
        let ids: Arc<RegionIds> = Arc::new(ids.collect());
        *self.regions.write().unwrap_or_else(PoisonError::into_inner) = ids.clone();
        Ok(ids)
    }
}

type New = HashMap<(Outcome, Option<Cause>), u64>;

/// A connection of the pool, which is closed where it was dropped at work: what it would say then nobody asked for, and whoever
/// had it next would hear it.
struct Lent {
    connection: PoolConnection<Postgres>,
    busy: bool,
}

impl Lent {
    fn busy(&mut self) -> &mut PgConnection {
        self.busy = true;
        &mut self.connection
    }

    fn rests(&mut self) {
        self.busy = false;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.busy {
            self.connection.close_on_drop();
        }
    }
}

/// How rows get into the database.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Rows of checks alone; refused where one is there already.
    Copy,
    Insert,
}

async fn insert_and_decide(
    connection: &mut PgConnection,
    rows: &Rows<'_>,
    way: Way,
    now: Timestamp,
) -> Result<(New, Decided), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut fresh = Vec::new();
    let new = match way {
        Way::Copy => copy::copy(&mut transaction, &rows.usable, &mut fresh).await?,
        Way::Insert => insert(&mut transaction, &rows.usable, &rows.dead, &mut fresh).await?,
    };
    // Last, so that who waits for a site holds no row that the other still has to write.
    let decided = incidents::decide(&mut transaction, fresh, now).await?;
    transaction.commit().await?;
    Ok((new, decided))
}

#[derive(sqlx::FromRow)]
struct Inserted {
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
async fn insert(
    connection: &mut PgConnection,
    usable: &[Usable<'_>],
    dead: &[Dead<'_>],
    fresh: &mut Vec<Fresh>,
) -> Result<New, sqlx::Error> {
    let query = rows::bind(sqlx::query_as(INSERT), usable, dead);
    let inserted: Vec<Inserted> = query.fetch_all(connection).await?;
    let mut new = New::new();
    for row in inserted {
        // The types in the database have no other words.
        let Ok(outcome) = row.outcome.parse() else { continue };
        let cause = row.cause.as_deref().and_then(|cause| cause.parse().ok());
        match (row.site_id, row.region_id, row.scheduled_at, row.kind.and_then(|kind| kind.parse().ok())) {
            (Some(site), Some(region), Some(at), Some(kind)) => {
                let (at, message) = (at.into(), row.message);
                fresh.push(Fresh {
                    site: SiteId(site),
                    says: Evidence { region, at, kind, outcome, cause, message },
                });
            }
            _ => *new.entry((outcome, cause)).or_default() += row.count.unsigned_abs(),
        }
    }
    Ok(new)
}

async fn insert_around_refused(
    connection: &mut PgConnection,
    rows: &Rows<'_>,
    now: Timestamp,
) -> Result<Written, Error> {
    let mut new = New::new();
    let mut refused: Vec<Dead<'_>> = Vec::new();
    let mut fresh = Vec::new();
    run(connection, "BEGIN").await?;
    let mut parts = vec![rows.usable.as_slice()];
    while let Some(part) = parts.pop() {
        run(connection, "SAVEPOINT part").await?;
        match insert(connection, part, &[], &mut fresh).await.map_err(Error::doing(KEEP)) {
            Ok(counts) => {
                for (says, count) in counts {
                    *new.entry(says).or_default() += count;
                }
            }
            Err(error) => {
                let Some(reason) = refusal(&error) else {
                    return Err(error);
                };
                run(connection, "ROLLBACK TO part").await?;
                match part {
                    [] => {}
                    [alone] => refused.push(alone.refused(reason)),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
            }
        }
        run(connection, "RELEASE part").await?;
    }
    insert(connection, &[], &rows.dead, &mut fresh).await.map_err(Error::doing(KEEP))?;
    insert(connection, &[], &refused, &mut fresh).await.map_err(Error::doing(KEEP))?;
    let decided = incidents::decide(connection, fresh, now).await.map_err(Error::doing(KEEP))?;
    run(connection, "COMMIT").await?;
    let reason = refused.first().map(|dead| dead.reason.to_string());
    let written = rows.written(new, refused.len());
    Ok(Written { reason: reason.or(written.reason), decided, ..written })
}

async fn run(connection: &mut PgConnection, statement: &'static str) -> Result<(), Error> {
    sqlx::raw_sql(statement).execute(connection).await.map(drop).map_err(Error::doing(KEEP))
}

/// Whether the day of a row has no partition.
fn lacks_partition(error: &Error) -> bool {
    // A constraint that refuses a row has a name; the lack of a partition is told by the same code and has none.
    // Source: ExecFindPartition in Postgres's src/backend/executor/execPartition.c
    let Error::Database { source: sqlx::Error::Database(refusal), .. } = error else {
        return false;
    };
    refusal.is_check_violation() && refusal.constraint().is_none() && refusal.table() == Some("check_results")
}

/// Why the database will never take this, if that is what it said.
fn refusal(error: &Error) -> Option<String> {
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
