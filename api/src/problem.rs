//! Errors of the API: problem details of RFC 9457 (`application/problem+json`).
//!
//! Each names the field, the value and what is allowed, as the validation of `proto` does.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use picket_proto::{ValidationError, validation::sanitize_text};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

/// Problem details of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Kind of the problem, a path below the reference of the API: stable, for programs.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The kind in words.
    title: &'static str,
    /// Status code of the response.
    status: u16,
    /// What went wrong in this request.
    detail: String,
    /// Errors of single fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Identifier of the object that is in the way, of a conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    existing: Option<Box<str>>,
    /// Seconds to wait before a retry, also sent as `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// Error of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// JSON Pointer (RFC 6901) to the field in the body, or `?name` for a query parameter.
    pub(crate) pointer: String,
    /// The field, its value, and what is allowed.
    pub(crate) detail: String,
}

/// Kinds of problems with their status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    Malformed,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    RateLimited,
    Overloaded,
    Internal,
    DatabaseUnavailable,
    BusUnavailable,
    NotifierUnavailable,
    ProviderUnavailable,
    TimedOut,
    BodyTimedOut,
}

impl ProblemKind {
    pub(crate) const ALL_KINDS: [Self; 19] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::RateLimited,
        Self::Overloaded,
        Self::Internal,
        Self::DatabaseUnavailable,
        Self::BusUnavailable,
        Self::NotifierUnavailable,
        Self::ProviderUnavailable,
        Self::TimedOut,
        Self::BodyTimedOut,
    ];

    fn describe(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "/api#malformed", "The request is malformed"),
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "/api#unauthenticated", "The request needs a token or a session")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "/api#forbidden", "The token does not allow this"),
            Self::NotFound => (StatusCode::NOT_FOUND, "/api#not-found", "There is no such object"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "/api#method-not-allowed", "The route has no such method")
            }
            Self::Conflict => (StatusCode::CONFLICT, "/api#conflict", "Another object is in the way"),
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, "/api#precondition-failed", "The object has changed since")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "/api#too-large", "The body is too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "/api#unsupported-media-type",
                "The body has another media type than allowed",
            ),
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "/api#invalid", "A value is not allowed"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "/api#rate-limited", "Too many requests"),
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "/api#overloaded", "Too many requests of this kind at once")
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "/api#internal", "The request failed on our side")
            }
            Self::DatabaseUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "/api#database-unavailable",
                "The database is not available",
            ),
            Self::BusUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "/api#bus-unavailable", "NATS is not available")
            }
            Self::NotifierUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "/api#notifier-unavailable", "No notifier runs")
            }
            Self::ProviderUnavailable => (
                StatusCode::BAD_GATEWAY,
                "/api#provider-unavailable",
                "The sign-in provider is not available",
            ),
            Self::BodyTimedOut => {
                (StatusCode::REQUEST_TIMEOUT, "/api#body-timed-out", "The body did not arrive in time")
            }
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "/api#timed-out", "The answer took too long"),
        }
    }
}

impl ProblemKind {
    pub(crate) fn status(self) -> StatusCode {
        self.describe().0
    }

    pub(crate) fn title(self) -> &'static str {
        self.describe().2
    }

    /// Name of the kind in the reference of the API.
    pub(crate) fn anchor(self) -> &'static str {
        self.describe().1.trim_start_matches("/api#")
    }
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let (status, path, title) = kind.describe();
        Self {
            kind: path,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            existing: None,
            retry_after: None,
        }
    }

    /// A value of the body at `pointer` is not allowed.
    pub(crate) fn invalid_field(pointer: impl Into<String>, error: &ValidationError) -> Self {
        Self::new(ProblemKind::Invalid, error.to_string()).with_field_error(pointer.into(), error.to_string())
    }

    /// A query parameter is not allowed.
    pub(crate) fn invalid_parameter(name: &str, value: &str, allowed: &str) -> Self {
        let error = ValidationError::new(name, sanitize_text(value, 200), allowed);
        Self::invalid_field(format!("?{name}"), &error)
    }

    /// An error of our own; its reason is for the log.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        error!(error, "a request failed");
        Self::new(ProblemKind::Internal, "the request failed; the log of picket-api has the reason")
    }

    pub(crate) fn with_field_error(mut self, pointer: String, detail: String) -> Self {
        self.errors.push(FieldError { pointer, detail });
        self
    }

    pub(crate) fn with_existing(mut self, id: impl ToString) -> Self {
        self.existing = Some(id.to_string().into());
        self
    }

    pub(crate) fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Seconds to wait before a retry.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    pub(crate) fn title(&self) -> &'static str {
        self.title
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status(), self.retry_after);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"picket\""));
        }
        response
    }
}

impl From<picket_store::Error> for Problem {
    fn from(error: picket_store::Error) -> Self {
        use picket_store::Error as Store;
        match error {
            Store::Invalid(error) => {
                let pointer = format!("/{}", error.field.replace('.', "/"));
                Self::invalid_field(pointer, &error)
            }
            Store::DuplicateSite | Store::SiteChanged(_) | Store::DuplicateToken(_) => {
                Self::new(ProblemKind::Conflict, error.to_string())
            }
            Store::SettingsChanged => Self::new(ProblemKind::PreconditionFailed, error.to_string()),
            Store::SiteNotFound(_) | Store::RegionNotFound(_) | Store::TokenNotFound(_) => {
                Self::new(ProblemKind::NotFound, error.to_string())
            }
            error if error.is_transient() || matches!(error, Store::SchemaOutdated { .. }) => {
                // The text of the error may name hosts and statements, which are for the log.
                tracing::warn!(error = &error as &dyn std::error::Error, "the database failed a request");
                Self::new(ProblemKind::DatabaseUnavailable, "the database did not answer; try again")
                    .with_retry_after(5)
            }
            error => Self::internal(&error),
        }
    }
}
