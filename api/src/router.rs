//! All routes, and the layers around them.

use axum::{Json, Router, middleware, routing::get};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};
use utoipa::{OpenApi, openapi};
use utoipa_axum::router::OpenApiRouter;

use crate::{access, openapi::ApiDocument, pages, state::Api, v1};

/// Routes of `/api/v1` with their OpenAPI document.
fn build_v1() -> (Router<Api>, openapi::OpenApi) {
    OpenApiRouter::with_openapi(ApiDocument::openapi()).merge(v1::build_routes()).split_for_parts()
}

/// Builds the router of a process.
pub(crate) fn build_router(api: &Api) -> Router {
    let (v1, document) = build_v1();
    Router::new()
        .nest("/api/v1", v1.route("/openapi.json", get(async move || Json(document.clone()))))
        .merge(pages::build_routes())
        .layer(middleware::from_fn_with_state(api.clone(), access::authenticate))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::new())
        .with_state(api.clone())
}
