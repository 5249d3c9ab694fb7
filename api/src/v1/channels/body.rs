//! A channel in JSON: as it is read, and as it is written.

use picket_proto::{
    Timestamp, ValidationError,
    channel_definition::{ChannelDefinition, ChannelFields},
};
use picket_store::{DbTimestamp, channels::Channel as StoredChannel};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    access::Access, channels::validate_channel, extract::parse_json, problem::Problem,
    v1::site_body::invalid_definition,
};

/// A channel to write. An absent or null field has its default.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "ops", "kind": "slack", "settings": {"url": {"secret": "slack-ops"}}}))]
pub(super) struct NewChannel {
    /// Name of the channel: lower-case letters, digits, `_`, `.` and `-`. Needed for a new one, and never changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Protocol of the channel: webhook, email, slack, discord, teams, telegram, pagerduty, alertmanager, ntfy, exec,
    /// opsgenie, pushover, matrix, googlechat, gotify, twilio or watchdog.
    kind: String,
    /// False while the channel is paused.
    #[schema(default = true)]
    enabled: Option<bool>,
    /// False if the channel is not told of ends.
    #[schema(default = true)]
    send_closed: Option<bool>,
    /// Least time between two messages, such as `1s`; by default that of the kind.
    pace: Option<String>,
    /// Settings of the kind. A credential is written as `{"secret": NAME}`; a plain value is refused.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// The fields of a stored channel, as [`decode_channel`] reads them.
pub(super) fn describe_fields(channel: &ChannelDefinition) -> Value {
    let fields = channel.to_fields();
    let body = NewChannel {
        name: None,
        kind: fields.kind,
        enabled: fields.enabled,
        send_closed: fields.send_closed,
        pace: fields.pace,
        settings: Some(fields.flat_settings),
    };
    // Only names of other types than text cannot be written, and these are texts.
    serde_json::to_value(body).unwrap_or_default()
}

/// Decodes and validates a channel. `name` is that of the changed one.
///
/// # Errors
/// Names the wrong field by its JSON Pointer, and repeats no possible secret.
pub(super) fn decode_channel(body: &Value, name: Option<&str>) -> Result<ChannelDefinition, Problem> {
    let body: NewChannel = parse_json(body.to_string().as_bytes())?;
    let name = match (name, body.name) {
        (None, Some(name)) => name,
        (None, None) => {
            let error = ValidationError::new("name", "(absent)", "the name of the new channel");
            return Err(invalid_definition(&error));
        }
        (Some(name), given) => match given.filter(|given| given != name) {
            None => name.to_owned(),
            Some(given) => {
                let allowed = format!("{name}: a channel keeps its name; add another and remove this one");
                return Err(invalid_definition(&ValidationError::new("name", given, allowed)));
            }
        },
    };
    let fields = ChannelFields {
        kind: body.kind,
        enabled: body.enabled,
        send_closed: body.send_closed,
        pace: body.pace,
        settings: body.settings,
        flat_settings: Map::new(),
    };
    let channel = fields.into_definition(name).map_err(|error| invalid_definition(&error))?;
    validate_channel(&channel).map_err(|error| invalid_definition(&error))?;
    Ok(channel)
}

/// All channels by name.
#[derive(Serialize, ToSchema)]
pub(super) struct ChannelList {
    pub(super) items: Vec<Channel>,
}

/// A channel with its state.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "name": "ops", "kind": "slack", "enabled": true, "send_closed": true, "pace": null,
    "settings": {"url": {"secret": "slack-ops"}}, "state": "delivers", "problem": null, "failing_since": null,
    "consecutive_failures": 0, "last_delivered_at": "2026-11-20T12:00:12.000000Z", "waiting": 0, "oldest_waiting_at": null,
    "created_at": "2026-11-20T12:00:00.000000Z", "updated_at": "2026-11-20T12:00:00.000000Z", "version": "1042"
}))]
pub(super) struct Channel {
    /// Name of the channel.
    name: String,
    /// Protocol of the channel.
    kind: String,
    /// False while the channel is paused; null if its definition cannot be read.
    enabled: Option<bool>,
    /// False if the channel is not told of ends; null if its definition cannot be read.
    send_closed: Option<bool>,
    /// Least time between two messages; null for that of the kind.
    pace: Option<String>,
    /// Settings of the kind, with the names of secrets; null for a token with a tag limit.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// `new`, `delivers`, `retrying`, `failing` (other channels are told), `problem` (until its definition is changed) or
    /// `paused`.
    state: &'static str,
    /// Reason of missing deliveries; null for nothing, and for a token with a tag limit.
    problem: Option<String>,
    /// First failure since the last delivery.
    #[schema(value_type = Option<String>, format = DateTime)]
    failing_since: Option<DbTimestamp>,
    /// Failed attempts since the last delivery.
    consecutive_failures: i32,
    /// Time of the last delivery.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_delivered_at: Option<DbTimestamp>,
    /// Events that the channel is still to be told.
    waiting: i64,
    /// Time of the oldest of them.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_waiting_at: Option<DbTimestamp>,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Time of the last change of the definition.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Version, which each change of the definition replaces; also the `ETag`.
    version: String,
}

impl Channel {
    /// The channel as the sender of a request may see it.
    pub(super) fn new(found: &StoredChannel, access: &Access) -> Self {
        let definition = found.definition.as_ref().ok();
        let sees_all = access.tag_limit().is_none();
        let state = &found.state;
        Self {
            name: found.name.clone(),
            kind: found.kind.clone(),
            enabled: definition.map(|channel| channel.enabled),
            send_closed: definition.map(|channel| channel.send_closed),
            pace: definition.and_then(|channel| channel.to_fields().pace),
            settings: definition.filter(|_| sees_all).map(|channel| channel.settings.clone()),
            state: found.state_word(),
            problem: found.problem().filter(|_| sees_all),
            failing_since: state.failing_since,
            consecutive_failures: state.consecutive_failures,
            last_delivered_at: state.last_delivered_at,
            waiting: state.waiting,
            oldest_waiting_at: state.oldest_waiting_at,
            created_at: found.created_at,
            updated_at: found.updated_at,
            version: found.version.to_string(),
        }
    }
}
