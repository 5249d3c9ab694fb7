//! Input of pages: query strings, forms and parts of the path. Wrong input is refused in the layout of pages, by field,
//! value and what is allowed.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
};
use http::{HeaderMap, header, request::Parts};
use picket_proto::{ValidationError, nested_object::HIDDEN_VALUE, validation::sanitize_text};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::{frame::Theme, page_error::PageError};
use crate::{
    extract::{ApiPath, describe_serde_message, read_body},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Fields whose values are secrets, and are not repeated.
const SECRET_FIELDS: [&str; 4] = ["token", "link", "code", "state"];

/// Parameters of a page's query. An empty one counts as absent, since a form sends its empty fields; an unknown one
/// is ignored, unless `T` denies it.
pub(crate) struct PageQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for PageQuery<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, PageError> {
        let query = parts.uri.query().unwrap_or_default();
        let given = form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty());
        let given = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        parse_fields(given.as_bytes(), "?").map(Self).map_err(|problem| refuse(problem, &parts.headers))
    }
}

/// Fields of a form.
pub(crate) struct PageForm<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for PageForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, PageError> {
        let headers = request.headers().clone();
        let FormText(body) = FormText::from_request(request, api).await?;
        parse_fields(&body, "/").map(Self).map_err(|problem| refuse(problem, &headers))
    }
}

/// A form that the handler parses itself.
pub(super) struct FormText(pub(super) Bytes);

impl FromRequest<Api> for FormText {
    type Rejection = PageError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, PageError> {
        const FORM_TYPE: &str = "application/x-www-form-urlencoded";
        let headers = request.headers().clone();
        let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
        let is_form = given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM_TYPE));
        // A form without a field has no body, and then no type either.
        if !is_form && !given.is_empty() {
            let error = ValidationError::new("Content-Type", sanitize_text(given, 200), FORM_TYPE);
            return Err(refuse(Problem::new(ProblemKind::UnsupportedMediaType, error.to_string()), &headers));
        }
        read_body(request, api).await.map(Self).map_err(|problem| refuse(problem, &headers))
    }
}

/// Parts of a page's path. A page with an impossible one does not exist.
pub(crate) struct PagePath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for PagePath<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, PageError> {
        match ApiPath::<T>::from_request_parts(parts, api).await {
            Ok(ApiPath(values)) => Ok(Self(values)),
            Err(problem) => Err(refuse(problem, &parts.headers)),
        }
    }
}

fn refuse(problem: Problem, headers: &HeaderMap) -> PageError {
    PageError::new(problem, Theme::from_headers(headers))
}

/// Parses fields. `prefix` begins the pointer to a field.
fn parse_fields<T: DeserializeOwned>(text: &[u8], prefix: &str) -> Result<T, Problem> {
    let fields = || form_urlencoded::parse(text);
    if let Some((name, value)) = fields().find(|(_, value)| value.contains('\0')) {
        return Err(refuse_field(&name, &value, "a text without NUL", prefix));
    }
    serde_path_to_error::deserialize(serde_html_form::Deserializer::new(fields())).map_err(|error| {
        let message = error.inner().to_string();
        let in_message = message.split('`').nth(1).unwrap_or_default();
        let path = error.path().to_string();
        let name = if path == "." { in_message } else { path.as_str() };
        if message.starts_with("unknown field ") {
            let words = describe_serde_message(&message).replace("field", "parameter");
            let detail = format!("{}: {words}", sanitize_text(name, 64));
            return Problem::new(ProblemKind::Invalid, detail.clone())
                .with_field_error(format!("{prefix}{}", sanitize_text(name, 64)), detail);
        }
        let value = fields().find(|(given, _)| given == name).map_or(Cow::Borrowed(""), |(_, value)| value);
        let allowed = if message.starts_with("missing field ") {
            "a value".to_owned()
        } else if fields().filter(|(given, _)| given == name).count() > 1 {
            "one value".to_owned()
        } else {
            describe_allowed(&message)
        };
        refuse_field(name, &value, &allowed, prefix)
    })
}

fn refuse_field(name: &str, value: &str, allowed: &str, prefix: &str) -> Problem {
    let value = if SECRET_FIELDS.contains(&name) { HIDDEN_VALUE } else { value };
    let name = sanitize_text(name, 64);
    let error = ValidationError::new(name.clone(), sanitize_text(value, 200), allowed);
    Problem::invalid_field(format!("{prefix}{name}"), &error)
}

/// What is allowed, from a message of serde or of the standard library's parsers.
fn describe_allowed(message: &str) -> String {
    let is_number = ["invalid digit", "cannot parse integer", "number too"];
    match is_number.iter().any(|part| message.contains(part)) {
        true => "a whole number".to_owned(),
        false => describe_serde_message(message).replace("field", "parameter"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Fields {
        days: Option<u32>,
        region: String,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its form matters")]
    struct SignIn {
        token: String,
    }

    #[test]
    fn a_wrong_field_is_refused_by_its_name_value_and_what_is_allowed() {
        for (text, detail) in [
            ("days=abc", "days: 'abc' is not allowed; allowed: a whole number"),
            ("days=99999999999", "days: '99999999999' is not allowed; allowed: a whole number"),
            ("region=eu&region=us", "region: 'eu' is not allowed; allowed: one value"),
            ("region=%00", "region: ' ' is not allowed; allowed: a text without NUL"),
        ] {
            let problem = parse_fields::<Fields>(text.as_bytes(), "?").unwrap_err();
            assert_eq!(problem.detail(), detail, "{text}");
            assert_eq!(problem.status(), http::StatusCode::UNPROCESSABLE_ENTITY);
        }
        let fields: Fields = parse_fields(b"days=7&region=eu&other=1", "?").unwrap();
        assert_eq!((fields.days, fields.region.as_str()), (Some(7), "eu"));
    }

    #[test]
    fn a_secret_is_not_repeated() {
        for (text, detail) in [
            ("", "token: '(hidden)' is not allowed; allowed: a value"),
            ("token=hunter2&token=hunter3", "token: '(hidden)' is not allowed; allowed: one value"),
        ] {
            let problem = parse_fields::<SignIn>(text.as_bytes(), "/").unwrap_err();
            assert_eq!(problem.detail(), detail);
        }
        // A provider sends the browser back with a code and the state of the attempt.
        for name in ["token", "link", "code", "state"] {
            let problem = refuse_field(name, "hunter2", "one value", "?");
            assert_eq!(problem.detail(), format!("{name}: '(hidden)' is not allowed; allowed: one value"));
        }
    }
}
