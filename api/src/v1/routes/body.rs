//! A route in JSON: as it is read, and as it is written.

use picket_proto::{
    Timestamp, ValidationError,
    notification_plan::NamedDefinition,
    route::{RouteDefinition, RouteFields as DefinedFields},
};
use picket_store::{routes::Route as StoredRoute, tags::TagIndex};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{extract::parse_json, problem::Problem, v1::site_body::invalid_definition};

/// A route to write. An absent or null field has its default.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the fields are decoded by proto; this is their schema")]
#[schema(example = json!({"name": "shop", "tags": ["shop"], "channels": ["ops"], "remind": "4h"}))]
pub(super) struct RouteFields {
    /// Name of the route; made from tags and channels if absent.
    name: Option<String>,
    /// Place among the routes: for a channel in several of them, the settings of the first hold.
    position: Option<i64>,
    /// Any of these tags; all sites if empty.
    tags: Option<Vec<String>>,
    /// All of these tags.
    all_tags: Option<Vec<String>>,
    /// These sites by id or URL; all sites if empty.
    sites: Option<Vec<String>>,
    /// Any of these regions is down; all regions if empty.
    regions: Option<Vec<String>>,
    /// Least number of regions that are down.
    min_regions: Option<i64>,
    /// Events to tell: incident, warning, certificate, region, channel, ledger.
    #[schema(example = json!(["incident"]))]
    events: Option<Vec<String>>,
    /// Names of the channels to tell.
    channels: Vec<String>,
    /// Time to collect further incidents before a message; by default `10s` for people, none for programs.
    wait: Option<String>,
    /// Time for which an incident must last to be told, such as `2m`.
    delay: Option<String>,
    /// Content of a message: `route` (the default for people), `tag` or `site`.
    group_by: Option<String>,
    /// Time to the first reminder, doubled for each further one up to a day, or `never`.
    #[schema(default = "1h")]
    remind: Option<String>,
    /// More incidents than this at once are told by digests.
    #[schema(default = 20)]
    storm_after: Option<i64>,
    /// Further channels to tell until an acknowledgement, such as `[{"after": "15m", "channels": ["phone"]}]`.
    #[schema(value_type = Option<Vec<Object>>)]
    escalate: Option<Vec<Value>>,
    /// Hours in which the route tells, such as `{"time_zone": "Europe/Berlin", "hours": [{"days": ["mon-fri"], "from":
    /// "08:00", "to": "18:00"}]}`; always if absent.
    #[schema(value_type = Option<Object>)]
    active: Option<Value>,
    /// True if the route applies only where no other does.
    #[schema(default = false)]
    fallback: Option<bool>,
    /// False if the route is switched off.
    #[schema(default = true)]
    enabled: Option<bool>,
}

/// The fields of a stored route, as [`decode_route`] reads them.
pub(super) fn describe_fields(route: &RouteDefinition) -> Value {
    let mut fields = route.to_json_fields();
    fields.insert("name".to_owned(), route.name.clone().into());
    Value::Object(fields)
}

/// Decodes and validates a route. Without a name it has an empty one, and without a position 0.
///
/// # Errors
/// Names the wrong field by its JSON Pointer.
pub(super) fn decode_route(body: &Value) -> Result<RouteDefinition, Problem> {
    let mut fields: Map<String, Value> = parse_json(body.to_string().as_bytes())?;
    fields.retain(|_, value| !value.is_null());
    let position = match fields.remove("position") {
        None => 0,
        Some(position) => position.as_i64().ok_or_else(|| {
            let error = ValidationError::new("position", position, "a whole number from 0 to 1000000");
            invalid_definition(&error)
        })?,
    };
    let fields: DefinedFields = parse_json(Value::Object(fields).to_string().as_bytes())?;
    fields.into_definition(position).map_err(|error| invalid_definition(&error))
}

/// All routes in their order.
#[derive(Serialize, ToSchema)]
pub(super) struct RouteList {
    pub(super) items: Vec<Route>,
}

/// A route with all fields of its definition, as [`RouteFields`] has them.
#[derive(Serialize, ToSchema)]
pub(super) struct Route {
    /// Name of the route.
    name: String,
    /// The other fields of the definition; absent if the row, written by SQL, cannot be read.
    #[serde(flatten)]
    #[schema(value_type = RouteFields)]
    definition: Map<String, Value>,
    /// Why the definition cannot be read; null for a readable one.
    problem: Option<String>,
    /// What may be a mistake and is allowed: tags that no site has.
    warnings: Vec<String>,
    /// Time of creation; earlier events are not told.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Version, which each change replaces; also the `ETag`.
    version: String,
}

impl Route {
    /// The route, with warnings of the tags that are not in `tags`.
    pub(super) fn new(found: &StoredRoute, tags: &TagIndex) -> Self {
        let definition = found.definition.as_ref();
        let warnings = definition.map(|definition| tags.list_warnings(definition)).unwrap_or_default();
        Self {
            name: found.name.clone(),
            definition: definition.map_or_else(|_| Map::new(), list_all_fields),
            problem: definition.err().map(ToString::to_string),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            created_at: found.created_at,
            updated_at: found.updated_at,
            version: found.version.to_string(),
        }
    }
}

/// All fields of a route but its name, those with their defaults too.
fn list_all_fields(route: &RouteDefinition) -> Map<String, Value> {
    let defaults = json!({
        "tags": [], "all_tags": [], "sites": [], "regions": [], "min_regions": null, "events": ["incident"], "channels": [],
        "wait": null, "delay": "0s", "group_by": null, "remind": "1h", "storm_after": RouteDefinition::DEFAULT_STORM_AFTER,
        "escalate": [], "active": null, "fallback": false, "enabled": true,
    });
    let Value::Object(mut fields) = defaults else { return Map::new() };
    fields.extend(route.to_json_fields());
    fields
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn a_route_is_read_with_all_fields_of_its_schema_and_can_be_written_back() {
        let written =
            decode_route(&json!({"name": "shop", "channels": ["ops"], "tags": ["shop"], "position": 3}));
        let route = written.unwrap();

        let fields = list_all_fields(&route);

        let schema = serde_json::to_value(RouteFields::schema()).unwrap();
        let mut described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
        described.remove(&"name".to_owned());
        assert_eq!(fields.keys().collect::<BTreeSet<_>>(), described);
        let mut back = Value::Object(fields);
        back["name"] = "shop".into();
        assert_eq!(decode_route(&back).unwrap(), route);
    }

    #[test]
    fn a_refusal_has_the_pointer_of_the_field() {
        for (body, pointer) in [
            (json!({"channels": ["ops"], "chanels": []}), "/chanels"),
            (json!({"channels": []}), "/channels"),
            (json!({"channels": ["ops"], "position": "first"}), "/position"),
            (
                json!({"channels": ["ops"], "escalate": [{"after": "soon", "channels": ["ops"]}]}),
                "/escalate/0/after",
            ),
        ] {
            let problem = serde_json::to_value(decode_route(&body).unwrap_err()).unwrap();
            assert_eq!(
                (&problem["status"], &problem["errors"][0]["pointer"]),
                (&json!(422), &json!(pointer)),
                "{problem}"
            );
        }
    }
}
