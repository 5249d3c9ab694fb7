//! Channels, sites, regions and time zones that a route names.

use std::collections::BTreeSet;

use picket_proto::{ValidationError, route::RouteDefinition};
use sqlx::PgConnection;

use crate::write_error::WriteError;

/// Refuses a route that names what there is not: it would tell nobody, silently. Returns the ids of
/// its sites. Locks the channels, so that none of them is removed meanwhile.
pub(super) async fn resolve_references(
    connection: &mut PgConnection,
    route: &RouteDefinition,
) -> Result<Vec<i64>, WriteError> {
    check_channels(connection, route).await?;
    if !route.regions.is_empty() {
        let known: Vec<String> =
            sqlx::query_scalar("SELECT name FROM picket.regions WHERE removed_at IS NULL ORDER BY name")
                .fetch_all(&mut *connection)
                .await?;
        if let Some(unknown) = route.regions.iter().find(|region| !known.contains(region)) {
            return Err(ValidationError::new("regions", unknown, describe_known("region", &known)).into());
        }
    }
    if let Some(active) = &route.active {
        let is_known: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)")
                .bind(&active.time_zone)
                .fetch_one(&mut *connection)
                .await?;
        if !is_known {
            let allowed = "a time zone that the database knows, such as Europe/Berlin or UTC";
            return Err(ValidationError::new("active.time_zone", &active.time_zone, allowed).into());
        }
    }
    resolve_sites(connection, &route.sites).await
}

fn describe_known(noun: &str, known: &[String]) -> String {
    match known.is_empty() {
        true => format!("the name of a {noun}; there is none yet"),
        false => format!("the name of a {noun}: {}", known.join(", ")),
    }
}

async fn check_channels(connection: &mut PgConnection, route: &RouteDefinition) -> Result<(), WriteError> {
    let named: Vec<&str> = route.named_channels().collect();
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM picket.channels WHERE name = ANY ($1) ORDER BY name FOR KEY SHARE",
    )
    .bind(&named)
    .fetch_all(&mut *connection)
    .await?;
    let Some(unknown) = named.iter().find(|name| !found.iter().any(|found| found == *name)) else {
        return Ok(());
    };
    let known: Vec<String> = sqlx::query_scalar("SELECT name FROM picket.channels ORDER BY name LIMIT 50")
        .fetch_all(connection)
        .await?;
    let is_direct = route.channels.iter().any(|name| name == *unknown);
    let field = if is_direct { "channels" } else { "escalate" };
    Err(ValidationError::new(field, unknown, describe_known("channel", &known)).into())
}

async fn resolve_sites(connection: &mut PgConnection, words: &[String]) -> Result<Vec<i64>, WriteError> {
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<i64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, url FROM picket.sites WHERE url = ANY ($1) OR id = ANY ($2)")
            .bind(words)
            .bind(numbers)
            .fetch_all(connection)
            .await?;
    let is_named = |word: &&String| rows.iter().any(|(id, url)| url == *word || id.to_string() == **word);
    if let Some(unknown) = words.iter().find(|word| !is_named(word)) {
        return Err(ValidationError::new("sites", unknown, "the id or the URL of a site").into());
    }
    Ok(rows.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>().into_iter().collect())
}
