//! Sites: definitions by users, and their rows in the database.

mod changes;
mod columns;
mod row;
mod versions;

use std::{sync::LazyLock, time::Duration};

use picket_proto::{Shard, SiteId, Timestamp, ValidationError, site::SiteSpec, site_plan::StoredSite};

use self::columns::{DEFINITION_COLUMNS, bind_definition, to_i32};
pub(crate) use self::{changes::write_changes, row::SITE_COLUMNS};
pub use self::{
    changes::{SiteChanges, apply_changes},
    versions::{
        SiteVersion, VersionedSite, delete_site_version, find_same_site, list_versioned_sites,
        read_versioned_site, update_site_version,
    },
};
use crate::{DbTimestamp, Error, Store, error::DriverError};

const SITES_TIMEOUT: Duration = Duration::from_secs(30);

/// A site as stored in the database.
#[derive(Clone, Debug)]
pub struct Site {
    /// Id of the site.
    pub id: SiteId,
    /// Shard of the site.
    pub shard: Shard,
    /// The definition. SQL admits values that `SiteSpec` cannot represent; the error then names the
    /// field and the allowed values.
    pub spec: Result<SiteSpec, ValidationError>,
    /// The URL, available even if the definition is invalid.
    pub url: String,
    /// Reason why the site cannot be checked.
    pub problem: Option<String>,
    /// Version of the pattern rules under which a coordinator accepted the site's regexes.
    pub patterns_validated: Option<i16>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

impl Site {
    /// The site as a plan compares it.
    pub fn to_stored(&self) -> StoredSite<'_> {
        StoredSite { id: self.id, url: &self.url, spec: self.spec.as_ref() }
    }
}

static INSERT_SITE_SQL: LazyLock<String> = LazyLock::new(|| {
    let names = DEFINITION_COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let values = (1..=DEFINITION_COLUMNS.len()).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
    format!("INSERT INTO picket.sites ({names}) VALUES ({values}) RETURNING id")
});
static UPDATE_SITE_SQL: LazyLock<String> = LazyLock::new(|| {
    let columns = DEFINITION_COLUMNS.iter().zip(1..);
    let values = columns.map(|(column, n)| format!("{} = ${n}", column.name)).collect::<Vec<_>>().join(", ");
    format!("UPDATE picket.sites SET {values} WHERE id = ${} RETURNING id", DEFINITION_COLUMNS.len() + 1)
});

/// Adds a site.
///
/// # Errors
/// If an equal site exists, a region is unknown, or the database cannot be reached in time.
pub async fn insert_site(store: &Store, spec: &SiteSpec) -> Result<SiteId, Error> {
    let inserted = bind_definition(sqlx::query_scalar(INSERT_SITE_SQL.as_str()), spec).fetch_one(&store.pool);
    store
        .with_timeout(SITES_TIMEOUT, "add the site", inserted)
        .await
        .map(SiteId)
        .map_err(map_constraint_error)
}

/// Replaces the whole definition of a site.
///
/// # Errors
/// If there is no such site, the new definition equals another site's, a region is unknown, or the
/// database cannot be reached in time.
pub async fn update_site(store: &Store, id: SiteId, spec: &SiteSpec) -> Result<(), Error> {
    let updated = bind_definition(sqlx::query_scalar(UPDATE_SITE_SQL.as_str()), spec)
        .bind(id.0)
        .fetch_optional(&store.pool);
    match store.with_timeout(SITES_TIMEOUT, "update the site", updated).await.map_err(map_constraint_error)? {
        Some(_) => Ok(()),
        None => Err(Error::SiteNotFound(id)),
    }
}

/// Converts a constraint violation of the schema into an error of the store.
pub(crate) fn map_constraint_error(error: Error) -> Error {
    let Error::Database { source: DriverError(sqlx::Error::Database(database)), .. } = &error else {
        return error;
    };
    match database.constraint() {
        // An index can reject a value for other reasons as well.
        Some("sites_identity") if database.is_unique_violation() => Error::DuplicateSite,
        Some("sites_limits") => match parse_limit_error(database.message()) {
            Some(refusal) => Error::Invalid(refusal),
            None => error,
        },
        // The trigger lists the known regions in its message.
        Some("sites_regions") => {
            let message = database.message();
            let (value, known) = message
                .split_once("' is not a region; there are: ")
                .unwrap_or((message, "the names that 'picket region list' shows"));
            let value = value.trim_start_matches("regions: '");
            Error::Invalid(ValidationError::new(
                "regions",
                value,
                format!("{known} (add one with 'picket region add')"),
            ))
        }
        _ => error,
    }
}

/// Parses the message of the limits trigger, formatted like a [`ValidationError`].
fn parse_limit_error(message: &str) -> Option<ValidationError> {
    let (field, rest) = message.split_once(": '")?;
    let (value, allowed) = rest.rsplit_once("' is not allowed; allowed: ")?;
    Some(ValidationError::new(field, value, allowed))
}

/// Deletes a site. Its results remain readable.
///
/// # Errors
/// If there is no such site, or the database cannot be reached in time.
pub async fn delete_site(store: &Store, id: SiteId) -> Result<(), Error> {
    let deleted = sqlx::query("DELETE FROM picket.sites WHERE id = $1").bind(id.0).execute(&store.pool);
    match store.with_timeout(SITES_TIMEOUT, "remove the site", deleted).await?.rows_affected() {
        0 => Err(Error::SiteNotFound(id)),
        _ => Ok(()),
    }
}

/// Lists all sites by id.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_sites(store: &Store) -> Result<Vec<Site>, Error> {
    let sql = format!("SELECT {} FROM picket.sites AS site ORDER BY site.id", *SITE_COLUMNS);
    store
        .with_timeout(
            SITES_TIMEOUT,
            "list sites",
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&store.pool),
        )
        .await
}

/// Finds sites by `id_or_url`: the site with this id, or all sites with this URL (which differ
/// in another field of their identity).
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_by_id_or_url(store: &Store, id_or_url: &str) -> Result<Vec<Site>, Error> {
    let sql = format!(
        "SELECT {} FROM picket.sites AS site WHERE site.id = $1 OR site.url = $2 ORDER BY site.id",
        *SITE_COLUMNS
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id_or_url.parse::<i64>().ok()).bind(id_or_url);
    store.with_timeout(SITES_TIMEOUT, "look up the site", query.fetch_all(&store.pool)).await
}

/// Records why sites cannot be checked; their schedules end. A site changed since `updated_at` is
/// skipped, because it will be validated again.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn set_problems(store: &Store, problems: &[(SiteId, Timestamp, String)]) -> Result<(), Error> {
    let ids: Vec<i64> = problems.iter().map(|(id, ..)| id.0).collect();
    let read_at: Vec<DbTimestamp> =
        problems.iter().map(|(_, updated_at, _)| DbTimestamp(*updated_at)).collect();
    let texts: Vec<&str> = problems.iter().map(|(.., text)| text.as_str()).collect();
    let query = sqlx::query(
        "UPDATE picket.sites AS site SET problem = judged.problem
         FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS judged (id, updated_at, problem)
         -- `DbTimestamp` clamps timestamps outside its range, so the stored values are clamped
         -- alike.
         WHERE site.id = judged.id
           AND least(greatest(site.updated_at, '0001-01-01 00:00:00+00'), '9999-12-31 23:59:59.999999+00') = judged.updated_at",
    )
    .bind(ids)
    .bind(read_at)
    .bind(texts);
    store.with_timeout(SITES_TIMEOUT, "record problems of sites", query.execute(&store.pool)).await?;
    Ok(())
}

/// Records that the regexes of sites were accepted under version `rules` of the pattern rules.
/// Skips a site that changed since `updated_at` or that another transaction has locked: its regexes
/// are compiled again at the next load.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn set_patterns_validated(
    store: &Store,
    rules: i16,
    sites: &[(SiteId, Timestamp)],
) -> Result<(), Error> {
    let ids: Vec<i64> = sites.iter().map(|(id, _)| id.0).collect();
    let read_at: Vec<DbTimestamp> = sites.iter().map(|(_, updated_at)| DbTimestamp(*updated_at)).collect();
    let query = sqlx::query(
        // This statement never waits for a lock on a row, so it is part of no deadlock.
        "WITH unchanged AS (
             SELECT site.id FROM picket.sites AS site
             JOIN unnest($2::bigint[], $3::timestamptz[]) AS read (id, updated_at) USING (id)
             WHERE site.updated_at = read.updated_at AND site.patterns_validated IS DISTINCT FROM $1
             FOR NO KEY UPDATE OF site SKIP LOCKED
         )
         UPDATE picket.sites AS site SET patterns_validated = $1 FROM unchanged WHERE site.id = unchanged.id",
    )
    .bind(rules)
    .bind(ids)
    .bind(read_at);
    store
        .with_timeout(SITES_TIMEOUT, "record the validated patterns of sites", query.execute(&store.pool))
        .await?;
    Ok(())
}

/// Adds `count` sites `<base><n>` for load tests, counting from `first`; existing sites are kept.
/// Returns the number of sites added.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn generate_sites(
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
    Ok(store.with_timeout(SITES_TIMEOUT, "add sites", query.execute(&store.pool)).await?.rows_affected())
}
