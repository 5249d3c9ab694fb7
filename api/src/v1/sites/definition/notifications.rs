//! Channels and routes of a whole definition.

use picket_proto::{
    ValidationError,
    channel_definition::{ChannelDefinition, ChannelFields},
    notification_plan::{DesiredNotifications, NamedDefinition, NamedPlan, NotificationPlan},
    route::{RouteDefinition, RouteFields, name_routes, refuse_taken_name},
    site::SiteSpec,
};
use picket_store::{
    definitions::{self, DefinitionChanges, ReferenceRefusal, find_reference_refusals},
    tags::read_tag_index_of_routes,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::refusals::Refusals;
use crate::{
    access::{Access, Scope},
    channels::validate_channel,
    extract::parse_json,
    problem::Problem,
    state::Api,
    v1::site_body::build_pointer,
};

/// Changes to channels or routes, by their names.
#[derive(Serialize, ToSchema)]
pub(super) struct NamedChanges {
    /// Names of added ones.
    added: Vec<String>,
    /// Names of changed ones.
    changed: Vec<String>,
    /// Names of removed ones.
    removed: Vec<String>,
    /// Number of unchanged ones.
    unchanged: usize,
}

impl<T: NamedDefinition> From<&NamedPlan<T>> for NamedChanges {
    fn from(plan: &NamedPlan<T>) -> Self {
        Self {
            added: plan.add.iter().map(|new| new.name().to_owned()).collect(),
            changed: plan.change.iter().map(|(_, new)| new.name().to_owned()).collect(),
            removed: plan.remove.clone(),
            unchanged: plan.unchanged,
        }
    }
}

/// Decodes and validates `channels`, an object by name, and `routes`, a list in order.
pub(super) fn decode_notifications(
    fields: &Map<String, Value>,
    refusals: &mut Refusals,
) -> DesiredNotifications {
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let channels = given("channels").map(|channels| match channels {
        Value::Object(channels) => decode_channels(channels, refusals),
        _ => {
            refusals.add("/channels".to_owned(), "an object of channels by name is needed here");
            Vec::new()
        }
    });
    let routes = given("routes").map(|routes| match routes {
        Value::Array(routes) => decode_routes(routes, refusals),
        _ => {
            refusals.add("/routes".to_owned(), "a list of routes is needed here");
            Vec::new()
        }
    });
    DesiredNotifications { channels, routes }
}

fn decode_channels(entries: &Map<String, Value>, refusals: &mut Refusals) -> Vec<ChannelDefinition> {
    let decode = |(name, entry): (&String, &Value)| {
        let pointer = format!("/channels/{}", name.replace('~', "~0").replace('/', "~1"));
        let fields: ChannelFields = decode_entry(entry, &pointer, refusals)?;
        let channel = fields.into_definition(name.clone());
        let checked = channel.and_then(|channel| validate_channel(&channel).map(|()| channel));
        keep_valid(checked, &pointer, refusals)
    };
    entries.iter().filter_map(decode).collect()
}

fn decode_routes(entries: &[Value], refusals: &mut Refusals) -> Vec<RouteDefinition> {
    let mut decoded: Vec<RouteDefinition> = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let pointer = format!("/routes/{position}");
        let Some(fields) = decode_entry::<RouteFields>(entry, &pointer, refusals) else { continue };
        let place = i64::try_from(position).unwrap_or(i64::MAX);
        let route = fields.into_definition(place).and_then(|route| refuse_taken_name(route, &decoded));
        decoded.extend(keep_valid(route, &pointer, refusals));
    }
    name_routes(&mut decoded, []);
    decoded
}

fn decode_entry<T: DeserializeOwned>(entry: &Value, pointer: &str, refusals: &mut Refusals) -> Option<T> {
    match parse_json(entry.to_string().as_bytes()) {
        Ok(fields) => Some(fields),
        Err(problem) => {
            refusals.add(pointer.to_owned(), problem.detail());
            None
        }
    }
}

fn keep_valid<T>(checked: Result<T, ValidationError>, pointer: &str, refusals: &mut Refusals) -> Option<T> {
    match checked {
        Ok(definition) => Some(definition),
        Err(error) => {
            refusals.add(build_pointer(pointer, &error.field), &error);
            None
        }
    }
}

/// Plans the changes to channels and routes.
///
/// # Errors
/// If the definition has channels or routes, and the sender may not change them.
pub(super) async fn plan_notifications(
    api: &Api,
    access: &Access,
    wanted: &DesiredNotifications,
    prune: bool,
) -> Result<NotificationPlan, Problem> {
    if wanted.channels.is_none() && wanted.routes.is_none() {
        return Ok(NotificationPlan::default());
    }
    access.require_scope(Scope::Admin)?;
    access.require_all_sites()?;
    Ok(definitions::plan_notifications(&api.store, wanted, prune).await?)
}

/// Refuses all missing names in routes, each by its pointer.
///
/// # Errors
/// The problem of all refused names, if there is one.
pub(super) async fn refuse_unknown_names(
    api: &Api,
    wanted: &DesiredNotifications,
    changes: &DefinitionChanges,
) -> Result<(), Problem> {
    let mut refusals = Refusals::default();
    for ReferenceRefusal { route, error } in find_reference_refusals(&api.store, changes).await? {
        let pointer = match route {
            Some(route) => build_pointer(&build_pointer_of_route(wanted, &route), &error.field),
            None => "/channels".to_owned(),
        };
        refusals.add(pointer, &error);
    }
    refusals.into_result()
}

/// Warns of tags in routes of the definition without a site, stored or in `sites`.
pub(super) async fn list_tag_warnings(
    api: &Api,
    wanted: &DesiredNotifications,
    sites: &[SiteSpec],
) -> Result<Vec<String>, Problem> {
    let routes = wanted.routes.as_deref().unwrap_or_default();
    let mut index = read_tag_index_of_routes(&api.store, routes).await?;
    index.add_tags(sites.iter().flat_map(|site| &site.tags));
    let warnings = routes.iter().flat_map(|route| {
        let pointer = build_pointer_of_route(wanted, &route.name);
        index.list_warnings(route).into_iter().map(move |warning| format!("{pointer}: {warning}"))
    });
    Ok(warnings.collect())
}

fn build_pointer_of_route(wanted: &DesiredNotifications, name: &str) -> String {
    let position = wanted.routes.iter().flatten().position(|route| route.name == name);
    format!("/routes/{}", position.unwrap_or_default())
}
