//! Changes to sites, channels and routes in a single transaction: what `picket apply` and the API make of
//! a file of definitions.

use std::{collections::BTreeSet, time::Duration};

use picket_proto::{
    SiteId, ValidationError,
    notification_plan::{DesiredNotifications, NotificationPlan},
    route::RouteDefinition,
};
use sqlx::PgConnection;

use crate::{
    Error, Store,
    channels::{self, delete_channel, insert_channel, write_channel},
    routes::{self, KnownNames, Reach, RoutePlace, insert_route, select_reach, write_route},
    sites::{SiteChanges, map_constraint_error, write_changes},
    write_error::{WriteError, write_with_timeout},
};

/// A few thousand sites take a second; the server's own limit applies to each statement.
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(300);

/// Changes to definitions of all kinds.
#[derive(Clone, Debug, Default)]
pub struct DefinitionChanges {
    /// Changes to regions and sites.
    pub sites: SiteChanges,
    /// Changes to channels and routes.
    pub notifications: NotificationPlan,
}

/// Whether changes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyMode {
    /// All changes are kept, or none if one is refused.
    Commit,
    /// All changes are undone after they have been tried.
    DryRun,
}

/// What the changes led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedDefinitions {
    /// Ids of the added sites in their order.
    pub added_sites: Vec<SiteId>,
    /// How many sites reach nobody after the changes.
    pub reach: Reach,
}

/// Plans the changes that bring the stored channels and routes to `wanted`. With `prune`, those that
/// are not wanted are removed.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn plan_notifications(
    store: &Store,
    wanted: &DesiredNotifications,
    prune: bool,
) -> Result<NotificationPlan, Error> {
    if *wanted == DesiredNotifications::default() {
        return Ok(NotificationPlan::default());
    }
    let channels: Vec<_> =
        channels::list_channels(store).await?.iter().map(channels::Channel::to_stored).collect();
    let routes: Vec<_> = routes::list_routes(store).await?.iter().map(routes::Route::to_stored).collect();
    let words: Vec<String> =
        wanted.routes.iter().flatten().flat_map(|route| route.sites.iter().cloned()).collect();
    let sites = match words.is_empty() {
        true => Vec::new(),
        false => list_named_sites(store, &words).await?,
    };
    let sites: Vec<(SiteId, &str)> = sites.iter().map(|(id, url)| (SiteId(*id), url.as_str())).collect();
    Ok(NotificationPlan::new(wanted, &channels, &routes, &sites, prune))
}

/// The sites that words name by id or URL, and all others of these URLs.
async fn list_named_sites(store: &Store, words: &[String]) -> Result<Vec<(i64, String)>, Error> {
    let numbers: Vec<i64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let query = sqlx::query_as(
        "SELECT id, url FROM picket.sites WHERE url IN (SELECT url FROM picket.sites WHERE url = ANY ($1) OR id = ANY ($2))",
    )
    .bind(words)
    .bind(numbers);
    store.with_timeout(DEFINITIONS_TIMEOUT, "look up the sites of routes", query.fetch_all(&store.pool)).await
}

/// Refusal of changes because of a missing name.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRefusal {
    /// Name of the route; absent for a channel in routes outside of the changes.
    pub route: Option<String>,
    /// The field, the name and what is allowed.
    pub error: ValidationError,
}

/// Finds all missing names in changed routes, and the removed channels in the other routes.
/// [`apply_definitions`] stops at the first one.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_reference_refusals(
    store: &Store,
    changes: &DefinitionChanges,
) -> Result<Vec<ReferenceRefusal>, Error> {
    let plan = &changes.notifications;
    let written: Vec<&RouteDefinition> =
        plan.routes.add.iter().chain(plan.routes.change.iter().map(|(_, route)| route)).collect();
    if written.is_empty() && plan.channels.remove.is_empty() {
        return Ok(Vec::new());
    }
    let read = async {
        let mut connection = store.pool.acquire().await?;
        KnownNames::load(&mut connection, &written).await
    };
    let mut known = store.with_timeout(DEFINITIONS_TIMEOUT, "look up the names in routes", read).await?;
    let added = plan.channels.add.iter().chain(plan.channels.change.iter().map(|(_, channel)| channel));
    let added: Vec<&str> = added.map(|channel| channel.name.as_str()).collect();
    known.apply_changes(&changes.sites, &added, &plan.channels.remove);
    let mut refusals: Vec<ReferenceRefusal> = written
        .iter()
        .flat_map(|route| known.find_missing(route).into_iter().map(|error| (route.name.clone(), error)))
        .map(|(route, error)| ReferenceRefusal { route: Some(route), error })
        .collect();
    if !plan.channels.remove.is_empty() {
        let written: BTreeSet<&str> = written.iter().map(|route| route.name.as_str()).collect();
        let stored = routes::list_routes(store).await?;
        let is_kept =
            |name: &str| !written.contains(name) && !plan.routes.remove.iter().any(|gone| gone == name);
        let kept: Vec<&RouteDefinition> = stored
            .iter()
            .filter(|route| is_kept(&route.name))
            .filter_map(|route| route.definition.as_ref().ok())
            .collect();
        refusals.extend(plan.channels.remove.iter().filter_map(|channel| {
            let naming: Vec<&str> = kept
                .iter()
                .filter(|route| route.named_channels().any(|name| name == channel))
                .map(|route| route.name.as_str())
                .collect();
            let error = channels::refuse_named_channel(channel, &naming)?;
            Some(ReferenceRefusal { route: None, error })
        }));
    }
    Ok(refusals)
}

/// Applies all `changes` or none.
///
/// # Errors
/// If a change is rejected, a site has another version than expected, or the database cannot be
/// reached in time.
pub async fn apply_definitions(
    store: &Store,
    changes: &DefinitionChanges,
    mode: ApplyMode,
) -> Result<AppliedDefinitions, Error> {
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let added_sites =
            write_changes(&mut transaction, &changes.sites).await?.map_err(WriteError::Refused)?;
        write_notification_plan(&mut transaction, &changes.notifications).await?;
        let reach = select_reach(&mut transaction, None).await?;
        match mode {
            ApplyMode::Commit => transaction.commit().await?,
            ApplyMode::DryRun => transaction.rollback().await?,
        }
        Ok(AppliedDefinitions { added_sites, reach })
    };
    write_with_timeout(store, DEFINITIONS_TIMEOUT, "apply the definitions", work)
        .await
        .map_err(map_constraint_error)
}

async fn write_notification_plan(
    connection: &mut PgConnection,
    plan: &NotificationPlan,
) -> Result<(), WriteError> {
    for channel in &plan.channels.add {
        insert_channel(connection, channel).await?;
    }
    for (_, channel) in &plan.channels.change {
        if !write_channel(connection, channel, None).await? {
            insert_channel(connection, channel).await?;
        }
    }
    // A route that is removed names no channel any more, and neither does one that is changed.
    sqlx::query("DELETE FROM picket.routes WHERE name = ANY ($1)")
        .bind(&plan.routes.remove)
        .execute(&mut *connection)
        .await?;
    for (_, route) in &plan.routes.change {
        if !write_route(connection, &route.name, route, None).await? {
            insert_route(connection, route, RoutePlace::Defined).await?;
        }
    }
    for route in &plan.routes.add {
        insert_route(connection, route, RoutePlace::Defined).await?;
    }
    for name in &plan.channels.remove {
        delete_channel(connection, name, None).await?;
    }
    Ok(())
}
