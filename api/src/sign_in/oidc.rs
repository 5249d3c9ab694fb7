//! Sign-in by an OpenID Connect provider: the redirect there, and the return from there.

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use axum_extra::extract::cookie::CookieJar;
use http::HeaderMap;
use picket_store::sessions::SessionIdentity;
use serde::Deserialize;
use tracing::warn;

use super::{Browser, SignInQuery, local_path, render_page, start_session};
use crate::{
    oidc::{OidcError, OidcProvider, SignInAttempt},
    pages::PageQuery,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Sends a person to the provider.
pub(super) async fn redirect_to_provider(
    State(api): State<Api>,
    browser: Browser,
    PageQuery(query): PageQuery<SignInQuery>,
) -> Response {
    let next = local_path(query.next.as_deref()).to_owned();
    match start_attempt(&api, &browser, next.clone()).await {
        Ok(response) => response,
        Err(problem) => render_page(&api, Some(&problem), &next),
    }
}

async fn start_attempt(api: &Api, browser: &Browser, next: String) -> Result<Response, Problem> {
    api.limits.sign_in.check(&browser.client)?;
    let provider = find_provider(api)?;
    let (attempt, url) = provider.start_attempt(&api.public_url(), next).await?;
    let cookie = attempt.to_cookie(browser.is_secure).map_err(|error| Problem::internal(&error))?;
    Ok((CookieJar::new().add(cookie), Redirect::to(url.as_str())).into_response())
}

/// Parameters with which the provider returns a person. Providers add others, such as `iss`.
#[derive(Deserialize)]
pub(super) struct CallbackQuery {
    code: Option<String>,
    #[serde(default)]
    state: String,
    error: Option<String>,
    error_description: Option<String>,
}

/// Starts the session of a person who returns from the provider.
pub(super) async fn return_from_provider(
    State(api): State<Api>,
    browser: Browser,
    headers: HeaderMap,
    PageQuery(query): PageQuery<CallbackQuery>,
) -> Response {
    let attempt = SignInAttempt::find(&headers, browser.is_secure, &query.state);
    let next = attempt.as_ref().map_or("/", |attempt| local_path(Some(&attempt.next))).to_owned();
    // An attempt is good for one return, whatever becomes of it.
    let jar = CookieJar::new().add(SignInAttempt::removal_cookie(browser.is_secure));
    match finish_attempt(&api, &browser, attempt, query).await {
        Ok(cookies) => (jar, cookies, Redirect::to(&next)).into_response(),
        Err(problem) => (jar, render_page(&api, Some(&problem), &next)).into_response(),
    }
}

async fn finish_attempt(
    api: &Api,
    browser: &Browser,
    attempt: Option<SignInAttempt>,
    query: CallbackQuery,
) -> Result<CookieJar, Problem> {
    let refuse = |why: &str| Problem::new(ProblemKind::Unauthenticated, why);
    let attempt = attempt.ok_or_else(|| {
        refuse("the attempt to sign in is unknown to this browser or older than ten minutes; sign in again")
    })?;
    let code = match (query.code, query.error) {
        (Some(code), None) => code,
        (_, Some(error)) => {
            let description = query.error_description.unwrap_or_default();
            let text = picket_proto::validation::sanitize_text(&format!("{error} {description}"), 300);
            return Err(refuse(&format!("the sign-in provider refused: {}", text.trim())));
        }
        (None, None) => return Err(refuse("the sign-in provider returned neither a code nor an error")),
    };
    let provider = find_provider(api)?;
    let identify = async {
        let identity: SessionIdentity =
            provider.finish_attempt(&api.public_url(), &attempt, code).await.map_err(Problem::from)?;
        Ok(Some(identity))
    };
    start_session(api, browser, identify).await
}

fn find_provider(api: &Api) -> Result<&OidcProvider, Problem> {
    let detail = "no sign-in provider is configured (PICKET_OIDC_ISSUER)";
    api.oidc.as_ref().ok_or_else(|| Problem::new(ProblemKind::NotFound, detail))
}

impl From<OidcError> for Problem {
    fn from(error: OidcError) -> Self {
        warn!(error = &error as &dyn std::error::Error, "a sign-in by the provider failed");
        let kind = match error {
            OidcError::Unavailable { .. } => ProblemKind::ProviderUnavailable,
            OidcError::NotAccepted(_) => ProblemKind::Unauthenticated,
            OidcError::NoRights { .. } => ProblemKind::Forbidden,
        };
        Self::new(kind, error.to_string())
    }
}
