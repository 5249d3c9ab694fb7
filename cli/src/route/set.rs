//! `picket route set`, `pause` and `resume`: changes to a stored route.

use clap::{ArgMatches, Args};
use picket_proto::route::{RouteDefinition, RouteFields};
use picket_store::{
    Store, channels,
    routes::{self, Route},
};
use serde_json::Value;

use super::{
    args::RouteArgs,
    describe_reach, find_route,
    record::{describe_route, show_record},
    warn_of_tags,
};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputFormat, OutputOptions, print_text},
};

/// Optional fields of a route.
const OPTIONAL_FIELDS: [&str; 13] = [
    "tags",
    "all_tags",
    "sites",
    "regions",
    "min_regions",
    "events",
    "delay",
    "wait",
    "group_by",
    "remind",
    "storm_after",
    "escalate",
    "active",
];

/// Options of `picket route set`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SetRouteOptions {
    /// Name of the route, as listed by 'picket route list'
    name: String,
    /// Another name for the route
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// Channel to tell, in place of all others; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    #[command(flatten)]
    route: RouteArgs,
    /// Apply beside other routes too
    #[arg(long, conflicts_with = "fallback", help_heading = "What is told")]
    no_fallback: bool,
    /// Give a field its default again, such as tags or escalate; may be repeated
    #[arg(long, value_name = "FIELD", value_parser = OPTIONAL_FIELDS)]
    clear: Vec<String>,
    /// Place among the routes, from 0
    #[arg(long, value_name = "N")]
    position: Option<i64>,
    /// Tell the route's channels once of what is open now and concerns it
    #[arg(long)]
    catch_up: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Options of `picket route pause` and `resume`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RouteSwitchOptions {
    /// Name of the route, as listed by 'picket route list'
    name: String,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn set_route(options: SetRouteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.clone().connect(matches).await?;
    let stored = find_route(&store, &options.name).await?;
    let before = stored.definition.clone()?;
    let after = options.change_route(&before)?;
    let is_changed = after != before;
    if is_changed {
        write_route(&store, &stored, &after).await?;
    }
    let told = match options.catch_up {
        true => {
            let notices = channels::catch_up(&store, None, Some(&after.name)).await?;
            format!("its channels are told of what is open now: {notices}\n")
        }
        false => String::new(),
    };
    warn_of_tags(&store, [&after]).await?;
    let done = match is_changed {
        true => format!(
            "changed route {}: {}\n{}",
            after.name,
            describe_route(&after),
            describe_reach(routes::count_reach(&store, None).await?)
        ),
        false => format!("route {} already has this definition; nothing was changed\n", after.name),
    };
    report_change(&store, &after.name, options.output, &format!("{done}{told}")).await
}

/// Pauses or resumes a route.
pub(super) async fn switch_route(
    options: RouteSwitchOptions,
    enabled: bool,
    matches: &ArgMatches,
) -> Result<(), Error> {
    let RouteSwitchOptions { name, output, database } = options;
    let store = database.connect(matches).await?;
    let stored = find_route(&store, &name).await?;
    let before = stored.definition.clone()?;
    let done = match enabled {
        true => "resumed",
        false => "paused",
    };
    if before.enabled == enabled {
        return report_change(&store, &name, output, &format!("route {name} was already {done}\n")).await;
    }
    write_route(&store, &stored, &RouteDefinition { enabled, ..before }).await?;
    let reach = describe_reach(routes::count_reach(&store, None).await?);
    report_change(&store, &name, output, &format!("{done} route {name}\n{reach}")).await
}

impl SetRouteOptions {
    fn change_route(&self, before: &RouteDefinition) -> Result<RouteDefinition, Error> {
        let mut fields = clear_fields(before.to_fields(), &self.clear);
        self.route.apply_to(&mut fields)?;
        if !self.channels.is_empty() {
            fields.channels.clone_from(&self.channels);
        }
        if self.rename.is_some() {
            fields.name.clone_from(&self.rename);
        }
        if self.no_fallback {
            fields.fallback = false;
        }
        Ok(fields.into_definition(self.position.unwrap_or(before.position))?)
    }
}

/// The fields with defaults for the named ones.
fn clear_fields(fields: RouteFields, names: &[String]) -> RouteFields {
    let Ok(Value::Object(mut object)) = serde_json::to_value(&fields) else { return fields };
    object.retain(|name, _| !names.contains(name));
    serde_json::from_value(Value::Object(object)).unwrap_or(fields)
}

/// Writes a definition in place of the one that was read.
async fn write_route(store: &Store, stored: &Route, route: &RouteDefinition) -> Result<(), Error> {
    match routes::update_route(store, &stored.name, route, Some(&stored.version)).await? {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "route {} was changed or removed by someone else meanwhile; nothing was changed",
            stored.name
        ))),
    }
}

/// Prints a change as text, or for programs the present route.
async fn report_change(store: &Store, name: &str, output: OutputOptions, done: &str) -> Result<(), Error> {
    match output.output {
        OutputFormat::Json => show_record(find_route(store, name).await?.into(), output),
        OutputFormat::Table => print_text(done),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_optional_field_of_a_route_can_be_cleared_and_no_other_is_lost() {
        let whole: RouteFields = serde_json::from_value(json!({
            "name": "shop", "tags": ["shop"], "all_tags": ["eu"], "sites": ["7"], "regions": ["eu-west"], "min_regions": 2,
            "events": ["warning"], "channels": ["ops"], "wait": "30s", "delay": "2m", "group_by": "tag",
            "remind": "never", "storm_after": 50, "escalate": [{"after": "15m", "channels": ["phone"]}],
            "active": {"time_zone": "UTC", "hours": [{"from": "08:00", "to": "18:00"}]}, "fallback": true,
        }))
        .unwrap();
        let route = whole.clone().into_definition(3).unwrap();

        let cleared = clear_fields(whole, &OPTIONAL_FIELDS.map(str::to_owned)).into_definition(3).unwrap();

        let bare = json!({"name": "shop", "channels": ["ops"], "fallback": true});
        let bare: RouteFields = serde_json::from_value(bare).unwrap();
        assert_eq!(cleared, bare.into_definition(3).unwrap());
        assert_eq!(clear_fields(route.to_fields(), &[]).into_definition(3).unwrap(), route);
    }
}
