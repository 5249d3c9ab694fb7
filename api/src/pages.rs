//! The web UI: pages rendered here, which work without JavaScript.
//!
//! A page gathers its data by functions of the store, makes a plain view of it, and renders a template. Views are pure, so
//! that tests need no database.

mod channel;
mod channel_fields;
mod channels;
mod check;
mod check_now;
mod first_answers;
mod fleet;
mod frame;
mod incident;
mod incidents;
mod input;
mod ledger;
mod list_page;
mod live;
mod maintenance;
mod moment;
mod notices;
mod notification;
mod notifications;
mod overview;
mod overview_at;
mod page_error;
mod parts;
mod reach;
mod recipients;
mod report_filter;
mod reports;
mod route_form;
mod routes;
mod settings;
mod silences;
mod site;
mod site_at;
mod site_certificate;
mod site_data;
mod site_edits;
mod site_forms;
mod site_history;
mod site_regions;
mod site_sums;
mod sites;
mod theme;
mod tokens;

#[cfg(test)]
mod tests;

use askama::Template;
use axum::{
    Router,
    extract::{FromRequestParts, Request},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};

use self::frame::Section;
pub(crate) use self::{
    fleet::FleetNumbers,
    frame::{Frame, Theme},
    input::{PageForm, PageQuery},
    page_error::PageError,
};
use crate::{
    access::{Access, Authenticated, Scope},
    assets::{ASSET_ROUTE, serve_asset},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Routes of all pages and of their files. `documents` are further routes whose responses are for people.
pub(crate) fn build_routes(documents: Router<Api>) -> Router<Api> {
    documents
        .route("/", get(overview_at::show_overview))
        .route("/channels", get(channels::show_channels).post(channels::add_channel))
        .route("/channels/{name}", get(channel::show_channel).post(channel::save_channel))
        .route("/channels/{name}/test", post(channel::test_channel))
        .route("/channels/{name}/{action}", post(channel::act_on_channel))
        .route("/check", get(check_now::show_form).post(check_now::check_now))
        .route("/checks/{site}/{region}/{due}", get(check::show_check))
        .route("/incidents", get(incidents::show_incidents))
        .route("/incidents/{id}", get(incident::show_incident))
        .route("/incidents/{id}/acknowledge", post(incident::acknowledge_incident))
        .route("/incidents/{id}/withdraw", post(incident::withdraw_acknowledgement))
        .route("/ledger", get(ledger::show_ledger))
        .route("/live", get(live::show_live))
        .route("/maintenance", get(maintenance::show_maintenance).post(maintenance::add_window))
        .route("/maintenance/{id}/remove", post(maintenance::remove_window))
        .route("/notifications", get(notifications::show_notifications))
        .route("/notifications/{id}", get(notification::show_notification))
        .route("/notifications/{id}/retry", post(notification::retry_notification))
        .route("/regions", get(settings::show_regions))
        .route("/reports", get(reports::show_reports))
        .route("/routes", get(routes::show_routes).post(routes::add_route))
        .route("/routes/{name}", get(routes::show_route).post(routes::save_route))
        .route("/routes/{name}/remove", post(routes::remove_route))
        .route("/settings", get(settings::show_settings))
        .route("/silences", get(silences::show_silences).post(silences::add_silence))
        .route("/silences/{id}/end", post(silences::end_silence))
        .route("/sites", get(sites::show_sites))
        .route("/sites/bulk", post(site_forms::change_sites))
        .route("/sites/new", get(site_forms::show_new_site).post(site_forms::add_site))
        .route("/sites/{id}", get(site::show_site))
        .route("/theme", post(theme::choose_theme))
        .route("/tokens", get(tokens::show_tokens).post(tokens::create_token))
        .route("/tokens/{id}/revoke", post(tokens::revoke_token))
        .route("/warnings", get(incidents::show_warnings))
        .route(ASSET_ROUTE, get(serve_asset))
        .fallback(show_missing_page)
        .layer(middleware::from_fn(add_page_headers))
}

/// A page depends on its reader. The headers of all responses are those of `observation`.
async fn add_page_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("cookie"));
    response
}

/// The reader of a page: what they may do, and the colours they chose.
pub(crate) struct Visitor {
    access: Access,
    theme: Theme,
}

impl Visitor {
    fn frame(&self, title: impl Into<String>, section: Section) -> Frame {
        Frame::new(title, Some(section), Some(&self.access), self.theme)
    }

    /// # Errors
    /// If the reader lacks the scope.
    fn require_scope(&self, scope: Scope) -> Result<(), PageError> {
        self.access.require_scope(scope).map_err(|problem| self.fail(problem))
    }

    /// Makes errors of the store errors of a page.
    fn fail(&self, problem: impl Into<Problem>) -> PageError {
        PageError::new(problem.into(), self.theme)
    }
}

impl FromRequestParts<Api> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, PageError> {
        let theme = Theme::from_headers(&parts.headers);
        let authenticated = Authenticated::from_request_parts(parts, api).await;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let refuse = |problem| PageError::new(problem, theme).with_next(path);
        let Authenticated(access) = authenticated.map_err(refuse)?;
        let visitor = Self { access, theme };
        visitor.require_scope(Scope::Read)?;
        Ok(visitor)
    }
}

/// Renders a page.
fn render_page(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            tracing::error!(%error, "could not render a page");
            Problem::new(ProblemKind::Internal, "the page could not be rendered").into_response()
        }
    }
}

async fn show_missing_page(headers: HeaderMap) -> PageError {
    let problem = Problem::new(ProblemKind::NotFound, "There is no page at this address.");
    PageError::new(problem, Theme::from_headers(&headers))
}
