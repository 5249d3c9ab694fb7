//! A channel in a listing.

use picket_proto::{Timestamp, notification_plan::NamedDefinition};
use picket_store::channels::{Channel, ChannelState};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::Error,
    output::{
        OutputFormat, OutputOptions, TextTable, print_coloured, print_data, status_cell, text_cell,
        to_pretty_json,
    },
    site::format_timestamp,
};

/// A row of `picket channel list --output json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ChannelRecord {
    pub(super) name: String,
    pub(super) kind: String,
    enabled: Option<bool>,
    send_closed: Option<bool>,
    pace_ms: Option<i64>,
    /// Settings of the kind, with the names of secrets.
    settings: Map<String, Value>,
    #[serde(flatten)]
    pub(super) state: ChannelState,
    /// The state as a single word.
    #[serde(skip)]
    pub(super) state_word: &'static str,
    /// Why the definition cannot be read.
    unreadable: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<&Channel> for ChannelRecord {
    fn from(channel: &Channel) -> Self {
        let definition = channel.definition.as_ref();
        Self {
            name: channel.name.clone(),
            kind: channel.kind.clone(),
            enabled: definition.ok().map(|definition| definition.enabled),
            send_closed: definition.ok().map(|definition| definition.send_closed),
            pace_ms: definition.ok().and_then(|definition| definition.pace_ms),
            settings: definition.map_or_else(|_| Map::new(), |definition| definition.settings.clone()),
            state: channel.state.clone(),
            state_word: channel.state_word(),
            unreadable: definition.err().map(ToString::to_string),
            created_at: channel.created_at,
            updated_at: channel.updated_at,
        }
    }
}

impl ChannelRecord {
    /// What keeps the channel from delivering, in words.
    pub(super) fn problem_text(&self) -> Option<String> {
        let failure = self.state.failing_since.and_then(|since| {
            let since = format_timestamp(Some(since.into()))?;
            let error = self.state.last_error.as_deref().unwrap_or("no answer");
            Some(format!("since {since}: {error}"))
        });
        self.unreadable.clone().or_else(|| self.state.problem.clone()).or(failure)
    }
}

pub(super) fn show_channel(channel: &Channel, output: OutputOptions) -> Result<(), Error> {
    let record = ChannelRecord::from(channel);
    if output.output == OutputFormat::Json {
        return print_data(&to_pretty_json(&[record]));
    }
    let mut lines = TextTable::new(["CHANNEL", &record.name], "");
    lines.add_row([text_cell("state"), status_cell(record.state_word)]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.add_row([text_cell(name), text_cell(value)]);
        }
    };
    add("problem", record.problem_text());
    match &channel.definition {
        Ok(definition) => {
            for (name, value) in definition.to_json_fields() {
                add(&name, Some(format_setting(&value)));
            }
        }
        Err(_) => add("kind", Some(record.kind.clone())),
    }
    let state = &record.state;
    add("last delivered", format_timestamp(state.last_delivered_at.map(Into::into)));
    add(
        "failures in a row",
        (state.consecutive_failures > 0).then(|| state.consecutive_failures.to_string()),
    );
    add("waiting", Some(state.waiting.to_string()));
    add("oldest waiting", format_timestamp(state.oldest_waiting_at.map(Into::into)));
    print_coloured(&lines.to_string())
}

/// A value of a setting, in the form of the command line.
pub(crate) fn format_setting(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => match (fields.len(), fields.get("secret")) {
            (1, Some(Value::String(name))) => format!("secret:{name}"),
            _ => value.to_string(),
        },
        Value::Array(values) if values.iter().all(Value::is_string) => {
            values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
