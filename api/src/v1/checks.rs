//! Ad-hoc checks: requested now, from some regions or all.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use picket_proto::{CheckRequest, CheckResult, RegionName, ValidationError, suggestion::suggest_name};
use picket_runtime::{
    adhoc::{self, RegionReply, reply_limit},
    discovery::ConnectionLost,
};
use picket_store::{adhoc_results::list_adhoc_results, regions::list_active_regions};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    access::{Checker, Reader},
    extract::{ApiPath, parse_json},
    live::event::encode_event,
    problem::{Problem, ProblemKind},
    reply_stream::{ReplyStep, accepts_events, stream_replies},
    state::Api,
};

/// Routes of ad-hoc checks.
pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(request_check)).routes(routes!(show_check))
}

/// Reply of a region to an ad-hoc check.
#[derive(Debug, Serialize, ToSchema)]
struct RegionAnswer {
    /// Name of the region.
    region: String,
    /// `answered`, `rejected` (by the prober), `no_active_probers` or `timed_out`.
    state: &'static str,
    /// The result as `nats req` shows it, if the region answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Box<CheckResult>>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl RegionAnswer {
    fn new(region: String, reply: RegionReply) -> Self {
        let message = reply.error_message(&region);
        let (state, result) = match reply {
            RegionReply::Result(result) => ("answered", Some(result)),
            RegionReply::Rejected(_) => ("rejected", None),
            RegionReply::NoResponders => ("no_active_probers", None),
            RegionReply::TimedOut => ("timed_out", None),
        };
        Self { region, state, result, message }
    }
}

/// Replies of all regions to an ad-hoc check.
#[derive(Debug, Serialize, ToSchema)]
struct CheckAnswers {
    /// Id of the check, for `GET /checks/{id}`.
    id: String,
    /// One reply for each region, by name.
    results: Vec<RegionAnswer>,
}

/// Stored results of an ad-hoc check.
#[derive(Debug, Serialize, ToSchema)]
struct StoredResults {
    /// Id of the check.
    id: String,
    /// The results as `nats req` shows them, by region.
    #[schema(value_type = Vec<Object>)]
    results: Vec<CheckResult>,
}

/// Checks a URL now, from some regions or all.
///
/// The body is a check request (`url`, `method`, `headers`, `timeout_ms`, `regex`, `assertions`, … as in
/// `nats req picket.check.<region>`), and `regions`, a list of names; without it, all regions check.
/// Probers refuse private addresses and secrets unless their operator allows them. With
/// `Accept: text/event-stream` each reply is sent as it comes, as an event `reply`, and the last event is
/// `end`; else the answer waits for all regions, at most 28 seconds.
#[utoipa::path(
    post, path = "/checks", tag = "checks", security(("token" = ["check"])),
    request_body(content = BTreeMap<String, serde_json::Value>, content_type = "application/json", example = json!({"url": "https://example.com", "regions": ["eu-west"]})),
    responses(
        (status = OK, content((CheckAnswers = "application/json"), (String = "text/event-stream"))),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn request_check(
    Checker(access): Checker,
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    /// Shorter than the time after which the server gives up a request.
    const MAX_JSON_WAIT: Duration = Duration::from_secs(28);
    /// Validation waits for its turn, and compiles regexes, which takes long for a hostile one.
    const VALIDATION_TIMEOUT: Duration = Duration::from_secs(10);
    api.limits.adhoc.check(&access)?;
    let (mut request, mut regions) = parse_body(&body)?;
    let validated = request.clone();
    let validation = api.validations.run_blocking_for(&access, move || validated.validate());
    let check = match timeout(VALIDATION_TIMEOUT, validation).await {
        Ok(validated) => {
            validated?.map_err(|error| Problem::invalid_field(to_pointer(&error.field), &error))?
        }
        Err(_) => {
            let detail = format!(
                "the check was not validated within {} s: its regexes take too long to compile, or waited too long for \
                 those of other requests",
                VALIDATION_TIMEOUT.as_secs()
            );
            return Err(Problem::new(ProblemKind::Invalid, detail));
        }
    };
    api.require_bus()?;
    if regions.is_empty() {
        // Without the database the probers that answer are the regions.
        regions = list_active_regions(&api.store).await.unwrap_or_default();
    }
    let id = Uuid::new_v4().to_string();
    request.id = Some(id.clone());
    let limit = reply_limit(check.timeout);
    if accepts_events(&headers) {
        return Ok(stream_replies(&api, request, regions, limit, move |step| match step {
            ReplyStep::Reply(region, reply) => encode_event("reply", None, &RegionAnswer::new(region, reply)),
            ReplyStep::End { regions, error } => {
                encode_event("end", None, &EndOfReplies { id: &id, regions, error })
            }
        }));
    }
    let mut results = Vec::new();
    let keep = |region, reply| results.push(RegionAnswer::new(region, reply));
    adhoc::request_checks(&api.bus.client, &request, &regions, limit.min(MAX_JSON_WAIT), keep)
        .await
        .map_err(|error| report_lost_bus(&error))?;
    results.sort_by(|one, other| one.region.cmp(&other.region));
    Ok(Json(CheckAnswers { id, results }).into_response())
}

/// Shows the stored results of an ad-hoc check. A result is stored some time after its reply.
#[utoipa::path(
    get, path = "/checks/{id}", tag = "checks", security(("token" = ["read"])),
    params(("id" = String, Path, description = "Id of the check")),
    responses(
        (status = OK, body = StoredResults),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show_check(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<StoredResults>, Problem> {
    // An ad-hoc check has no tags. Its random id is the right to see it; an id that a person chose can
    // be guessed.
    if Uuid::parse_str(&id).is_err() {
        access.require_all_sites()?;
    }
    let results = list_adhoc_results(&api.store, &id).await?;
    if results.is_empty() {
        let detail = "there are no results of this check; it is unknown, its results are not stored yet, or they are removed";
        return Err(Problem::new(ProblemKind::NotFound, detail));
    }
    Ok(Json(StoredResults { id, results }))
}

fn report_lost_bus(error: &ConnectionLost) -> Problem {
    Problem::new(ProblemKind::BusUnavailable, error.to_string()).with_retry_after(5)
}

/// Data of the event `end`.
#[derive(Serialize)]
struct EndOfReplies<'a> {
    id: &'a str,
    /// Number of regions that replied or did not.
    regions: usize,
    /// Why no more replies come.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Splits a body into the check request and its regions.
fn parse_body(body: &[u8]) -> Result<(CheckRequest, Vec<RegionName>), Problem> {
    const MAX_REGIONS: usize = 100;
    let mut fields: Map<String, Value> = parse_json(body)?;
    let regions = fields.remove("regions").unwrap_or_else(|| Value::Array(Vec::new()));
    if let Some((name, value)) = fields.iter().find(|(name, _)| !known_fields().any(|known| known == *name)) {
        let allowed = match suggest_name(name, known_fields()) {
            Some(meant) => format!("no such field; did you mean '{meant}'?"),
            None => {
                format!("no such field; there are {}, regions", known_fields().collect::<Vec<_>>().join(", "))
            }
        };
        let error = ValidationError::new(name, value, allowed);
        return Err(Problem::invalid_field(to_pointer(name), &error));
    }
    // A map of JSON can always be written.
    let request = CheckRequest::decode(&serde_json::to_vec(&fields).unwrap_or_default())
        .map_err(|error| Problem::invalid_field(to_pointer(&error.field), &error))?;
    let allowed = "a list of at most 100 names of regions";
    let refuse =
        |value: &Value| Problem::invalid_field("/regions", &ValidationError::new("regions", value, allowed));
    let names =
        regions.as_array().filter(|names| names.len() <= MAX_REGIONS).ok_or_else(|| refuse(&regions))?;
    let parse = |name: &Value| name.as_str().and_then(|name| name.parse().ok()).ok_or_else(|| refuse(name));
    let mut regions = names.iter().map(parse).collect::<Result<Vec<RegionName>, Problem>>()?;
    regions.sort();
    regions.dedup();
    Ok((request, regions))
}

/// Fields of the check itself. The others belong to jobs; the API gives the id.
fn known_fields() -> impl Iterator<Item = &'static str> {
    let names = || CheckRequest::KNOWN_FIELDS.iter().map(|(name, _)| *name);
    names().take_while(|name| *name != "id").chain(["explain"])
}

/// JSON Pointer of a field of a validation error.
fn to_pointer(field: &str) -> String {
    format!("/{}", field.replace(['.', '['], "/").replace(']', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_check_request_with_regions() {
        let (request, regions) =
            parse_body(br#"{"url":"https://example.com","regions":["us","eu","us"],"timeout_ms":500}"#)
                .unwrap();

        assert_eq!((request.url.as_str(), request.timeout_ms), ("https://example.com", 500));
        assert_eq!(regions, ["eu", "us"].map(|region| region.parse().unwrap()));
        assert_eq!(parse_body(br#"{"url":"http://x"}"#).unwrap().1, []);
    }

    #[test]
    fn a_field_that_only_jobs_have_or_that_is_misspelt_is_refused() {
        for (body, refusal) in [
            (r#"{"url":"http://x","site_id":1}"#, "site_id: '1' is not allowed"),
            (r#"{"url":"http://x","id":"a"}"#, "id: '\"a\"' is not allowed"),
            (r#"{"url":"http://x","ticket":"a"}"#, "ticket: "),
            (r#"{"url":"http://x","timeout":1}"#, "did you mean 'timeout_ms'?"),
            (r#"{"url":"http://x","regions":"eu"}"#, "regions: '\"eu\"' is not allowed"),
            (r#"{"url":"http://x","regions":["all"]}"#, "regions: '\"all\"' is not allowed"),
            (r#"{"url":7}"#, "url: '7' is not allowed"),
            ("{}", "url: '(absent)' is not allowed"),
            ("[]", "an object is needed here"),
        ] {
            let detail = parse_body(body.as_bytes()).unwrap_err().detail().to_owned();
            assert!(detail.contains(refusal), "{body}: {detail}");
        }
    }
}
