//! The OpenAPI document of the API, made from the handlers.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, ParameterIn, PathItem},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::{
    extract::PageLimit,
    problem::{Problem, ProblemKind},
    v1::ReportFormat,
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
    components(schemas(PageLimit, Problem, ReportFormat)),
)]
pub(crate) struct ApiDocument;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Adds the problems that an operation can answer, by what it takes.
pub(crate) fn complete_document(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in operations_mut(item) {
            complete_operation(operation, path.contains('{'));
        }
    }
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn complete_operation(operation: &mut Operation, has_path_parameter: bool) {
    let has_query = operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    });
    let has_body = operation.request_body.is_some();
    let mut kinds = vec![
        ProblemKind::Unauthenticated,
        ProblemKind::Forbidden,
        ProblemKind::RateLimited,
        ProblemKind::Internal,
        ProblemKind::DatabaseUnavailable,
        ProblemKind::TimedOut,
    ];
    if has_path_parameter {
        kinds.extend([ProblemKind::NotFound, ProblemKind::Invalid]);
    }
    if has_query {
        kinds.push(ProblemKind::Invalid);
    }
    if has_body {
        kinds.extend([
            ProblemKind::Malformed,
            ProblemKind::BodyTimedOut,
            ProblemKind::Conflict,
            ProblemKind::TooLarge,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::Invalid,
        ]);
    }
    // Each problem is listed by its own status.
    operation.responses.responses.remove("default");
    for kind in kinds {
        let (status, title) = (kind.status().as_u16().to_string(), kind.title());
        operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(problem_response(title)));
    }
}

fn problem_response(title: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    ResponseBuilder::new()
        .description(title)
        .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
