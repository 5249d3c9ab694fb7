//! `picket route`: which events are told to which channels.

mod args;
mod test;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::route::{RouteDefinition, name_routes};
use picket_store::{
    channels,
    routes::{self, Reach, RoutePlace},
};
use serde::Serialize;
use serde_json::{Map, Value};

use self::{args::RouteArgs, test::TestRouteOptions};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
};

/// Options of `picket route`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RouteCommand {
    /// Add a route
    #[command(after_help = "\
All routes that match an event apply, and a channel is told once: of several routes with a channel, the settings of the \
first hold. A route without tags and sites is for all sites.

Examples:
  picket route add --channel ops
  picket route add --tag shop --channel ops --remind 2h --escalate 15m=phone --escalate 1h=boss
  picket route add --tag shop --channel desk --active 'mon-fri 08:00-18:00' --time-zone Europe/Berlin
  picket route add --event certificate --event warning --channel desk
  picket route add --fallback --channel ops              # where no other route applies")]
    Add(Box<AddRouteOptions>),
    /// List all routes in their order
    List(ListRoutesOptions),
    /// Remove a route
    Remove(RemoveRouteOptions),
    /// Show which channels each site reaches, and how many sites reach nobody
    #[command(after_help = "\
An incident in all regions of a site is assumed. Silences, maintenance and active hours are not looked at.

Examples:
  picket route test
  picket route test https://example.com
  picket route test --tag shop --unreached")]
    Test(TestRouteOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddRouteOptions {
    #[command(flatten)]
    route: RouteArgs,
    /// Place among the routes, from 0 [default: the last]
    #[arg(long, value_name = "N")]
    position: Option<i64>,
    /// Tell the route's channels once of what is open now and concerns it
    #[arg(long)]
    catch_up: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListRoutesOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RemoveRouteOptions {
    /// Name of the route, as listed by 'picket route list'
    name: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(command: RouteCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        RouteCommand::Add(options) => add_route(*options, matches).await,
        RouteCommand::List(options) => list_routes(options, matches).await,
        RouteCommand::Test(options) => test::test_routes(options, matches).await,
        RouteCommand::Remove(RemoveRouteOptions { name, database }) => {
            let store = database.connect(matches).await?;
            if !routes::remove_route(&store, &name, None).await? {
                let known = routes::list_routes(&store).await?;
                let names: Vec<&str> = known.iter().map(|route| route.name.as_str()).collect();
                return Err(Error::Usage(match names.is_empty() {
                    true => format!("there is no route '{name}', and no other"),
                    false => format!("there is no route '{name}'; there are: {}", names.join(", ")),
                }));
            }
            let reach = routes::count_reach(&store, None).await?;
            print_text(&format!("removed route {name}\n{}", describe_reach(reach)))
        }
    }
}

async fn add_route(options: AddRouteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let AddRouteOptions { route, position, catch_up, database } = options;
    let mut new = [route.into_fields()?.into_definition(position.unwrap_or(0))?];
    let store = database.connect(matches).await?;
    let taken = routes::list_routes(&store).await?.into_iter().map(|route| route.name);
    name_routes(&mut new, taken);
    let [route] = new;
    let place = match position {
        Some(_) => RoutePlace::Defined,
        None => RoutePlace::Last,
    };
    routes::add_route(&store, &route, place).await?;
    let told = match catch_up {
        true => {
            let notices = channels::catch_up(&store, None, Some(&route.name)).await?;
            format!("its channels are told of what is open now: {notices}\n")
        }
        false => String::new(),
    };
    let reach = routes::count_reach(&store, None).await?;
    print_text(&format!(
        "added route {}: {}\n{told}{}",
        route.name,
        describe_route(&route),
        describe_reach(reach)
    ))
}

/// One sentence about the sites that reach nobody; empty without routes.
pub(crate) fn describe_reach(reach: Reach) -> String {
    match (reach.routes, reach.unreached, reach.sites) {
        (0, _, _) | (_, _, 0) => String::new(),
        (_, 0, sites) => format!("incidents of all {sites} sites reach a channel\n"),
        (_, some, sites) => {
            format!("incidents of {some} of {sites} sites reach NOBODY; see: picket route test --unreached\n")
        }
    }
}

/// What a route does, in words.
fn describe_route(route: &RouteDefinition) -> String {
    let delay = match route.delay_ms {
        0 => String::new(),
        _ => format!(" after {}", text_of(&field_map(route), "delay").unwrap_or_default()),
    };
    format!(
        "{} of {} to {}{delay}",
        route.events.join(", "),
        route.describe_sites(),
        route.channels.join(", ")
    )
}

/// The fields of a route that differ from their defaults.
fn field_map(route: &RouteDefinition) -> Map<String, Value> {
    match serde_json::to_value(route.to_fields()) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Option<String> {
    Some(fields.get(name)?.as_str()?.to_owned())
}

/// A route as JSON.
#[derive(Serialize)]
struct RouteRecord {
    name: String,
    position: Option<i64>,
    /// The fields that differ from their defaults.
    #[serde(flatten)]
    fields: Map<String, Value>,
    /// Why the definition cannot be read.
    unreadable: Option<String>,
    #[serde(skip)]
    definition: Option<RouteDefinition>,
}

async fn list_routes(options: ListRoutesOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let record = |route: routes::Route| {
        let mut fields = route.definition.as_ref().map_or_else(|_| Map::new(), field_map);
        fields.remove("name");
        RouteRecord {
            name: route.name,
            position: route.definition.as_ref().ok().map(|definition| definition.position),
            fields,
            unreadable: route.definition.as_ref().err().map(ToString::to_string),
            definition: route.definition.ok(),
        }
    };
    let records: Vec<RouteRecord> = routes::list_routes(&store).await?.into_iter().map(record).collect();
    options.output.print_rows(&records, |records| {
        let columns = ["POSITION", "NAME", "STATE", "EVENTS", "SITES", "CHANNELS", "OPTIONS"];
        let mut listing = TextTable::new(columns, "no routes yet; add one: picket route add --channel NAME")
            .align_right([0]);
        for record in records {
            let Some(route) = &record.definition else {
                let cells = [text_cell(None::<i64>), text_cell(&record.name), status_cell("problem")];
                let rest = [None, None, None, record.unreadable.clone()].map(text_cell);
                listing.add_cells(cells.into_iter().chain(rest));
                continue;
            };
            listing.add_row([
                text_cell(route.position),
                text_cell(&record.name),
                status_cell(if route.enabled { "active" } else { "paused" }),
                text_cell(route.events.join(",")),
                text_cell(route.describe_sites()),
                text_cell(route.channels.join(",")),
                text_cell(describe_options(&record.fields)),
            ]);
        }
        listing
    })
}

/// The fields that have no column of their own.
fn describe_options(fields: &Map<String, Value>) -> Option<String> {
    let mut parts: Vec<String> = ["wait", "delay", "group_by", "remind"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", text_of(fields, name)?)))
        .collect();
    if let Some(after) = fields.get("storm_after") {
        parts.push(format!("storm_after {after}"));
    }
    for step in fields.get("escalate").and_then(Value::as_array).into_iter().flatten() {
        let names = step["channels"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<&str> = names.collect();
        parts.push(format!("escalate {}={}", step["after"].as_str().unwrap_or_default(), names.join(",")));
    }
    if let Some(active) = fields.get("active") {
        for span in active["hours"].as_array().into_iter().flatten() {
            let days: Vec<&str> =
                span["days"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let days = if days.is_empty() { "daily".to_owned() } else { days.join(",") };
            let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
            parts.push(format!("active {days} {}-{}", text("from"), text("to")));
        }
        parts.push(active["time_zone"].as_str().unwrap_or_default().to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
