//! A route in a listing.

use picket_proto::{notification_plan::NamedDefinition, route::RouteDefinition};
use picket_store::routes::Route;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::Error,
    output::{
        OutputFormat, OutputOptions, TextTable, print_coloured, print_data, status_cell, text_cell,
        to_pretty_json,
    },
};

/// A route as JSON.
#[derive(Serialize)]
pub(super) struct RouteRecord {
    name: String,
    position: Option<i64>,
    /// False if the route is paused.
    enabled: Option<bool>,
    /// The other fields that differ from their defaults.
    #[serde(flatten)]
    fields: Map<String, Value>,
    /// Why the definition cannot be read.
    unreadable: Option<String>,
    #[serde(skip)]
    definition: Option<RouteDefinition>,
}

impl From<Route> for RouteRecord {
    fn from(route: Route) -> Self {
        let definition = route.definition.as_ref();
        let mut fields = definition.map_or_else(|_| Map::new(), NamedDefinition::to_json_fields);
        fields.retain(|name, _| !matches!(name.as_str(), "position" | "enabled"));
        Self {
            name: route.name,
            position: definition.ok().map(|definition| definition.position),
            enabled: definition.ok().map(|definition| definition.enabled),
            fields,
            unreadable: definition.err().map(ToString::to_string),
            definition: route.definition.ok(),
        }
    }
}

impl RouteRecord {
    fn state_word(&self) -> &'static str {
        match self.enabled {
            None => "problem",
            Some(true) => "active",
            Some(false) => "paused",
        }
    }
}

/// What a route does, in words.
pub(super) fn describe_route(route: &RouteDefinition) -> String {
    let delay = match route.delay_ms {
        0 => String::new(),
        _ => format!(" after {}", text_of(&route.to_json_fields(), "delay").unwrap_or_default()),
    };
    let state = if route.enabled { "" } else { " (paused)" };
    format!(
        "{} of {} to {}{delay}{state}",
        route.events.join(", "),
        route.describe_sites(),
        route.channels.join(", ")
    )
}

pub(super) fn list_records(records: &[RouteRecord], output: OutputOptions) -> Result<(), Error> {
    output.print_rows(records, |records| {
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
                status_cell(record.state_word()),
                text_cell(route.events.join(",")),
                text_cell(route.describe_sites()),
                text_cell(route.channels.join(",")),
                text_cell(describe_options(&record.fields)),
            ]);
        }
        listing
    })
}

pub(super) fn show_record(record: RouteRecord, output: OutputOptions) -> Result<(), Error> {
    if output.output == OutputFormat::Json {
        return print_data(&to_pretty_json(&[record]));
    }
    let mut lines = TextTable::new(["ROUTE", &record.name], "");
    lines.add_row([text_cell("state"), status_cell(record.state_word())]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.add_row([text_cell(name), text_cell(value)]);
        }
    };
    add("problem", record.unreadable.clone());
    add("position", record.position.map(|position| position.to_string()));
    if let Some(route) = &record.definition {
        add("events", Some(route.events.join(", ")));
        add("about", Some(route.describe_sites()));
        add("channels", Some(route.channels.join(", ")));
        for part in list_options(&record.fields) {
            let (name, value) = part.split_once(' ').unwrap_or((&part, ""));
            add(name, Some(value.to_owned()));
        }
    }
    print_coloured(&lines.to_string())
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Option<String> {
    Some(fields.get(name)?.as_str()?.to_owned())
}

/// The fields that have no column of their own.
fn describe_options(fields: &Map<String, Value>) -> Option<String> {
    let parts = list_options(fields);
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The fields that have no column of their own, each as its name and its value.
fn list_options(fields: &Map<String, Value>) -> Vec<String> {
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
            let zone = active["time_zone"].as_str().unwrap_or_default();
            parts.push(format!("active {days} {}-{} {zone}", text("from"), text("to")));
        }
    }
    parts
}
