//! A site in a listing: the columns of `picket.sites`, under their public names.

use picket_proto::{SiteId, Timestamp, site::SiteSpec};
use picket_store::sites::Site;
use serde::Serialize;
use serde_json::{Map, Value};

use super::nested_fields::{FieldLine, describe_nested_fields, remove_empty_objects};

/// A row of `picket site list --output json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SiteRecord {
    pub(crate) id: SiteId,
    pub(crate) url: String,
    /// The user-defined fields except the URL. Empty if the row, written by SQL, cannot be parsed.
    #[serde(flatten)]
    definition: Map<String, Value>,
    /// Lines of `options` and `assertions`, which are objects in `definition`.
    #[serde(skip)]
    nested_lines: Vec<FieldLine>,
    pub(crate) problem: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<&Site> for SiteRecord {
    fn from(site: &Site) -> Self {
        let (mut definition, unreadable) = match &site.spec {
            Ok(spec) => (spec.to_json_fields(), None),
            Err(why) => (Map::new(), Some(why.to_string())),
        };
        definition.remove("url");
        remove_empty_objects(&mut definition);
        Self {
            id: site.id,
            url: site.url.clone(),
            definition,
            nested_lines: site
                .spec
                .as_ref()
                .map_or_else(|_| Vec::new(), |spec| describe_nested_fields(&spec.check)),
            problem: site.problem.clone().or(unreadable),
            created_at: site.created_at,
            updated_at: site.updated_at,
        }
    }
}

impl SiteRecord {
    /// State of the site as one word.
    pub(crate) fn state(&self) -> &'static str {
        match (self.definition.get("enabled"), &self.problem) {
            (Some(Value::Bool(false)), _) => "paused",
            (_, Some(_)) => "problem",
            _ => "watched",
        }
    }

    pub(crate) fn name(&self) -> Option<String> {
        Some(self.definition.get("name")?.as_str()?.to_owned())
    }

    pub(crate) fn interval_text(&self) -> Option<String> {
        Some(super::format_interval(self.definition.get("interval_seconds")?.as_i64()?))
    }

    pub(crate) fn regions_text(&self) -> String {
        match self.list_field("regions") {
            none if none.is_empty() => "all".to_owned(),
            some => some.join(","),
        }
    }

    pub(crate) fn tags_text(&self) -> Option<String> {
        Some(self.list_field("tags").join(",")).filter(|tags| !tags.is_empty())
    }

    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        self.list_field("tags").contains(&tag)
    }

    /// The user-defined fields with their values as text. Null and empty fields are omitted.
    pub(crate) fn field_lines(&self) -> Vec<FieldLine> {
        let is_nested = |name: &&&str| matches!(**name, "options" | "assertions");
        SiteSpec::FIELDS
            .iter()
            .filter(|name| !is_nested(name))
            .filter_map(|name| Some(((*name).to_owned(), format_value(self.definition.get(*name)?)?)))
            .chain(self.nested_lines.iter().cloned())
            .collect()
    }

    fn list_field(&self, field: &str) -> Vec<&str> {
        match self.definition.get(field) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// A value as text for people; `None` if it is null or empty.
fn format_value(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) if values.is_empty() => None,
        Value::Array(values) => Some(values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(fields) => {
            // A header value may be a credential, so only the names are shown.
            Some(fields.keys().map(|name| format!("{name}: …")).collect::<Vec<_>>().join(", "))
        }
        other => Some(other.to_string()),
    }
}
