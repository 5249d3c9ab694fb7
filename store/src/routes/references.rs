//! Channels, sites, regions and time zones that routes name.

use std::collections::BTreeSet;

use picket_proto::{ValidationError, route::RouteDefinition, suggestion::suggest_name};
use sqlx::PgConnection;

use crate::{sites::SiteChanges, write_error::WriteError};

/// Existing names, as far as some routes use them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownNames {
    channels: BTreeSet<String>,
    regions: BTreeSet<String>,
    time_zones: BTreeSet<String>,
    /// Ids and URLs.
    sites: Vec<(i64, String)>,
    /// URLs of sites before their addition.
    new_sites: BTreeSet<String>,
}

impl KnownNames {
    /// Loads the existing names among those in `routes`. Locks the channels against their removal
    /// before the end of the transaction.
    pub(crate) async fn load(
        connection: &mut PgConnection,
        routes: &[&RouteDefinition],
    ) -> Result<Self, sqlx::Error> {
        let mut known = Self::default();
        let named: BTreeSet<&str> = routes.iter().flat_map(|route| route.named_channels()).collect();
        let named: Vec<&str> = named.into_iter().collect();
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM picket.channels WHERE name = ANY ($1) ORDER BY name FOR KEY SHARE",
        )
        .bind(&named)
        .fetch_all(&mut *connection)
        .await?;
        // A refusal lists the others too.
        let all: Vec<String> = match found.len() < named.len() {
            true => {
                let query = sqlx::query_scalar("SELECT name FROM picket.channels ORDER BY name LIMIT 50");
                query.fetch_all(&mut *connection).await?
            }
            false => Vec::new(),
        };
        known.channels.extend(found.into_iter().chain(all));
        if routes.iter().any(|route| !route.regions.is_empty()) {
            let query = sqlx::query_scalar("SELECT name FROM picket.regions WHERE removed_at IS NULL");
            known.regions = query.fetch_all(&mut *connection).await?.into_iter().collect();
        }
        let zones: Vec<&str> = routes
            .iter()
            .filter_map(|route| Some(route.active.as_ref()?.time_zone.as_str()))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !zones.is_empty() {
            let query =
                sqlx::query_scalar("SELECT name FROM pg_timezone_names WHERE name = ANY ($1)").bind(zones);
            known.time_zones = query.fetch_all(&mut *connection).await?.into_iter().collect();
        }
        let words: Vec<&str> = routes.iter().flat_map(|route| &route.sites).map(String::as_str).collect();
        if !words.is_empty() {
            let numbers: Vec<i64> = words.iter().filter_map(|word| word.parse().ok()).collect();
            let query =
                sqlx::query_as("SELECT id, url FROM picket.sites WHERE url = ANY ($1) OR id = ANY ($2)");
            known.sites = query.bind(words).bind(numbers).fetch_all(connection).await?;
        }
        Ok(known)
    }

    /// Adds and removes names as the changes do.
    pub(crate) fn apply_changes(&mut self, sites: &SiteChanges, added: &[&str], removed: &[String]) {
        self.channels.retain(|name| !removed.contains(name));
        self.channels.extend(added.iter().map(|name| (*name).to_owned()));
        self.regions.extend(sites.regions.iter().map(ToString::to_string));
        self.sites.retain(|(id, _)| !sites.deletes.iter().any(|deleted| deleted.0 == *id));
        self.new_sites.extend(sites.inserts.iter().map(|spec| spec.check.url.clone()));
        self.new_sites.extend(sites.updates.iter().map(|(_, spec)| spec.check.url.clone()));
    }

    /// Refusals of all missing names of a route, which would tell no channel, silently.
    pub(crate) fn find_missing(&self, route: &RouteDefinition) -> Vec<ValidationError> {
        let mut missing = Vec::new();
        for name in route.channels.iter().filter(|name| !self.channels.contains(*name)) {
            missing.push(refuse_name("channels".to_owned(), "channel", name, &self.channels));
        }
        for (index, step) in route.escalate.iter().enumerate() {
            for name in step.channels.iter().filter(|name| !self.channels.contains(*name)) {
                missing.push(refuse_name(
                    format!("escalate[{index}].channels"),
                    "channel",
                    name,
                    &self.channels,
                ));
            }
        }
        for name in route.regions.iter().filter(|name| !self.regions.contains(*name)) {
            missing.push(refuse_name("regions".to_owned(), "region", name, &self.regions));
        }
        if let Some(active) =
            route.active.as_ref().filter(|hours| !self.time_zones.contains(&hours.time_zone))
        {
            let allowed = "a time zone that the database knows, such as Europe/Berlin or UTC";
            missing.push(ValidationError::new("active.time_zone", &active.time_zone, allowed));
        }
        let is_known = |word: &&String| {
            self.new_sites.contains(*word)
                || self.sites.iter().any(|(id, url)| url == *word || id.to_string() == **word)
        };
        for word in route.sites.iter().filter(|word| !is_known(word)) {
            missing.push(ValidationError::new("sites", word, "the id or the URL of a site"));
        }
        missing
    }
}

fn refuse_name(field: String, noun: &str, name: &str, known: &BTreeSet<String>) -> ValidationError {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let allowed = match (names.is_empty(), suggest_name(name, names.iter().copied())) {
        (true, _) => format!("the name of a {noun}; there is none yet"),
        (false, Some(meant)) => {
            format!("the name of a {noun}: {}; did you mean '{meant}'?", names.join(", "))
        }
        (false, None) => format!("the name of a {noun}: {}", names.join(", ")),
    };
    ValidationError::new(field, name, allowed)
}

/// Refuses a route with a missing name. Returns the ids of its sites. Locks the channels against their
/// removal meanwhile.
pub(super) async fn resolve_references(
    connection: &mut PgConnection,
    route: &RouteDefinition,
) -> Result<Vec<i64>, WriteError> {
    let known = KnownNames::load(connection, &[route]).await?;
    match known.find_missing(route).into_iter().next() {
        Some(missing) => Err(missing.into()),
        None => {
            let ids: BTreeSet<i64> = known.sites.into_iter().map(|(id, _)| id).collect();
            Ok(ids.into_iter().collect())
        }
    }
}
