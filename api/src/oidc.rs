//! Sign-in by an OpenID Connect provider: authorization code flow with PKCE.
//!
//! Source: OpenID Connect Core 1.0, section 3.1; RFC 7636. The crate `openidconnect` verifies; here is what it cannot know:
//! where the state of an attempt is kept (in a cookie of the browser, so that any process can finish it), and which
//! rights a person's groups give.

mod attempt;
mod http_client;
mod options;
mod person;
mod provider;
mod rights;

pub(crate) use self::{
    attempt::SignInAttempt,
    provider::{OidcError, OidcProvider},
};
pub use self::{
    options::{OidcConfig, OidcOptions},
    provider::OidcSetupError,
    rights::GroupRights,
};
