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
    #[arg(long, env = "PICKET_OIDC_ISSUER", value_name = "URL", value_parser = parse_issuer,
          requires_all = ["oidc_client_id", "oidc_groups"])]
    pub oidc_issuer: Option<String>,
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
    /// Issuer of the provider, as the provider writes it: a slash at the end is part of it.
    pub issuer: String,
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

/// Checks that an issuer is an URL without a query, and keeps its text.
fn parse_issuer(text: &str) -> Result<String, String> {
    let is_allowed = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match is_allowed {
        true => Ok(text.to_owned()),
        false => Err(format!("'{text}' is no issuer; allowed: such as https://id.example.com")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_keeps_its_text_and_is_refused_if_it_is_no_url() {
        assert_eq!(parse_issuer("https://id.example.com").unwrap(), "https://id.example.com");
        for bad in ["id.example.com", "ftp://id.example.com", "https://id.example.com/?a=b"] {
            assert!(parse_issuer(bad).unwrap_err().contains("https://id.example.com"), "{bad}");
        }
    }
}
