//! Cluster settings: values on which all processes agree.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use picket_proto::ValidationError;
use picket_store::settings::{
    SETTINGS, SettingDefinition, SettingKind, SettingValue, Settings, count_interval_problems,
    read_versioned_settings, update_settings_version,
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::preconditions::{build_etag, check_if_match};
use crate::{
    access::{Administrator, Reader},
    extract::ApiJson,
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_settings, change_settings))
}

/// A setting.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "name": "lease_time", "value": "15s", "default": "15s", "allowed": "3s to 5m",
    "meaning": "Time after which a shard's lease expires unless renewed"
}))]
struct Setting {
    /// Name of the setting.
    name: &'static str,
    /// Value in the notation of `picket settings`, such as `15s`, `8GiB` or `true`.
    value: String,
    /// Value in a new database; null if each database has its own.
    default: Option<String>,
    /// What is allowed.
    allowed: String,
    /// Meaning in one sentence.
    meaning: &'static str,
}

/// All settings.
#[derive(Serialize, ToSchema)]
struct SettingList {
    items: Vec<Setting>,
}

/// Changed settings.
#[derive(Serialize, ToSchema)]
struct ChangedSettings {
    /// The settings that had another value, with their new ones.
    changed: Vec<Setting>,
    /// Number of sites that are not checked because their interval is outside of the settings.
    interval_problems: i64,
}

impl Setting {
    fn new(definition: &SettingDefinition, settings: &Settings) -> Self {
        Self {
            name: definition.name,
            value: (definition.read)(settings).to_string(),
            default: definition.default.as_ref().map(SettingValue::to_string),
            allowed: definition.kind.allowed(),
            meaning: definition.meaning,
        }
    }
}

/// Lists all settings with value, default and meaning.
#[utoipa::path(
    get, path = "/settings", tag = "settings", security(("token" = ["read"])),
    responses(
        (status = OK, body = SettingList, headers(("ETag" = String, description = "Version of all settings"))),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags."),
    ),
)]
async fn list_settings(Reader(access): Reader, State(api): State<Api>) -> Result<Response, Problem> {
    access.require_all_sites()?;
    let (settings, version) = read_versioned_settings(&api.store).await?;
    let items = SETTINGS.iter().map(|definition| Setting::new(definition, &settings)).collect();
    Ok(([(header::ETAG, build_etag(version))], Json(SettingList { items })).into_response())
}

/// Changes settings, all of them or none. All processes follow within two seconds.
#[utoipa::path(
    patch, path = "/settings", tag = "settings", security(("token" = ["admin"])),
    request_body(content = Value, description = "Names with their new values, as `picket settings set` has them",
        example = json!({"lease_time": "20s", "retention_days": 60})),
    params(("If-Match" = Option<String>, Header, description = "Changes the settings only if they still have this `ETag`")),
    responses(
        (status = OK, body = ChangedSettings, headers(("ETag" = String, description = "Version of all settings"))),
        (status = PRECONDITION_FAILED, body = Problem, content_type = "application/problem+json",
            description = "The settings have another version than `If-Match`."),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token lacks the scope `admin`, or is limited to tags."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "A name or a value is not allowed; nothing was changed."),
    ),
)]
async fn change_settings(
    Administrator(access): Administrator,
    State(api): State<Api>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Value>,
) -> Result<Response, Problem> {
    access.require_all_sites()?;
    let Value::Object(fields) = body else {
        let detail = "an object such as {\"lease_time\": \"20s\"} is needed";
        return Err(
            Problem::new(ProblemKind::Invalid, detail).with_field_error(String::new(), detail.to_owned())
        );
    };
    let changes = parse_changes(&fields)?;
    let (_, version) = read_versioned_settings(&api.store).await?;
    let has_condition = check_if_match(&headers, &build_etag(&version))?;
    let expected = Some(&version).filter(|_| has_condition);
    let changed = update_settings_version(&api.store, expected, &changes).await?;
    let (settings, version) = read_versioned_settings(&api.store).await?;
    let is_interval = |definition: &&SettingDefinition| matches!(definition.kind, SettingKind::Seconds(..));
    let interval_problems = match changed.iter().any(is_interval) {
        true => count_interval_problems(&api.store).await?,
        false => 0,
    };
    let changed = changed.into_iter().map(|definition| Setting::new(definition, &settings)).collect();
    let body = Json(ChangedSettings { changed, interval_problems });
    Ok(([(header::ETAG, build_etag(version))], body).into_response())
}

fn parse_changes(fields: &Map<String, Value>) -> Result<Vec<(&'static str, SettingValue)>, Problem> {
    let mut changes = Vec::new();
    let mut errors = Vec::new();
    for (name, value) in fields {
        match parse_change(name, value) {
            Ok(change) => changes.push(change),
            Err(error) => {
                errors.push((format!("/{}", name.replace('~', "~0").replace('/', "~1")), error.to_string()))
            }
        }
    }
    match errors.first() {
        None => Ok(changes),
        Some((_, first)) => {
            let problem = Problem::new(ProblemKind::Invalid, first.clone());
            Err(errors
                .into_iter()
                .fold(problem, |problem, (pointer, detail)| problem.with_field_error(pointer, detail)))
        }
    }
}

fn parse_change(name: &str, value: &Value) -> Result<(&'static str, SettingValue), ValidationError> {
    let definition = SettingDefinition::find(name)?;
    // The database role of the API has no right to it: a flaw of the API must not let forged results in.
    if definition.name == "require_tickets" {
        let allowed = "its present value; 'picket settings set' changes it";
        return Err(ValidationError::new(name, value, allowed));
    }
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    };
    Ok((definition.name, definition.parse(&text)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_parse_from_texts_and_numbers_and_each_error_is_named() {
        let parse = |body: Value| parse_changes(body.as_object().unwrap());

        let changes = parse(json!({"lease_time": "20s", "retention_days": 60, "public_url": null}));
        assert_eq!(changes.unwrap().len(), 3);

        let problem =
            parse(json!({"lease_time": 1, "leasetime": "1s", "require_tickets": false, "shards": 5}))
                .unwrap_err();
        let problem = serde_json::to_value(problem).unwrap();
        let pointers: Vec<_> =
            problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
        assert_eq!(pointers, ["/lease_time", "/leasetime", "/require_tickets", "/shards"], "{problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("3s to 5m"), "{problem}");
    }
}
