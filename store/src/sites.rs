//! Sites: what people define, and how it is read back.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{CheckRequest, Invalid, IpVersion, Shard, SiteId, Timestamp, site::SiteSpec};
use serde_json::Value;
use sqlx::types::time::OffsetDateTime;

use crate::{Error, Store, leases::to_shard};

const LIMIT: Duration = Duration::from_secs(30);

/// The columns of a [`Row`], for statements elsewhere in this crate.
pub(crate) const COLUMNS: &str = "site.id, site.url, site.name, site.interval_seconds, site.timeout_ms, site.method, \
     site.headers, site.body, site.status, site.regex, site.not_regex, site.max_redirects, site.ip_version, \
     site.tls_verify, site.regions, site.enabled, site.quorum, site.failures_to_open, site.successes_to_close, \
     site.tags, site.problem, site.shard, site.created_at, site.updated_at";

/// A site as it stands in the database.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its number.
    pub id: SiteId,
    /// Its shard.
    pub shard: Shard,
    /// What people defined. SQL lets in what no type of ours can hold: then which field, and what is allowed.
    pub spec: Result<SiteSpec, Invalid>,
    /// The URL, whatever else is wrong.
    pub url: String,
    /// Why it cannot be watched.
    pub problem: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    id: i64,
    url: String,
    name: Option<String>,
    interval_seconds: i32,
    timeout_ms: i32,
    method: String,
    headers: Value,
    body: Option<String>,
    status: String,
    regex: Option<String>,
    not_regex: Option<String>,
    max_redirects: i32,
    ip_version: String,
    tls_verify: bool,
    regions: Vec<String>,
    enabled: bool,
    quorum: Option<i32>,
    failures_to_open: i32,
    successes_to_close: i32,
    tags: Vec<String>,
    problem: Option<String>,
    shard: i16,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl From<Row> for Site {
    fn from(mut row: Row) -> Self {
        Self {
            id: SiteId(row.id),
            shard: to_shard(row.shard),
            url: row.url.clone(),
            problem: row.problem.take(),
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
            spec: row.spec(),
        }
    }
}

impl Row {
    fn spec(self) -> Result<SiteSpec, Invalid> {
        let check = CheckRequest {
            method: self.method,
            headers: headers(self.headers)?,
            body: self.body,
            timeout_ms: self.timeout_ms.into(),
            status: self.status,
            regex: self.regex,
            not_regex: self.not_regex,
            max_redirects: self.max_redirects.into(),
            ip_version: IpVersion::parse(&self.ip_version)?,
            tls_verify: self.tls_verify,
            ..CheckRequest::new(self.url)
        };
        Ok(SiteSpec {
            check,
            name: self.name,
            interval_seconds: self.interval_seconds.into(),
            regions: self.regions,
            enabled: self.enabled,
            quorum: self.quorum.map(Into::into),
            failures_to_open: self.failures_to_open.into(),
            successes_to_close: self.successes_to_close.into(),
            tags: self.tags,
        })
    }
}

fn headers(given: Value) -> Result<BTreeMap<String, String>, Invalid> {
    let Value::Object(given) = given else {
        return Ok(BTreeMap::new());
    };
    given
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            other => Err(Invalid::new(format!("headers.{name}"), other, "a text")),
        })
        .collect()
}

const INSERT: &str =
    "INSERT INTO picket.sites (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex,
         max_redirects, ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) RETURNING id";
const UPDATE: &str =
    "UPDATE picket.sites SET url = $1, name = $2, interval_seconds = $3, timeout_ms = $4, method = $5, headers = $6,
         body = $7, status = $8, regex = $9, not_regex = $10, max_redirects = $11, ip_version = $12, tls_verify = $13,
         regions = $14, enabled = $15, quorum = $16, failures_to_open = $17, successes_to_close = $18, tags = $19
     WHERE id = $20 RETURNING id";

/// Adds a site.
///
/// # Errors
/// When there is such a site already, a region is unknown, or the database cannot be reached in time.
pub async fn insert(store: &Store, spec: &SiteSpec) -> Result<SiteId, Error> {
    let inserted = bind(sqlx::query_scalar(INSERT), spec).fetch_one(&store.pool);
    store.within(LIMIT, "add the site", inserted).await.map(SiteId).map_err(refused)
}

/// Replaces the whole definition of a site.
///
/// # Errors
/// When there is no such site, it would be another's double, a region is unknown, or the database cannot be
/// reached in time.
pub async fn update(store: &Store, id: SiteId, spec: &SiteSpec) -> Result<(), Error> {
    let updated = bind(sqlx::query_scalar(UPDATE), spec).bind(id.0).fetch_optional(&store.pool);
    match store.within(LIMIT, "change the site", updated).await.map_err(refused)? {
        Some(_) => Ok(()),
        None => Err(Error::NoSite(id)),
    }
}

type Scalar<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, i64, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Scalar<'q>, spec: &'q SiteSpec) -> Scalar<'q> {
    let SiteSpec { check, .. } = spec;
    query
        .bind(&check.url)
        .bind(&spec.name)
        .bind(to_i32(spec.interval_seconds))
        .bind(to_i32(check.timeout_ms))
        .bind(&check.method)
        .bind(sqlx::types::Json(&check.headers))
        .bind(&check.body)
        .bind(&check.status)
        .bind(&check.regex)
        .bind(&check.not_regex)
        .bind(to_i32(check.max_redirects))
        .bind(check.ip_version.as_str())
        .bind(check.tls_verify)
        .bind(&spec.regions)
        .bind(spec.enabled)
        .bind(spec.quorum.map(to_i32))
        .bind(to_i32(spec.failures_to_open))
        .bind(to_i32(spec.successes_to_close))
        .bind(&spec.tags)
}

/// Numbers were judged before they come here; one that is out of range stays out of range.
fn to_i32(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

/// Says in our words what the schema refused.
fn refused(error: Error) -> Error {
    let Error::Database { source: sqlx::Error::Database(database), .. } = &error else {
        return error;
    };
    match database.constraint() {
        Some("sites_what") => Error::Duplicate,
        Some("sites_regions") => {
            let message = database.message();
            let (value, known) = message
                .split_once("' is not a region; there are: ")
                .unwrap_or((message, "the names that 'picket region list' shows"));
            let value = value.trim_start_matches("regions: '");
            Error::Invalid(Invalid::new(
                "regions",
                value,
                format!("{known} (add one with 'picket region add')"),
            ))
        }
        _ => error,
    }
}

/// Removes a site. Its rows stay readable.
///
/// # Errors
/// When there is no such site, or the database cannot be reached in time.
pub async fn delete(store: &Store, id: SiteId) -> Result<(), Error> {
    let deleted = sqlx::query("DELETE FROM picket.sites WHERE id = $1").bind(id.0).execute(&store.pool);
    match store.within(LIMIT, "remove the site", deleted).await?.rows_affected() {
        0 => Err(Error::NoSite(id)),
        _ => Ok(()),
    }
}

/// Changes to many sites at once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Sites to add.
    pub add: Vec<SiteSpec>,
    /// Sites to define anew.
    pub change: Vec<(SiteId, SiteSpec)>,
    /// Sites to remove. One that is gone already is no error.
    pub remove: Vec<SiteId>,
}

/// Makes all of `changes`, or none.
///
/// # Errors
/// When one of them is refused, or the database cannot be reached in time.
pub async fn apply(store: &Store, changes: &Changes) -> Result<(), Error> {
    // Some thousand sites a second; the server's own limit is for each statement.
    const LIMIT: Duration = Duration::from_secs(300);
    let Changes { add, change, remove } = changes;
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let removed: Vec<i64> = remove.iter().map(|id| id.0).collect();
        sqlx::query("DELETE FROM picket.sites WHERE id = ANY ($1)")
            .bind(removed)
            .execute(&mut *transaction)
            .await?;
        let mut gone = None;
        for (id, spec) in change {
            let updated = bind(sqlx::query_scalar(UPDATE), spec).bind(id.0);
            if updated.fetch_optional(&mut *transaction).await?.is_none() {
                gone = Some(*id);
            }
        }
        for spec in add {
            bind(sqlx::query_scalar(INSERT), spec).fetch_one(&mut *transaction).await?;
        }
        match gone {
            Some(_) => transaction.rollback().await?,
            None => transaction.commit().await?,
        }
        Ok(gone)
    };
    match store.within(LIMIT, "change the sites", work).await.map_err(refused)? {
        Some(gone) => Err(Error::NoSite(gone)),
        None => Ok(()),
    }
}

/// All sites, by number.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn list(store: &Store) -> Result<Vec<Site>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM picket.sites AS site ORDER BY site.id");
    let rows: Vec<Row> = store
        .within(LIMIT, "list sites", sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&store.pool))
        .await?;
    Ok(rows.into_iter().map(Site::from).collect())
}

/// The sites that `word` means: the one with that number, or those with that URL (several may differ in
/// method or regex).
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn find(store: &Store, word: &str) -> Result<Vec<Site>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM picket.sites AS site WHERE site.id = $1 OR site.url = $2 ORDER BY site.id"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(word.parse::<i64>().ok()).bind(word);
    let rows: Vec<Row> = store.within(LIMIT, "look up the site", query.fetch_all(&store.pool)).await?;
    Ok(rows.into_iter().map(Site::from).collect())
}

/// Writes down why sites cannot be watched; their schedules end with it. A site that was changed since
/// it was read (`updated_at`) is left alone: it will be judged again.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn set_problems(store: &Store, problems: &[(SiteId, Timestamp, String)]) -> Result<(), Error> {
    let ids: Vec<i64> = problems.iter().map(|(id, ..)| id.0).collect();
    let read_at: Vec<OffsetDateTime> =
        problems.iter().map(|(_, updated_at, _)| updated_at.datetime()).collect();
    let texts: Vec<&str> = problems.iter().map(|(.., text)| text.as_str()).collect();
    let query = sqlx::query(
        "UPDATE picket.sites AS site SET problem = judged.problem
         FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS judged (id, updated_at, problem)
         WHERE site.id = judged.id AND site.updated_at = judged.updated_at",
    )
    .bind(ids)
    .bind(read_at)
    .bind(texts);
    store.within(LIMIT, "write down problems of sites", query.execute(&store.pool)).await?;
    Ok(())
}

/// Adds `count` dummy sites `<base>/<prefix><n>`, for load; those that are there already stay. Says how many
/// were added.
///
/// # Errors
/// When the database cannot be reached in time.
pub async fn generate(
    store: &Store,
    base: &str,
    first: i64,
    count: i64,
    interval_seconds: i64,
) -> Result<u64, Error> {
    let query = sqlx::query(
        "INSERT INTO picket.sites (url, interval_seconds, tags)
         SELECT $1 || n, $4, '{generated}' FROM generate_series($2::bigint, $2 + $3 - 1) AS n
         ON CONFLICT DO NOTHING",
    )
    .bind(base)
    .bind(first)
    .bind(count)
    .bind(to_i32(interval_seconds));
    Ok(store.within(LIMIT, "add sites", query.execute(&store.pool)).await?.rows_affected())
}
