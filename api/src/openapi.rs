//! The OpenAPI document of the API, made from the handlers.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

/// What stands beside the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Picket",
        description = "Sites, checks, incidents and reports of this installation. Every scheduled check ends as exactly one \
                       row: `up`, `down` or `missed`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/api/v1")),
    modifiers(&TokenScheme),
)]
pub(crate) struct ApiDocument;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}
