//! Routes: which events are told to which channels.

mod reach;
mod references;

use picket_proto::{
    SiteId, Timestamp, ValidationError,
    notification_plan::{StoredDefinition, name_sites},
    route::{ActiveHours, EscalationStep, RouteDefinition},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Postgres, query::Query, types::Json};

pub(crate) use self::reach::select_reach;
pub use self::reach::{Reach, ReachFilter, SiteReach, count_reach, list_reach};
pub(crate) use self::references::KnownNames;
use self::references::resolve_references;
use crate::{
    DbTimestamp, Error, RowVersion, Store,
    channels::{CHANNELS_TIMEOUT, write_catch_up},
    write_error::{WriteError, refuse_duplicate_name, write_with_timeout},
};

/// A route as stored in the database.
#[derive(Clone, Debug)]
pub struct Route {
    /// Id of the route.
    pub id: i64,
    /// Name of the route.
    pub name: String,
    /// The definition, or the reason why it cannot be read.
    pub definition: Result<RouteDefinition, ValidationError>,
    /// Time of creation. Events from before are not told.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// Version, which each change replaces.
    pub version: RowVersion,
}

impl Route {
    /// The route as a plan compares it.
    pub fn to_stored(&self) -> StoredDefinition<RouteDefinition> {
        StoredDefinition { name: self.name.clone(), definition: self.definition.clone() }
    }
}

#[derive(FromRow)]
struct RouteRow {
    route_id: i64,
    name: String,
    position: i32,
    tags: Vec<String>,
    all_tags: Vec<String>,
    site_ids: Vec<i64>,
    regions: Vec<String>,
    min_regions: Option<i16>,
    events: Vec<String>,
    channels: Vec<String>,
    wait_ms: Option<i32>,
    delay_ms: i32,
    group_by: Option<String>,
    remind_ms: i32,
    storm_after: i32,
    escalate: Json<Value>,
    active: Option<Json<Value>>,
    fallback: bool,
    enabled: bool,
    created_at: DbTimestamp,
    updated_at: DbTimestamp,
    version: String,
}

/// Decodes a column that SQL may have written in another form.
fn decode_column<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, ValidationError> {
    serde_json::from_value(value.clone()).map_err(|why| ValidationError::new(field, value, why.to_string()))
}

impl RouteRow {
    /// The route, whose sites are named by means of `sites`, their ids and URLs.
    fn into_route(self, sites: &[(SiteId, &str)]) -> Route {
        let escalate: Result<Vec<EscalationStep>, _> = decode_column("escalate", self.escalate.0);
        let active: Result<Option<ActiveHours>, _> =
            self.active.map(|active| decode_column("active", active.0)).transpose();
        let ids: Vec<String> = self.site_ids.iter().map(ToString::to_string).collect();
        let definition = escalate.and_then(|escalate| {
            Ok(RouteDefinition {
                name: self.name.clone(),
                position: self.position.into(),
                tags: self.tags,
                all_tags: self.all_tags,
                sites: name_sites(&ids, sites),
                regions: self.regions,
                min_regions: self.min_regions.map(i64::from),
                events: self.events,
                channels: self.channels,
                wait_ms: self.wait_ms.map(i64::from),
                delay_ms: self.delay_ms.into(),
                group_by: self.group_by,
                remind_ms: self.remind_ms.into(),
                storm_after: self.storm_after.into(),
                escalate,
                active: active?,
                fallback: self.fallback,
                enabled: self.enabled,
            })
        });
        Route {
            id: self.route_id,
            name: self.name,
            definition,
            created_at: self.created_at.into(),
            updated_at: self.updated_at.into(),
            version: self.version.into(),
        }
    }
}

/// Reads the routes, or the one with this name, in their order.
async fn select_routes(store: &Store, name: Option<&str>) -> Result<Vec<Route>, sqlx::Error> {
    let rows: Vec<RouteRow> = sqlx::query_as(
        "SELECT route_id, name, position, tags, all_tags, site_ids, regions, min_regions, events, channels, wait_ms, delay_ms,
                group_by, remind_ms, storm_after, escalate, active, fallback, enabled, created_at, updated_at, xmin::text AS version
         FROM picket.routes WHERE $1::text IS NULL OR name = $1 ORDER BY position, route_id",
    )
    .bind(name)
    .fetch_all(&store.pool)
    .await?;
    let ids: Vec<i64> = rows.iter().flat_map(|row| row.site_ids.iter().copied()).collect();
    let sites: Vec<(i64, String)> = match ids.is_empty() {
        true => Vec::new(),
        // All sites of these URLs, because a URL may have several.
        false => {
            sqlx::query_as(
                "SELECT id, url FROM picket.sites WHERE url IN (SELECT url FROM picket.sites WHERE id = ANY ($1))",
            )
            .bind(ids)
            .fetch_all(&store.pool)
            .await?
        }
    };
    let sites: Vec<(SiteId, &str)> = sites.iter().map(|(id, url)| (SiteId(*id), url.as_str())).collect();
    Ok(rows.into_iter().map(|row| row.into_route(&sites)).collect())
}

/// Lists all routes in their order.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_routes(store: &Store) -> Result<Vec<Route>, Error> {
    store.with_timeout(CHANNELS_TIMEOUT, "list routes", select_routes(store, None)).await
}

/// Finds the route with this name.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_route(store: &Store, name: &str) -> Result<Option<Route>, Error> {
    let found = select_routes(store, Some(name));
    Ok(store.with_timeout(CHANNELS_TIMEOUT, "look up the route", found).await?.pop())
}

/// Place of a new route among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutePlace {
    /// At the definition's own position.
    Defined,
    /// After all others.
    Last,
}

/// Adds a route; returns its id.
///
/// # Errors
/// If a route has the name, the route names a channel, a site or a region that there is not, or the
/// database cannot be reached in time.
pub async fn add_route(store: &Store, route: &RouteDefinition, place: RoutePlace) -> Result<i64, Error> {
    route.validate()?;
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let id = insert_route(&mut transaction, route, place).await?;
        transaction.commit().await?;
        Ok(id)
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "add the route", work).await
}

/// Adds a route, and tells its channels of what is open now and concerns it, all of it or nothing.
/// Returns the number of notices.
///
/// # Errors
/// As of [`add_route`].
pub async fn add_route_with_catch_up(
    store: &Store,
    route: &RouteDefinition,
    place: RoutePlace,
) -> Result<i64, Error> {
    route.validate()?;
    let work = async {
        let mut transaction = store.pool.begin().await?;
        insert_route(&mut transaction, route, place).await?;
        let notices = write_catch_up(&mut transaction, None, Some(&route.name)).await?;
        transaction.commit().await?;
        Ok(notices)
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "add the route", work).await
}

/// Replaces the definition of the route `name`, its name too; with `version`, only if the route still
/// has it. Returns false if there is no such route.
///
/// # Errors
/// As of [`add_route`].
pub async fn update_route(
    store: &Store,
    name: &str,
    route: &RouteDefinition,
    version: Option<&RowVersion>,
) -> Result<bool, Error> {
    route.validate()?;
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let found = write_route(&mut transaction, name, route, version).await?;
        transaction.commit().await?;
        Ok(found)
    };
    write_with_timeout(store, CHANNELS_TIMEOUT, "change the route", work).await
}

/// Removes a route; with `version`, only if the route still has it. Returns false if there is no such
/// route.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn remove_route(store: &Store, name: &str, version: Option<&RowVersion>) -> Result<bool, Error> {
    let query =
        sqlx::query("DELETE FROM picket.routes WHERE name = $1 AND ($2::text IS NULL OR xmin::text = $2)")
            .bind(name)
            .bind(version.map(RowVersion::as_str));
    let done = store.with_timeout(CHANNELS_TIMEOUT, "remove the route", query.execute(&store.pool)).await?;
    Ok(done.rows_affected() > 0)
}

/// Binds $1 to $18.
fn bind_route<'q>(
    query: Query<'q, Postgres, sqlx::postgres::PgArguments>,
    route: &'q RouteDefinition,
    sites: Vec<i64>,
) -> Query<'q, Postgres, sqlx::postgres::PgArguments> {
    // Validated values are within the ranges of the columns.
    let narrow = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
    query
        .bind(&route.name)
        .bind(&route.tags)
        .bind(&route.all_tags)
        .bind(sites)
        .bind(&route.regions)
        .bind(route.min_regions.map(|min| i16::try_from(min).unwrap_or(i16::MAX)))
        .bind(&route.events)
        .bind(&route.channels)
        .bind(route.wait_ms.map(narrow))
        .bind(narrow(route.delay_ms))
        .bind(&route.group_by)
        .bind(narrow(route.remind_ms))
        .bind(narrow(route.storm_after))
        .bind(Json(route.escalate_json()))
        .bind(route.active.as_ref().map(Json))
        .bind(route.fallback)
        .bind(route.enabled)
        .bind(narrow(route.position))
}

fn refuse_duplicate(error: sqlx::Error, route: &RouteDefinition) -> WriteError {
    refuse_duplicate_name(error, "routes_name_key", &route.name, "a name that no other route has")
}

pub(crate) async fn insert_route(
    connection: &mut PgConnection,
    route: &RouteDefinition,
    place: RoutePlace,
) -> Result<i64, WriteError> {
    let sites = resolve_references(connection, route).await?;
    let mut route = route.clone();
    if place == RoutePlace::Last {
        let next: i32 = sqlx::query_scalar("SELECT coalesce(max(position) + 1, 0) FROM picket.routes")
            .fetch_one(&mut *connection)
            .await?;
        route.position = next.into();
    }
    let query = sqlx::query(
        "INSERT INTO picket.routes (name, tags, all_tags, site_ids, regions, min_regions, events, channels, wait_ms, delay_ms,
                                    group_by, remind_ms, storm_after, escalate, active, fallback, enabled, position)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         RETURNING route_id",
    );
    let row = bind_route(query, &route, sites)
        .fetch_one(connection)
        .await
        .map_err(|error| refuse_duplicate(error, &route))?;
    Ok(sqlx::Row::try_get(&row, 0)?)
}

pub(crate) async fn write_route(
    connection: &mut PgConnection,
    name: &str,
    route: &RouteDefinition,
    version: Option<&RowVersion>,
) -> Result<bool, WriteError> {
    let sites = resolve_references(connection, route).await?;
    let query = sqlx::query(
        "UPDATE picket.routes
         SET name = $1, tags = $2, all_tags = $3, site_ids = $4, regions = $5, min_regions = $6, events = $7, channels = $8,
             wait_ms = $9, delay_ms = $10, group_by = $11, remind_ms = $12, storm_after = $13, escalate = $14, active = $15,
             fallback = $16, enabled = $17, position = $18
         WHERE name = $19 AND ($20::text IS NULL OR xmin::text = $20)",
    );
    let done = bind_route(query, route, sites)
        .bind(name)
        .bind(version.map(RowVersion::as_str))
        .execute(connection)
        .await
        .map_err(|error| refuse_duplicate(error, route))?;
    Ok(done.rows_affected() > 0)
}
