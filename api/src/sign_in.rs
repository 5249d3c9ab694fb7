//! Sign-in of people: a token, a one-time link or a sign-in provider starts a session of a browser.

mod oidc;

use askama::Template;
use axum::{
    Router,
    extract::{FromRequestParts, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use axum_extra::extract::cookie::CookieJar;
use http::{Method, StatusCode, header, request::Parts};
use picket_store::{
    Store, api_tokens,
    sessions::{self, SessionIdentity},
};
use serde::Deserialize;
use tracing::info;
use url::form_urlencoded;

use crate::{
    access::{
        Access, Authenticated, Client, Scope,
        cookie::{build_removal_cookie, build_session_cookie, find_session_secret},
        local_request::is_local_request,
    },
    metrics::Refusal,
    oidc::OidcProvider,
    pages::{Frame, PageForm, PageQuery, Theme},
    problem::{Problem, ProblemKind},
    state::Api,
};

pub(crate) fn build_routes() -> Router<Api> {
    Router::new()
        .route("/sign-in", get(show_sign_in).post(sign_in_with_token))
        .route("/sign-in/oidc", get(oidc::redirect_to_provider))
        .route(OidcProvider::CALLBACK_PATH, get(oidc::return_from_provider))
        .route("/sign-out", post(sign_out))
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    frame: Frame,
    problem: Option<&'a str>,
    next: &'a str,
    /// Host of the sign-in provider, if there is one.
    provider: Option<&'a str>,
    /// Where the sign-in at the provider begins.
    provider_path: String,
}

/// The page, with a status of its own if the sign-in failed.
fn render_page(api: &Api, problem: Option<&Problem>, next: &str) -> Response {
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    let page = SignInPage {
        frame: Frame::new("Sign in", None, None, Theme::default()),
        problem: problem.map(Problem::detail),
        next,
        provider: api.oidc.as_ref().map(OidcProvider::host),
        provider_path: format!("/sign-in/oidc?{query}"),
    };
    match page.render() {
        Ok(html) => {
            let mut response = (status, Html(html)).into_response();
            if let Some(seconds) = problem.and_then(Problem::retry_after) {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// The client of a request and whether its cookies are secure.
struct Browser {
    client: Client,
    is_secure: bool,
}

impl FromRequestParts<Api> for Browser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let client = parts.extensions.get::<Client>().cloned();
        let client = client.ok_or_else(|| Problem::new(ProblemKind::Internal, "the client is unknown"))?;
        let is_secure =
            client.is_secure(is_local_request(&client, parts.version, &parts.uri, &parts.headers));
        Ok(Self { client, is_secure })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInQuery {
    /// Secret of a one-time link.
    link: Option<String>,
    /// Path to go to afterwards.
    next: Option<String>,
}

/// Shows the form; with a valid link, starts a session.
async fn show_sign_in(
    State(api): State<Api>,
    browser: Browser,
    method: Method,
    authenticated: Result<Authenticated, Problem>,
    PageQuery(query): PageQuery<SignInQuery>,
) -> Response {
    let is_open = authenticated.is_ok_and(|Authenticated(access)| access.is_open);
    let next = local_path(query.next.as_deref());
    // A preview of the link by HEAD does not use it up.
    match query.link.filter(|_| method == Method::GET) {
        None => render_page(&api, None, next),
        Some(link) => match start_session(&api, &browser, identify_by_link(&api.store, &link)).await {
            Ok(jar) => (jar, Redirect::to(next)).into_response(),
            // Without tokens everybody on this machine is let in, whatever became of the link.
            Err(_) if is_open => Redirect::to(next).into_response(),
            Err(problem) => render_page(&api, Some(&problem), next),
        },
    }
}

#[derive(Deserialize)]
struct SignInForm {
    token: String,
    next: Option<String>,
}

/// Starts a session with the rights of a token.
async fn sign_in_with_token(
    State(api): State<Api>,
    browser: Browser,
    PageForm(form): PageForm<SignInForm>,
) -> Response {
    let next = local_path(form.next.as_deref());
    match start_session(&api, &browser, identify_by_token(&api.store, form.token.trim())).await {
        Ok(jar) => (jar, Redirect::to(next)).into_response(),
        Err(problem) => render_page(&api, Some(&problem), next),
    }
}

/// Ends the session of the browser.
async fn sign_out(
    State(api): State<Api>,
    browser: Browser,
    authenticated: Result<Authenticated, Problem>,
    headers: http::HeaderMap,
) -> Result<Response, Problem> {
    match (authenticated, find_session_secret(&headers, browser.is_secure)) {
        (Ok(_), Some(secret)) => {
            sessions::end_session(&api.store, &secret).await?;
            api.authenticator.forget_all();
        }
        // A session that is over needs no query, of which a flood of cookies would make as many.
        (Ok(_), None) => {}
        // The cookie is removed all the same.
        (Err(problem), _)
            if [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&problem.status()) => {}
        (Err(problem), _) => return Err(problem),
    }
    let jar = CookieJar::new().add(build_removal_cookie(browser.is_secure));
    Ok((jar, Redirect::to("/sign-in")).into_response())
}

/// Starts a session for whom `identify` finds. Returns its cookie.
///
/// # Errors
/// If there were too many attempts, the credential is not valid, or the database is away.
async fn start_session(
    api: &Api,
    browser: &Browser,
    identify: impl Future<Output = Result<Option<SessionIdentity>, Problem>>,
) -> Result<CookieJar, Problem> {
    api.limits.sign_in.check(&browser.client)?;
    let Some(identity) = identify.await? else {
        api.metrics.count_refusal(Refusal::InvalidCredential);
        let detail = "the token or the link is unknown, used, expired or revoked";
        return Err(Problem::new(ProblemKind::Unauthenticated, detail));
    };
    let (secret, _) = sessions::create_session(&api.store, &identity).await?;
    info!(name = identity.name, "signed in");
    Ok(CookieJar::new().add(build_session_cookie(secret.reveal(), browser.is_secure)))
}

async fn identify_by_link(store: &Store, link: &str) -> Result<Option<SessionIdentity>, Problem> {
    let identity = SessionIdentity {
        name: "sign-in link".to_owned(),
        scopes: Scope::ALL_SCOPES.to_vec(),
        tags: None,
        token_id: None,
    };
    Ok(sessions::redeem_sign_in_link(store, link).await?.then_some(identity))
}

async fn identify_by_token(store: &Store, secret: &str) -> Result<Option<SessionIdentity>, Problem> {
    let token = api_tokens::find_token(store, secret).await?;
    if let Some(token) = &token {
        api_tokens::record_token_use(store, token.id).await?;
    }
    Ok(token.map(|token| {
        let id = token.id;
        Access::of_token(token).into_session_identity(Some(id))
    }))
}

/// A path on this host to go to, `/` by default. A link to another host would lead a person who has
/// just signed in to a copy of this page.
fn local_path(next: Option<&str>) -> &str {
    let is_local = |path: &&str| {
        path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '\r', '\n', '\t'])
    };
    next.filter(is_local).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_another_host_is_not_gone_to() {
        for (next, path) in [
            (Some("/sites?tag=a"), "/sites?tag=a"),
            (None, "/"),
            (Some("https://evil.example/"), "/"),
            (Some("//evil.example/"), "/"),
            (Some("/\\evil.example/"), "/"),
            (Some("/\t/evil.example/"), "/"),
            (Some("sites"), "/"),
        ] {
            assert_eq!(local_path(next), path, "{next:?}");
        }
    }
}
