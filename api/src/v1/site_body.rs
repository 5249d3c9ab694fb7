//! A site in JSON: as it is read, and as it is written.

use picket_proto::{SiteId, Timestamp, ValidationError};
use picket_store::sites::VersionedSite;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::site_secrets::hide_values;
use crate::{
    access::{Access, Scope},
    problem::Problem,
};

/// Fields of a site, the same as in `sites.yaml`. An absent or null field has its default.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the fields are decoded by proto; this is their schema")]
#[schema(example = json!({"url": "https://example.com/health", "interval": "30s", "regex": "\"status\": *\"ok\"", "tags": ["shop"]}))]
pub(super) struct SiteFields {
    /// URL to check.
    url: String,
    /// Display name; defaults to the URL.
    name: Option<String>,
    /// Interval between checks, in seconds.
    #[schema(default = 60)]
    interval_seconds: Option<i64>,
    /// Another form of `interval_seconds`: a duration such as `30s`. Never in a response.
    interval: Option<String>,
    /// Maximum time of a check, in milliseconds.
    #[schema(default = 10000, minimum = 100, maximum = 60000)]
    timeout_ms: Option<i64>,
    /// Another form of `timeout_ms`: a duration such as `5s`. Never in a response.
    timeout: Option<String>,
    /// Method of the request: GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.
    #[schema(default = "GET")]
    method: Option<String>,
    /// Headers of the request. In responses each value is `(hidden)`. Written back, `(hidden)` keeps the stored value of
    /// the header, and is refused if none is stored. `options` has fields for secrets by name.
    #[schema(value_type = Option<Object>)]
    headers: Option<Map<String, Value>>,
    /// Body of the request. It is `(hidden)` from tokens without the scope `write`. Written back, `(hidden)` keeps the
    /// stored body, and is refused if none is stored.
    body: Option<String>,
    /// Statuses and ranges that are up.
    #[schema(default = "200-299")]
    status: Option<String>,
    /// Regular expression that the body must match.
    regex: Option<String>,
    /// Regular expression that the body must not match.
    not_regex: Option<String>,
    /// Maximum number of redirects.
    #[schema(default = 10)]
    max_redirects: Option<i64>,
    /// IP version: any, 4 or 6.
    #[schema(default = "any")]
    ip_version: Option<String>,
    /// True if the certificate must be valid.
    #[schema(default = true)]
    tls_verify: Option<bool>,
    /// How to ask, beyond the other fields. Secrets are names, such as `{"auth": {"bearer": {"secret": "shop"}}}`.
    #[schema(value_type = Option<Object>)]
    options: Option<Map<String, Value>>,
    /// What a good response is, beyond the other fields, such as
    /// `{"json": [{"path": "$.status", "equals": "ok"}]}`.
    #[schema(value_type = Option<Object>)]
    assertions: Option<Map<String, Value>>,
    /// Regions that check the site; empty for all regions.
    regions: Option<Vec<String>>,
    /// Labels for reports and selection.
    tags: Option<Vec<String>>,
    /// Number of failing regions that opens an incident; defaults to a majority.
    quorum: Option<i64>,
    /// Consecutive failures after which a region counts as down.
    #[schema(default = 2)]
    failures_to_open: Option<i64>,
    /// Consecutive successes after which a region counts as up again.
    #[schema(default = 2)]
    successes_to_close: Option<i64>,
    /// True if the site is checked.
    #[schema(default = true)]
    enabled: Option<bool>,
}

/// A site with all fields of its definition, as [`SiteFields`] has them.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": 7, "url": "https://example.com/health", "name": null, "interval_seconds": 30, "regions": [], "tags": ["shop"],
    "enabled": true, "problem": null, "created_at": "2026-11-20T12:00:00.000000Z",
    "updated_at": "2026-11-20T12:00:00.000000Z", "version": "1042"
}))]
pub(super) struct Site {
    /// Id of the site.
    #[schema(value_type = i64)]
    pub(super) id: SiteId,
    /// URL to check.
    url: String,
    /// The other fields of the definition; absent if the row, written by SQL, cannot be read.
    #[serde(flatten)]
    #[schema(value_type = SiteFields)]
    definition: Map<String, Value>,
    /// Reason why the site cannot be checked; null for none.
    problem: Option<String>,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Version, which each change replaces; also the `ETag`.
    pub(super) version: String,
}

impl Site {
    /// The site as the sender of a request may see it.
    pub(super) fn new(found: &VersionedSite, access: &Access) -> Self {
        let (mut definition, unreadable) = match &found.site.spec {
            Ok(spec) => (spec.to_json_fields(), None),
            Err(why) => (Map::new(), Some(why.to_string())),
        };
        definition.remove("url");
        hide_values(&mut definition, !access.allows(Scope::Write));
        Self {
            id: found.site.id,
            url: found.site.url.clone(),
            definition,
            problem: found.site.problem.clone().or(unreadable),
            created_at: found.site.created_at,
            updated_at: found.site.updated_at,
            version: found.version.to_string(),
        }
    }
}

/// JSON Pointer to a field that is named as `assertions.json[0].path`, below `base`.
pub(super) fn build_pointer(base: &str, field: &str) -> String {
    let mut pointer = base.to_owned();
    // The name of a header may have dots.
    let (path, name) = match field.strip_prefix("headers.") {
        Some(name) => ("headers", Some(name)),
        None => (field, None),
    };
    let parts = path.split(['.', '[']).map(|part| part.trim_end_matches(']'));
    for part in parts.chain(name).filter(|part| !part.is_empty() && *part != "site") {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

/// The problem of a definition that cannot be used.
pub(super) fn invalid_definition(error: &ValidationError) -> Problem {
    Problem::invalid_field(build_pointer("", &error.field), error)
}

/// Applies a merge patch (RFC 7396).
pub(super) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => merge_patch(fields.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use picket_proto::site::{ALTERNATIVE_FIELDS, SiteSpec};
    use serde_json::json;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_schema_of_a_site_has_its_fields_and_no_others() {
        let schema = serde_json::to_value(SiteFields::schema()).unwrap();

        let described: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let fields: BTreeSet<&str> = SiteSpec::FIELDS.iter().chain(&ALTERNATIVE_FIELDS).copied().collect();
        assert_eq!(described, fields);
    }

    #[test]
    fn a_field_becomes_a_json_pointer() {
        for (field, pointer) in [
            ("url", "/sites/3/url"),
            ("assertions.json[0].path", "/sites/3/assertions/json/0/path"),
            ("headers.X.Y/Z", "/sites/3/headers/X.Y~1Z"),
            ("site", "/sites/3"),
        ] {
            assert_eq!(build_pointer("/sites/3", field), pointer);
        }
    }

    #[test]
    fn a_merge_patch_follows_the_examples_of_rfc_7396() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge_patch(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }
}
