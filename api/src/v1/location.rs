//! Answers that name where something is (RFC 9110, section 10.2.2).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// `body` with a status and the header `Location` of `path`.
pub(super) fn respond_with_location(status: StatusCode, path: &str, body: impl IntoResponse) -> Response {
    let mut response = (status, body).into_response();
    // A path of names and numbers is one that every header may have.
    if let Ok(location) = HeaderValue::try_from(path) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
