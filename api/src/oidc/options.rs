//! Options of sign-in by OpenID Connect.

use std::path::PathBuf;

use clap::Args;
use url::Url;

use super::rights::GroupRights;

/// Sign-in by an OpenID Connect provider.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sign-in by OpenID Connect")]
pub struct OidcOptions {
    /// Issuer, such as `https://id.example.com`; without it, people sign in with tokens
    #[arg(long, env = "PICKET_OIDC_ISSUER", value_name = "URL", requires_all = ["oidc_client_id", "oidc_groups"])]
    pub oidc_issuer: Option<Url>,
    /// Client id of Picket at the provider; its redirect URI there is PUBLIC_URL/sign-in/oidc/callback
    #[arg(long, env = "PICKET_OIDC_CLIENT_ID", value_name = "ID", requires = "oidc_issuer")]
    pub oidc_client_id: Option<String>,
    /// File with the client secret; without it, Picket is a public client
    #[arg(long, env = "PICKET_OIDC_CLIENT_SECRET_FILE", value_name = "FILE", requires = "oidc_issuer")]
    pub oidc_client_secret_file: Option<PathBuf>,
    /// Scopes to request beside openid, separated by blanks
    #[arg(long, env = "PICKET_OIDC_SCOPES", value_name = "SCOPES", default_value = "email profile groups")]
    pub oidc_scopes: String,
    /// Claim with the groups of a person
    #[arg(long, env = "PICKET_OIDC_GROUPS_CLAIM", value_name = "NAME", default_value = "groups")]
    pub oidc_groups_claim: String,
    /// Rights of groups, separated by semicolons, such as `admins=admin; ops=read,write,check;
    /// acme=read:acme`: a group, its scopes, and the tags that limit it. The first group that a person
    /// is in counts; `*` is everybody
    #[arg(
        long,
        env = "PICKET_OIDC_GROUPS",
        value_name = "GROUP=SCOPES[:TAGS];…",
        value_delimiter = ';',
        requires = "oidc_issuer"
    )]
    pub oidc_groups: Vec<GroupRights>,
}

/// Configuration of sign-in by OpenID Connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// Issuer of the provider.
    pub issuer: Url,
    /// Client id of Picket.
    pub client_id: String,
    /// File with the client secret, for a confidential client.
    pub client_secret_file: Option<PathBuf>,
    /// Scopes to request beside `openid`.
    pub scopes: Vec<String>,
    /// Claim with the groups of a person.
    pub groups_claim: String,
    /// Rights of groups; the first that matches counts.
    pub groups: Vec<GroupRights>,
}

impl OidcOptions {
    /// The configuration, if a provider is configured.
    pub fn into_config(self) -> Option<OidcConfig> {
        Some(OidcConfig {
            issuer: self.oidc_issuer?,
            client_id: self.oidc_client_id?,
            client_secret_file: self.oidc_client_secret_file,
            scopes: self.oidc_scopes.split_ascii_whitespace().map(str::to_owned).collect(),
            groups_claim: self.oidc_groups_claim,
            groups: self.oidc_groups,
        })
    }
}
