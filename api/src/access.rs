//! Who may do what: scopes and tag limits of a request.
//!
//! A middleware authenticates the request and stores an [`Access`]; the handlers state the scope that they need by
//! an extractor ([`Reader`], [`Writer`], [`Checker`], [`Administrator`]).

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::request::Parts;

use crate::{
    problem::{Problem, ProblemKind},
    state::Api,
};

/// What a token or a session allows. Scopes are independent of each other, but for `admin`, which
/// includes all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Read sites, results, incidents and reports.
    Read,
    /// Change sites, regions and maintenance.
    Write,
    /// Run ad-hoc checks.
    Check,
    /// Manage tokens and settings.
    Admin,
}

impl Scope {
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Check, Self::Admin];

    /// The scope's name in tokens and in the OpenAPI document.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Check => "check",
            Self::Admin => "admin",
        }
    }
}

/// What the sender of a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Name of the token or of the person, for logs and pages.
    pub(crate) name: String,
    scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    tags: Option<Vec<String>>,
}

impl Access {
    /// Name of the access on loopback.
    pub(crate) const LOOPBACK: &str = "loopback";

    pub(crate) fn new(name: impl Into<String>, scopes: Vec<Scope>, tags: Option<Vec<String>>) -> Self {
        Self { name: name.into(), scopes, tags }
    }

    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Tags of the sites that the sender may see, or `None` for all sites. For the functions of the store.
    pub(crate) fn tag_limit(&self) -> Option<&[String]> {
        self.tags.as_deref()
    }

    /// # Errors
    /// If the sender may see only the sites of some tags, and the object concerns all sites.
    pub(crate) fn require_all_sites(&self) -> Result<(), Problem> {
        match &self.tags {
            None => Ok(()),
            Some(tags) => Err(Problem::new(
                ProblemKind::Forbidden,
                format!("the token is limited to the tags {}, and this concerns all sites", tags.join(", ")),
            )),
        }
    }

    fn require_scope(&self, scope: Scope) -> Result<(), Problem> {
        match self.allows(scope) {
            true => Ok(()),
            false => Err(Problem::new(
                ProblemKind::Forbidden,
                format!("the token lacks the scope '{}'", scope.as_str()),
            )),
        }
    }
}

/// Authenticates a request, and stores its [`Access`].
pub(crate) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    if api.address.ip().is_loopback() {
        request.extensions_mut().insert(Access::new(Access::LOOPBACK, Scope::ALL.to_vec(), None));
    }
    next.run(request).await
}

fn require_access(parts: &Parts, scope: Scope) -> Result<Access, Problem> {
    let access = parts.extensions.get::<Access>().ok_or_else(|| {
        Problem::new(ProblemKind::Unauthenticated, "send a token as 'Authorization: Bearer pkt_…'")
    })?;
    access.require_scope(scope)?;
    Ok(access.clone())
}

macro_rules! scope_extractors {
    ($($(#[$doc:meta])* $name:ident: $scope:ident,)*) => { $(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Access);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
                require_access(parts, Scope::$scope).map(Self)
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
