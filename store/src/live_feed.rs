//! What live views need besides the bus: tags of sites, and the incidents of a connection's absence.

use std::time::Duration;

use picket_proto::{Event, RegionName, Shard, SiteId, Timestamp};

use crate::{DbTimestamp, Error, Store, leases::to_shard};

const FEED_TIMEOUT: Duration = Duration::from_secs(10);

/// Tags of sites since a cursor.
#[derive(Clone, Debug, Default)]
pub struct TagChanges {
    /// Where the next read begins.
    pub cursor: TagCursor,
    /// True if `sites` has all sites with tags, so that all others have none.
    pub is_complete: bool,
    /// Tags of all or of the changed sites.
    pub sites: Vec<(SiteId, Vec<String>)>,
}

/// The oldest transaction that was still running at a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagCursor(i64);

/// Reads the tags of the sites that changed since `since`, or of all sites with tags.
///
/// Deleted sites have no results any more, so they are dropped with the next complete read. After a
/// failover to a database that lost commits, a change may be found only by a complete read.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn load_tags(store: &Store, since: Option<TagCursor>) -> Result<TagChanges, Error> {
    store
        .with_timeout(FEED_TIMEOUT, "read the tags of sites", async {
            let mut transaction = store.pool.begin().await?;
            // Both statements must see one snapshot, or a commit between them could be missed.
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut *transaction)
                .await?;
            let cursor: i64 = sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
                .fetch_one(&mut *transaction)
                .await?;
            // A cursor beyond this one belongs to another cluster.
            let since = since.filter(|since| since.0 <= cursor);
            let sites: Vec<(i64, Vec<String>)> = match since {
                Some(TagCursor(first)) => {
                    sqlx::query_as(
                        "SELECT id, tags FROM picket.sites
                         WHERE version >= $1::text::xid8 AND version < pg_snapshot_xmax(pg_current_snapshot())",
                    )
                    .bind(first.to_string())
                    .fetch_all(&mut *transaction)
                    .await?
                }
                None => {
                    sqlx::query_as("SELECT id, tags FROM picket.sites WHERE cardinality(tags) > 0")
                        .fetch_all(&mut *transaction)
                        .await?
                }
            };
            transaction.commit().await?;
            let sites = sites.into_iter().map(|(id, tags)| (SiteId(id), tags)).collect();
            Ok(TagChanges { cursor: TagCursor(cursor), is_complete: since.is_none(), sites })
        })
        .await
}

/// Finds the shard of a site that has one of the tags in `tag_limit`, if given.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_shard(
    store: &Store,
    site: SiteId,
    tag_limit: Option<&[String]>,
) -> Result<Option<Shard>, Error> {
    let query = sqlx::query_scalar(
        "SELECT shard FROM picket.sites WHERE id = $1 AND ($2::text[] IS NULL OR tags && $2)",
    );
    let query = query.bind(site.0).bind(tag_limit).fetch_optional(&store.pool);
    let shard: Option<i16> = store.with_timeout(FEED_TIMEOUT, "look up the site", query).await?;
    Ok(shard.map(to_shard))
}

/// Lists the events of incidents that were recorded since `since`, the oldest first: the newest
/// `limit` of them.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_transitions(
    store: &Store,
    since: Timestamp,
    tag_limit: Option<&[String]>,
    limit: i64,
) -> Result<Vec<Event>, Error> {
    let query = sqlx::query_scalar(
        "SELECT transition.payload FROM picket.transitions AS transition
         WHERE transition.recorded_at >= $1 AND transition.incident_id IS NOT NULL
           AND ($2::text[] IS NULL OR EXISTS (SELECT FROM picket.known_sites AS site
                                              WHERE site.id = transition.site_id AND site.tags && $2))
         ORDER BY transition.transition_id DESC LIMIT $3",
    );
    let query = query.bind(DbTimestamp(since)).bind(tag_limit).bind(limit).fetch_all(&store.pool);
    let mut payloads: Vec<serde_json::Value> =
        store.with_timeout(FEED_TIMEOUT, "list the incidents", query).await?;
    payloads.reverse();
    // A later build may have written kinds of events that this one does not know.
    Ok(payloads.into_iter().filter_map(|payload| serde_json::from_value(payload).ok()).collect())
}

/// A URL and a region that checks it, for service discovery.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Target {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// URL of the site.
    pub url: String,
    /// Tags of the site.
    pub tags: Vec<String>,
    /// Name of the region.
    pub region: String,
}

/// Lists the sites checked, once for each of their regions: those with one of the tags in
/// `tag_limit` and with `tag`, in `region`, as far as these are given, and at most `limit`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_targets(
    store: &Store,
    tag_limit: Option<&[String]>,
    tag: Option<&str>,
    region: Option<&RegionName>,
    limit: i64,
) -> Result<Vec<Target>, Error> {
    let query = sqlx::query_as(
        "SELECT site.id AS site_id, left(coalesce(site.name, site.url), 1000) AS site, left(site.url, 4096) AS url,
                site.tags, region.name AS region
         FROM picket.schedules AS schedule
         JOIN picket.sites AS site ON site.id = schedule.site_id
         JOIN picket.regions AS region ON region.id = schedule.region_id
         WHERE schedule.valid_to IS NULL AND site.type = 'http'
           AND ($1::text[] IS NULL OR site.tags && $1) AND ($2::text IS NULL OR $2 = ANY (site.tags))
           AND ($3::text IS NULL OR region.name = $3)
         ORDER BY site.id, region.name
         LIMIT $4",
    );
    let query = query.bind(tag_limit).bind(tag).bind(region.map(RegionName::as_str)).bind(limit);
    store.with_timeout(FEED_TIMEOUT, "list the targets", query.fetch_all(&store.pool)).await
}

/// The newest result of a site in a region, for metrics.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct SiteSample {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Name of the region.
    pub region: String,
    /// True if the newest result is `up`, false if it is `down`; absent if the region does not report.
    pub is_up: Option<bool>,
    /// True if an incident is open.
    pub has_incident: bool,
    /// Total time of the newest check in microseconds.
    pub total_us: Option<i32>,
}

/// Reads the newest results of the first `sites` sites checked.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_site_samples(store: &Store, sites: i64) -> Result<Vec<SiteSample>, Error> {
    let query = sqlx::query_as(
        "SELECT latest.site_id, left(coalesce(site.name, site.url), 200) AS site, region.name AS region,
                latest.outcome = 'up' AS is_up, incident.site_id IS NOT NULL AS has_incident, latest.total_us
         FROM (SELECT id, name, url FROM picket.sites WHERE enabled AND problem IS NULL ORDER BY id LIMIT $1) AS site
         JOIN picket.latest_results AS latest ON latest.site_id = site.id
         JOIN picket.regions AS region ON region.id = latest.region_id
         LEFT JOIN picket.incidents AS incident ON incident.site_id = site.id AND incident.closed_at IS NULL
         ORDER BY latest.site_id, region.name",
    );
    let query = query.bind(sites).fetch_all(&store.pool);
    store.with_timeout(Duration::from_secs(30), "read the newest results", query).await
}
