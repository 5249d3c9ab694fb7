//! All routes, and the layers around them.

use std::{any::Any, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, OriginalUri},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::Method;
use picket_proto::validation::sanitize_text;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    csrf::{CsrfLayer, ProtectionError},
};
use tracing::{error, warn};
use utoipa::{OpenApi, openapi};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    access,
    metrics::{Metrics, Refusal},
    observation,
    openapi::{ApiDocument, complete_document},
    pages,
    problem::{Problem, ProblemKind},
    prometheus, reference, sign_in,
    state::Api,
    v1,
};

/// Maximum size of a body, but for routes that set another limit.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Routes of `/api/v1` with their OpenAPI document.
pub(crate) fn build_v1() -> (Router<Api>, openapi::OpenApi) {
    let (router, mut document) =
        OpenApiRouter::with_openapi(ApiDocument::openapi()).merge(v1::build_routes()).split_for_parts();
    complete_document(&mut document);
    (router, document)
}

/// Builds the router of a process.
pub(crate) fn build_router(api: &Api) -> Router {
    let (v1, document) = build_v1();
    let document = Arc::new(serde_json::to_value(document).unwrap_or_default());
    let reference = Arc::new(reference::render_reference(&document));
    let v1 = v1
        .route("/openapi.json", get(async move || Json(document)))
        .fallback(refuse_path)
        .method_not_allowed_fallback(refuse_method);
    let documents = Router::new()
        .route("/api", get(async move || show_reference(&reference)))
        .merge(sign_in::build_routes());
    Router::new()
        .nest("/api/v1", v1)
        .route("/probe", get(prometheus::answer_probe))
        .merge(pages::build_routes(documents))
        .method_not_allowed_fallback(refuse_method)
        // The last layer is the first that a request reaches.
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(api.clone(), access::authenticate))
        .layer(build_csrf_layer(api))
        .layer(CatchPanicLayer::custom(answer_panic))
        // Event streams are left alone.
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(api.clone(), observation::observe_request))
        .with_state(api.clone())
}

fn show_reference(reference: &Result<String, askama::Error>) -> Result<Html<String>, Problem> {
    match reference {
        Ok(html) => Ok(Html(html.clone())),
        Err(error) => Err(Problem::internal(error)),
    }
}

/// Refuses changes by pages of other websites, whose requests a browser sends with our cookies.
fn build_csrf_layer(
    api: &Api,
) -> CsrfLayer<impl FnMut(ProtectionError) -> Response + Clone + Send + Sync + use<>> {
    let layer = CsrfLayer::new();
    // A proxy may have replaced the host by which the origin is judged otherwise.
    let layer = match layer.add_trusted_origin(api.public_url()) {
        Ok(layer) => layer,
        Err(error) => {
            warn!(%error, "the public URL is no origin of browsers");
            CsrfLayer::new()
        }
    };
    let metrics = api.metrics.clone();
    layer.with_rejection_response(move |error| refuse_cross_site(&metrics, &error))
}

fn refuse_cross_site(metrics: &Metrics, error: &ProtectionError) -> Response {
    metrics.count_refusal(Refusal::CrossSite);
    Problem::new(ProblemKind::Forbidden, format!("the request comes from another website: {error}"))
        .into_response()
}

async fn refuse_path(OriginalUri(uri): OriginalUri) -> Problem {
    let path = sanitize_text(uri.path(), 200);
    Problem::new(ProblemKind::NotFound, format!("there is no '{path}'"))
}

async fn refuse_method(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let path = sanitize_text(uri.path(), 200);
    let detail = format!("'{method}' is not allowed for '{path}'; allowed: those of the header Allow");
    Problem::new(ProblemKind::MethodNotAllowed, detail)
}

/// Answers a request whose handler panicked. The panic hook has logged it.
fn answer_panic(_: Box<dyn Any + Send + 'static>) -> Response {
    error!("a handler panicked");
    Problem::new(ProblemKind::Internal, "the request failed; the log of picket-api has the reason")
        .into_response()
}
