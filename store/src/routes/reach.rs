//! Which channels are told when a site is down, and how many sites reach nobody.

use std::time::Duration;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::{Error, Store};

const REACH_TIMEOUT: Duration = Duration::from_secs(30);

/// Selection of sites.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReachFilter<'a> {
    /// Only the sites with these ids.
    pub ids: Option<&'a [i64]>,
    /// Only sites with one of these tags.
    pub tags: Option<&'a [String]>,
    /// Maximum number of sites.
    pub limit: Option<i64>,
}

/// Whom an incident of a site reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct SiteReach {
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Names of the routes that an incident in all regions of the site concerns, in their order.
    pub routes: Vec<String>,
    /// Names of the channels told at once.
    pub channels: Vec<String>,
    /// Names of the channels told later, while nobody acknowledges.
    pub escalation_channels: Vec<String>,
}

/// Numbers of watched sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Reach {
    /// Number of enabled sites.
    pub sites: i64,
    /// Number of those whose incidents are told to no channel.
    pub unreached: i64,
    /// Number of routes.
    pub routes: i64,
}

/// Lists whom incidents of the selected sites would reach, by site.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_reach(store: &Store, filter: ReachFilter<'_>) -> Result<Vec<SiteReach>, Error> {
    let query = sqlx::query_as(
        "SELECT site.id AS site_id, coalesce(site.name, site.url) AS site, coalesce(found.routes, '{}') AS routes,
                ARRAY(SELECT channel.name FROM picket.channels AS channel
                      WHERE found.channels @> jsonb_build_array(jsonb_build_array(channel.name)) AND channel.kind <> 'watchdog'
                      ORDER BY channel.name) AS channels,
                ARRAY(SELECT channel.name FROM picket.channels AS channel
                      WHERE found.escalate @> jsonb_build_array(jsonb_build_array(channel.name)) AND channel.kind <> 'watchdog'
                      ORDER BY channel.name) AS escalation_channels
         FROM picket.sites AS site
         CROSS JOIN LATERAL (
             SELECT array_agg(route.name ORDER BY route.fallback, route.position, route.route_id) AS routes,
                    jsonb_agg(to_jsonb(route.channels)) AS channels,
                    jsonb_agg(jsonb_path_query_array(route.escalate, '$[*].channels[*]')) AS escalate
             FROM picket.matching_routes('incident.opened', site.id, site.tags, CASE WHEN site.regions <> '{}' THEN site.regions
                 ELSE ARRAY(SELECT name FROM picket.regions WHERE removed_at IS NULL) END) AS route) AS found
         WHERE ($1::bigint[] IS NULL OR site.id = ANY ($1)) AND ($2::text[] IS NULL OR site.tags && $2)
         ORDER BY site.id LIMIT $3",
    )
    .bind(filter.ids)
    .bind(filter.tags)
    .bind(filter.limit);
    store.with_timeout(REACH_TIMEOUT, "find the channels of sites", query.fetch_all(&store.pool)).await
}

/// Counts the enabled sites whose incidents are told to nobody. With tags, only sites with one of
/// them.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn count_reach(store: &Store, tags: Option<&[String]>) -> Result<Reach, Error> {
    let read = async {
        let mut connection = store.pool.acquire().await?;
        select_reach(&mut connection, tags).await
    };
    store.with_timeout(REACH_TIMEOUT, "count sites without a channel", read).await
}

/// As [`count_reach`], within a transaction.
pub(crate) async fn select_reach(
    connection: &mut PgConnection,
    tags: Option<&[String]>,
) -> Result<Reach, sqlx::Error> {
    // Sites are alike for the routes if they have the same tags and regions, unless a route names
    // them: so the routes are matched a few times, and not once for each of a million sites.
    sqlx::query_as(
        "WITH alike AS MATERIALIZED (
             SELECT site.tags, site.regions, named.id, count(*) AS sites
             FROM picket.sites AS site
             LEFT JOIN (SELECT DISTINCT unnest(site_ids) AS id FROM picket.routes) AS named ON named.id = site.id
             WHERE site.enabled AND ($1::text[] IS NULL OR site.tags && $1)
             GROUP BY site.tags, site.regions, named.id
         ),
         judged AS (
             SELECT alike.sites, EXISTS (
                 SELECT FROM picket.matching_routes('incident.opened', alike.id, alike.tags, CASE WHEN alike.regions <> '{}'
                     THEN alike.regions ELSE ARRAY(SELECT name FROM picket.regions WHERE removed_at IS NULL) END) AS route
                 JOIN picket.channels AS channel ON channel.name = ANY (route.channels)
                 WHERE channel.kind <> 'watchdog' AND channel.enabled) AS is_reached
             FROM alike
         )
         SELECT coalesce(sum(sites), 0)::bigint AS sites, coalesce(sum(sites) FILTER (WHERE NOT is_reached), 0)::bigint AS unreached,
                (SELECT count(*) FROM picket.routes) AS routes
         FROM judged",
    )
    .bind(tags)
    .fetch_one(connection)
    .await
}
