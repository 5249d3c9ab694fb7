//! Who may do what: a middleware authenticates each request and stores its [`Access`], and the handlers state
//! the scope that they need by an extractor ([`Reader`], [`Writer`], [`Checker`], [`Administrator`]).
//!
//! The middleware refuses nothing: pages and files without an extractor need no access.

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
use http::request::Parts;

use self::{authenticator::Credential, local_request::is_local_request};
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
    let is_local = is_local_request(&client, request.uri(), request.headers());
    let credential = Credential::find(request.headers(), client.is_secure(is_local));
    let authentication = authenticate_client(&api, &client, credential, is_local).await;
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(Authentication(authentication));
    next.run(request).await
}

/// Takes no reference to the request, whose body other threads may not read.
async fn authenticate_client(
    api: &Api,
    client: &Client,
    credential: Option<Credential>,
    is_local: bool,
) -> Result<Access, Problem> {
    match credential {
        Some(credential) => match api.authenticator.authenticate(&credential).await? {
            Some(access) => Ok(access),
            None => {
                api.metrics.count_refusal(Refusal::InvalidCredential);
                api.limits.failures.check(client)?;
                Err(Problem::new(ProblemKind::Unauthenticated, credential.describe_refusal()))
            }
        },
        None if is_local && api.may_be_open() && api.authenticator.is_open().await? => Ok(Access::open()),
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
