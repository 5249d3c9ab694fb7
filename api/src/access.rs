//! Who may do what: a middleware authenticates each request and stores its [`Access`], and the handlers state
//! the scope that they need by an extractor ([`Reader`], [`Writer`], [`Checker`], [`Administrator`]).
//!
//! The middleware refuses nothing: pages and files without an extractor need no access.

pub(crate) mod activity;
pub(crate) mod authenticator;
pub(crate) mod client;
pub(crate) mod cookie;
pub(crate) mod limits;
pub(crate) mod local_request;
pub(crate) mod rights;

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, header, request::Parts};

use self::{
    activity::Activity,
    authenticator::Credential,
    cookie::{build_removal_cookie, sets_session_cookie},
    local_request::is_local_request,
};
pub(crate) use self::{
    client::Client,
    rights::{Access, Scope},
};
use crate::{
    metrics::Refusal,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Result of the authentication of a request, in its extensions.
#[derive(Clone)]
struct Authentication(Result<Access, Problem>);

/// Authenticates a request. Stores its [`Client`], and its [`Access`] or the reason why it has none.
pub(crate) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let client = Client::resolve(peer, request.headers(), &api.config.trusted_proxies);
    let is_local = is_local_request(&client, request.version(), request.uri(), request.headers());
    let is_secure = client.is_secure(is_local);
    let credential = Credential::find(request.headers(), is_secure);
    let activity = Activity::of_request(request.method(), request.headers());
    let has_session = matches!(credential, Some(Credential::Session(_)));
    let authentication = authenticate_client(&api, &client, credential, is_local, activity).await;
    let is_stale = has_session && authentication.as_ref().is_ok_and(|access| access.is_open);
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(Authentication(authentication));
    let mut response = next.run(request).await;
    // A sign-in of this request has replaced the cookie already.
    if is_stale
        && !sets_session_cookie(response.headers(), is_secure)
        && let Ok(cookie) = HeaderValue::try_from(build_removal_cookie(is_secure).to_string())
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Takes no reference to the request, whose body other threads may not read.
async fn authenticate_client(
    api: &Api,
    client: &Client,
    credential: Option<Credential>,
    is_local: bool,
    activity: Activity,
) -> Result<Access, Problem> {
    let claims_token = matches!(credential, Some(Credential::Token(_) | Credential::Unknown));
    let is_open = is_local && !claims_token && api.may_be_open() && api.authenticator.is_open().await?;
    match credential {
        // Everybody on this machine may do everything, so that an ended session takes nothing away.
        Some(session) if is_open => {
            let found = api.authenticator.authenticate(&session, activity).await?;
            Ok(found.unwrap_or_else(Access::open))
        }
        Some(credential) => {
            // Before the query, since a flood of guesses would be as many queries otherwise.
            if !api.authenticator.is_familiar(&credential) {
                api.limits.failures.check(client)?;
            }
            match api.authenticator.authenticate(&credential, activity).await? {
                Some(access) => Ok(access),
                None => {
                    api.metrics.count_refusal(Refusal::InvalidCredential);
                    Err(Problem::new(ProblemKind::Unauthenticated, credential.describe_refusal()))
                }
            }
        }
        None if is_open => Ok(Access::open()),
        None => Err(Problem::new(
            ProblemKind::Unauthenticated,
            "send a token as 'Authorization: Bearer pkt_…', or sign in at /sign-in",
        )),
    }
}

/// A sender of any scope.
pub(crate) struct Authenticated(pub(crate) Access);

impl FromRequestParts<Api> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        match parts.extensions.get::<Authentication>() {
            Some(Authentication(access)) => access.clone().map(Self),
            None => Err(Problem::new(ProblemKind::Unauthenticated, "the request was not authenticated")),
        }
    }
}

macro_rules! scope_extractors {
    ($($(#[$doc:meta])* $name:ident: $scope:ident,)*) => { $(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Access);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                let Authenticated(access) = Authenticated::from_request_parts(parts, api).await?;
                access.require_scope(Scope::$scope)?;
                Ok(Self(access))
            }
        }
    )* };
}

scope_extractors! {
    /// A sender with the scope `read`.
    Reader: Read,
    /// A sender with the scope `write`.
    Writer: Write,
    /// A sender with the scope `check`.
    Checker: Check,
    /// A sender with the scope `admin`.
    Administrator: Admin,
}
