//! Bodies, query strings and paths of requests. Unknown names are refused with the one that was probably meant.

use axum::{
    body::Bytes,
    extract::{
        self, FromRequest, FromRequestParts, RawPathParams, Request,
        path::ErrorKind,
        rejection::{BytesRejection, PathRejection},
    },
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use picket_proto::{ValidationError, suggestion::describe_known_names, validation::sanitize_text};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_path_to_error::{Path, Segment};
use utoipa::ToSchema;

use crate::{
    metrics::Refusal,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// A JSON body. `T` denies unknown fields, and its own limits are checked by the handler.
pub(crate) struct ApiJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let body = read_body(request, api).await?;
        parse_json(&body).map(Self)
    }
}

/// A JSON body that the handler parses itself, on another thread, since it may be large.
pub(crate) struct JsonText(pub(crate) Bytes);

impl FromRequest<Api> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        require_json(request.headers())?;
        read_body(request, api).await.map(Self)
    }
}

/// Parameters in the path of a request. An object with an impossible id does not exist.
pub(crate) struct ApiPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for ApiPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let rejection = match extract::Path::<T>::from_request_parts(parts, api).await {
            Ok(extract::Path(values)) => return Ok(Self(values)),
            Err(rejection) => rejection,
        };
        let given = RawPathParams::from_request_parts(parts, api).await;
        let given: Vec<(String, String)> = given
            .iter()
            .flat_map(RawPathParams::iter)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Err(refuse_path(&rejection, &given))
    }
}

/// Refuses parts of a path, by name, value and what is allowed.
fn refuse_path(rejection: &PathRejection, given: &[(String, String)]) -> Problem {
    let missing = |error: &ValidationError| Problem::new(ProblemKind::NotFound, error.to_string());
    let kind = match rejection {
        PathRejection::FailedToDeserializePathParams(error) => error.kind(),
        _ => return Problem::new(ProblemKind::NotFound, "there is nothing at this path"),
    };
    let (name, value) = match kind {
        ErrorKind::ParseErrorAtKey { key, value, .. } => (key.as_str(), value),
        ErrorKind::ParseErrorAtIndex { index, value, .. } => {
            (given.get(*index).map_or("path", |(name, _)| name.as_str()), value)
        }
        ErrorKind::ParseError { value, .. } => {
            (given.first().map_or("path", |(name, _)| name.as_str()), value)
        }
        _ => {
            let error = ValidationError::new("path", "(unreadable)", "percent-encoded UTF-8");
            return missing(&error);
        }
    };
    missing(&ValidationError::new(name, sanitize_text(value, 200), "a whole number"))
}

/// Reads a whole body within the limits of its route.
///
/// # Errors
/// If the body is too large, does not arrive in time, or is cut off.
pub(crate) async fn read_body(request: Request, api: &Api) -> Result<Bytes, Problem> {
    Bytes::from_request(request, api).await.map_err(|rejection| {
        let (kind, refusal, detail) = match &rejection {
            rejection if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => (
                ProblemKind::TooLarge,
                Some(Refusal::BodyTooLarge),
                "the body is larger than the route allows",
            ),
            BytesRejection::FailedToBufferBody(error) if is_timeout(error) => {
                (ProblemKind::BodyTimedOut, Some(Refusal::BodyTimedOut), "the body did not arrive in time")
            }
            _ => (ProblemKind::Malformed, None, "the body ended early"),
        };
        if let Some(refusal) = refusal {
            api.metrics.count_refusal(refusal);
        }
        Problem::new(kind, detail)
    })
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<tower_http::timeout::TimeoutError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let is_json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    match is_json {
        true => Ok(()),
        false => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            format!(
                "Content-Type: '{}' is not allowed; allowed: application/json",
                sanitize_text(value.unwrap_or_default(), 200)
            ),
        )),
    }
}

/// Parses a JSON object. Nesting is limited by the parser, to 128 levels.
///
/// # Errors
/// If the text is no JSON, or has another form than `T`; then the problem has the JSON Pointer.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    // The parser would take a list for an object, with the fields in the order of the source.
    if let Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') = text.trim_ascii_start().first() {
        let detail = "the body: an object is needed here".to_owned();
        return Err(
            Problem::new(ProblemKind::Invalid, detail.clone()).with_field_error(String::new(), detail)
        );
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = build_pointer(error.path());
        let why = error.into_inner();
        match why.is_data() {
            true => refuse_value(pointer, &why.to_string()),
            false => refuse_syntax(&why),
        }
    })?;
    deserializer.end().map_err(|why| refuse_syntax(&why))?;
    Ok(value)
}

fn refuse_syntax(why: &serde_json::Error) -> Problem {
    Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON: {why}"))
}

/// JSON Pointer (RFC 6901) of a path.
fn build_pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        let name = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => sanitize_text(key, 100).replace('~', "~0").replace('/', "~1"),
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&name);
    }
    pointer
}

/// The refusal of a value by a message of serde. The value itself may be a secret in a wrong place,
/// and is left out.
fn refuse_value(pointer: String, message: &str) -> Problem {
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message.strip_prefix(&format!("{pointer}: ")).unwrap_or(message);
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let place = if field.is_empty() { "the body".to_owned() } else { field };
    let detail = format!("{place}: {}", describe_serde_message(message));
    Problem::new(ProblemKind::Invalid, detail.clone()).with_field_error(pointer, detail)
}

/// A message of serde in the words of this project.
pub(crate) fn describe_serde_message(message: &str) -> String {
    let names =
        |rest: &str| -> Vec<String> { rest.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    if let Some((name, rest)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'))
    {
        let known = names(rest);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return format!(
            "unknown field '{}': {}",
            sanitize_text(name, 64),
            describe_known_names(name, &known)
        );
    }
    if let Some((_, rest)) = message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
        return format!("the value is not allowed; allowed: {}", names(rest).join(", "));
    }
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("the field '{name}' is missing");
    }
    if message.starts_with("invalid ")
        && let Some((_, expected)) = message.rsplit_once("expected ")
    {
        return format!("the value is not allowed; allowed: {}", sanitize_text(expected, 200));
    }
    sanitize_text(message, 400)
}

/// Query parameters. `T` denies unknown ones.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Parses a query string.
///
/// # Errors
/// If a parameter is unknown, missing or not allowed.
pub(crate) fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    // An empty value would count as no value, and Postgres has no text with NUL.
    if let Some((name, value)) = pairs.clone().find(|(_, value)| value.is_empty() || value.contains('\0')) {
        return Err(Problem::invalid_parameter(&name, &value, "a text without NUL, or no such parameter"));
    }
    serde_path_to_error::deserialize(serde_html_form::Deserializer::new(pairs)).map_err(|error| {
        let name = error.path().to_string();
        let message = error.inner().to_string();
        let words = describe_serde_message(&message).replace("field", "parameter");
        let detail = match name.as_str() {
            "." => words,
            name => format!("{}: {words}", sanitize_text(name, 64)),
        };
        let pointer = if name == "." { String::new() } else { format!("?{}", sanitize_text(&name, 64)) };
        Problem::new(ProblemKind::Invalid, detail.clone()).with_field_error(pointer, detail)
    })
}

/// Maximum number of items of a page of a list, a query parameter. More than 1,000 are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = u16, minimum = 1, maximum = 1000, default = 100)]
pub(crate) struct PageLimit(pub(crate) u16);

impl PageLimit {
    const MAX: u16 = 1_000;
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(100)
    }
}

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(limit @ 1..=Self::MAX) => Ok(Self(limit)),
            _ => Err(serde::de::Error::custom(format!(
                "'{}' is not allowed; allowed: 1 to {}",
                sanitize_text(&text, 64),
                Self::MAX
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its form matters")]
    struct Body {
        interval: u32,
        tags: Option<Vec<String>>,
        nested: Option<Box<Body>>,
    }

    fn refuse(body: &str) -> serde_json::Value {
        serde_json::to_value(parse_json::<Body>(body.as_bytes()).unwrap_err()).unwrap()
    }

    #[test]
    fn a_refusal_has_the_pointer_and_the_name_that_was_probably_meant() {
        for (body, pointer, detail) in [
            (
                r#"{"intervall": 1}"#,
                "/intervall",
                "intervall: unknown field 'intervall': no such field; did you mean 'interval'?",
            ),
            (r#"{"interval": "hunter2"}"#, "/interval", "interval: the value is not allowed; allowed: u32"),
            (r#"{"interval": -1}"#, "/interval", "interval: the value is not allowed; allowed: u32"),
            (
                r#"{"interval": 1, "tags": ["a", 2]}"#,
                "/tags/1",
                "tags.1: the value is not allowed; allowed: a string",
            ),
            (r#"{"interval": 1, "nested": {}}"#, "/nested", "nested: the field 'interval' is missing"),
            ("{}", "", "the body: the field 'interval' is missing"),
        ] {
            let refusal = refuse(body);
            assert_eq!(refusal["status"], 422, "{body}");
            assert_eq!(refusal["errors"], json!([{"pointer": pointer, "detail": detail}]), "{body}");
            assert!(!refusal.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn malformed_and_deeply_nested_json_is_refused() {
        for body in ["", "{", r#"{"interval": 1} x"#, "\u{feff}{}", &r#"{"nested":"#.repeat(100_000)] {
            assert_eq!(refuse(body)["status"], 400, "{body:.20}");
        }
    }

    #[test]
    fn a_list_in_place_of_an_object_is_refused() {
        for body in ["[1, null, null]", " [[[", "7", "null"] {
            let refusal = refuse(body);
            assert_eq!(
                (&refusal["status"], &refusal["detail"]),
                (&json!(422), &json!("the body: an object is needed here"))
            );
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Query {
        #[serde(default)]
        limit: PageLimit,
        #[serde(default)]
        tag: Vec<String>,
    }

    #[test]
    fn query_parameters_are_parsed_and_unknown_ones_and_large_limits_refused() {
        let query: Query = parse_query("limit=1000&tag=a&tag=b%20c").unwrap();
        assert_eq!((query.limit, query.tag), (PageLimit(1_000), vec!["a".to_owned(), "b c".to_owned()]));
        assert_eq!(parse_query::<Query>("").unwrap().limit, PageLimit(100));

        for (query, detail) in [
            ("limit=1001", "limit: '1001' is not allowed; allowed: 1 to 1000"),
            ("limit=0", "limit: '0' is not allowed; allowed: 1 to 1000"),
            ("limit=many", "limit: 'many' is not allowed; allowed: 1 to 1000"),
            ("limt=5", "limt: unknown parameter 'limt': no such parameter; did you mean 'limit'?"),
        ] {
            let refusal = parse_query::<Query>(query).unwrap_err();
            assert_eq!((refusal.status(), refusal.detail()), (StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    }
}
