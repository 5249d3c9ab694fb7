//! What surrounds each request: its id, its metrics, its line in the log, and headers of each response.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, header};
use tokio::time::{Instant, timeout};
use tower_http::timeout::DeadlineBody;
use tracing::debug;
use uuid::Uuid;

use crate::{
    metrics::{Refusal, RequestLabels},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Maximum time from the head of a request to the head of its response. A stream may last longer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time to receive a body, however slowly it arrives. Shorter than that of the response, which then
/// says why.
const BODY_DEADLINE: Duration = Duration::from_secs(20);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of each response, unless its handler has set them. Nothing is loaded from elsewhere, and nothing
/// inline: a value that reaches a page unescaped runs nothing.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Not no-referrer, with which browsers send "Origin: null" by forms.
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=()"),
    ),
    // Answers differ by person, and are old at once.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Gives a request an id and a time limit, counts and logs it, and completes the headers of its response.
pub(crate) async fn observe_request(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = Uuid::now_v7().to_string();
    let id = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = name_method(request.method());
    let request = request.map(limit_body_time);
    let mut response = match timeout(RESPONSE_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            api.metrics.count_refusal(Refusal::TimedOut);
            let detail = format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs());
            Problem::new(ProblemKind::TimedOut, detail).into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(value);
    }
    headers.insert(REQUEST_ID, id.clone());

    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    api.metrics.request_seconds.observe(elapsed.as_secs_f64());
    // The route and not the path, whose query may have secrets.
    debug!(id = ?id, method, route, status, elapsed_us = elapsed.as_micros(), "answered a request");
    api.metrics.requests.get_or_create(&RequestLabels { route, method, status }).inc();
    response
}

fn limit_body_time(body: Body) -> Body {
    match body.is_end_stream() {
        true => body,
        false => Body::new(DeadlineBody::new(BODY_DEADLINE, body)),
    }
}

/// Name of a method. Others than HTTP's are one, which bounds the number of label values.
fn name_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
