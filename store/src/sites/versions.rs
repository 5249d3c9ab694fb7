//! Reads and writes of single sites with their versions, for clients that change what they have
//! read. Limited to the sites with certain tags, if the client is.

use std::{fmt, num::ParseIntError, str::FromStr};

use picket_proto::{
    SiteId,
    site::{SiteIdentity, SiteKey, SiteSpec},
};
use sqlx::{AssertSqlSafe, FromRow, Row as _, postgres::PgRow, types::Json};

use super::{
    SITE_COLUMNS, SITES_TIMEOUT, Site, UPDATE_SITE_SQL, columns::bind_definition, map_constraint_error,
};
use crate::{Error, Store};

/// Version of a site: the number of the transaction that changed it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteVersion(pub u64);

impl fmt::Display for SiteVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SiteVersion {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for SiteVersion {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, ParseIntError> {
        text.parse()
    }
}

/// A site with its version.
#[derive(Clone, Debug)]
pub struct VersionedSite {
    /// The site.
    pub site: Site,
    /// Its version.
    pub version: SiteVersion,
}

impl FromRow<'_, PgRow> for VersionedSite {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        // The driver has no type for xid8; its text always parses.
        let version: String = row.try_get("version")?;
        let version = version.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Self { site: Site::from_row(row)?, version })
    }
}

/// Condition on a site by the tags in `$1`, of which null means all sites.
const TAG_CONDITION_SQL: &str = "($1::text[] IS NULL OR site.tags && $1)";

/// Reads a site; `None` if there is no such site with one of the `tags`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_versioned_site(
    store: &Store,
    id: SiteId,
    tags: Option<&[String]>,
) -> Result<Option<VersionedSite>, Error> {
    let sql = format!(
        "SELECT {}, site.version::text AS version FROM picket.sites AS site WHERE {TAG_CONDITION_SQL} AND site.id = $2",
        *SITE_COLUMNS
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(tags).bind(id.0);
    store.with_timeout(SITES_TIMEOUT, "read the site", query.fetch_optional(&store.pool)).await
}

/// Lists all sites with one of the `tags`, by id.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_versioned_sites(
    store: &Store,
    tags: Option<&[String]>,
) -> Result<Vec<VersionedSite>, Error> {
    let sql = format!(
        "SELECT {}, site.version::text AS version FROM picket.sites AS site WHERE {TAG_CONDITION_SQL} ORDER BY site.id",
        *SITE_COLUMNS
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(tags);
    store.with_timeout(SITES_TIMEOUT, "list sites", query.fetch_all(&store.pool)).await
}

/// Finds the site with the identity of `spec` among those with one of the `tags`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_same_site(
    store: &Store,
    spec: &SiteSpec,
    tags: Option<&[String]>,
) -> Result<Option<SiteId>, Error> {
    let sql = format!(
        "SELECT site.id FROM picket.sites AS site
         WHERE {TAG_CONDITION_SQL}
           AND picket.site_identity(site.url, site.method, site.regex, site.not_regex, site.options, site.assertions)
             = picket.site_identity($2, $3, $4, $5, $6, $7)"
    );
    let SiteKey { url, method, regex, not_regex } = SiteIdentity::of_spec(spec).key;
    let query = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tags)
        .bind(url)
        .bind(method.as_ref())
        .bind(regex)
        .bind(not_regex)
        .bind(Json(&spec.check.options))
        .bind(Json(&spec.check.assertions));
    let found: Option<i64> =
        store.with_timeout(SITES_TIMEOUT, "look up the site", query.fetch_optional(&store.pool)).await?;
    Ok(found.map(SiteId))
}

/// Replaces the whole definition of a site that still has `version`.
///
/// # Errors
/// If the site is missing or has another version, the new definition equals another site's, a region
/// is unknown, or the database cannot be reached in time.
pub async fn update_site_version(
    store: &Store,
    id: SiteId,
    version: SiteVersion,
    spec: &SiteSpec,
) -> Result<(), Error> {
    let columns = super::columns::DEFINITION_COLUMNS.len();
    let sql = UPDATE_SITE_SQL
        .replace(" RETURNING id", &format!(" AND version = ${}::text::xid8 RETURNING id", columns + 2));
    let updated = bind_definition(sqlx::query_scalar(AssertSqlSafe(sql)), spec)
        .bind(id.0)
        .bind(version.to_string())
        .fetch_optional(&store.pool);
    match store.with_timeout(SITES_TIMEOUT, "update the site", updated).await.map_err(map_constraint_error)? {
        Some(_) => Ok(()),
        None => Err(Error::SiteChanged(id)),
    }
}

/// Deletes a site that still has `version`. Its results remain readable.
///
/// # Errors
/// If the site is missing or has another version, or the database cannot be reached in time.
pub async fn delete_site_version(store: &Store, id: SiteId, version: SiteVersion) -> Result<(), Error> {
    let deleted = sqlx::query("DELETE FROM picket.sites WHERE id = $1 AND version = $2::text::xid8")
        .bind(id.0)
        .bind(version.to_string())
        .execute(&store.pool);
    match store.with_timeout(SITES_TIMEOUT, "remove the site", deleted).await?.rows_affected() {
        0 => Err(Error::SiteChanged(id)),
        _ => Ok(()),
    }
}
