//! Options for credentials and for the connection of a check.
//!
//! No refusal repeats a value here: people type a secret where its name belongs.

use std::collections::BTreeMap;

use clap::Args;
use picket_proto::{
    HttpOptions, ValidationError,
    http_options::{Auth, HttpVersion, SecretRef},
    nested_object::HIDDEN_VALUE,
};

/// Credentials, and the way to the site.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Credentials and connection")]
pub(crate) struct ConnectionOptions {
    /// User and the name of the secret with the password, for basic authentication; '' removes the
    /// credentials
    #[arg(long, value_name = "USER:secret:NAME", conflicts_with_all = ["auth_bearer", "auth_oauth2"])]
    auth_basic: Option<String>,
    /// Name of the secret with a bearer token; '' removes the credentials
    #[arg(long, value_name = "secret:NAME", conflicts_with = "auth_oauth2")]
    auth_bearer: Option<String>,
    /// OAuth 2 client credentials: 'token_url=URL client_id=ID client_secret=secret:NAME', and
    /// scopes=A,B where needed; '' removes the credentials
    #[arg(long, value_name = "FIELDS")]
    auth_oauth2: Option<String>,
    /// Header whose value is a secret, such as 'X-Api-Key=secret:shop-key'; may be repeated; ''
    /// removes all
    #[arg(long = "secret-header", value_name = "HEADER=secret:NAME")]
    secret_headers: Option<Vec<String>>,
    /// Name of the secret with the client certificate and its key; '' removes it
    #[arg(long, value_name = "NAME")]
    client_certificate: Option<String>,
    /// Name of the certificate authority to trust; '' removes it
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// Name of the proxy to use; '' removes it
    #[arg(long, value_name = "NAME")]
    proxy: Option<String>,
    /// Address or host to connect to in place of the URL's, such as 192.0.2.7:8443; '' removes it
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    connect_to: Option<String>,
    /// Value of the header Host in place of the URL's host; '' removes it
    #[arg(long, value_name = "HOST")]
    host_header: Option<String>,
    /// Version of HTTP: any, 1.1 or 2 [default: any]
    #[arg(long, value_name = "VERSION")]
    http_version: Option<String>,
}

impl ConnectionOptions {
    /// Sets the given fields of `options`.
    pub(super) fn apply_to(&self, options: &mut HttpOptions) -> Result<(), ValidationError> {
        for (given, parse) in [
            (&self.auth_basic, parse_basic as fn(&str) -> Result<Auth, ValidationError>),
            (&self.auth_bearer, parse_bearer),
            (&self.auth_oauth2, parse_oauth2),
        ] {
            if let Some(text) = given {
                options.auth = match text.trim() {
                    "" => None,
                    text => Some(parse(text)?),
                };
            }
        }
        if let Some(headers) = &self.secret_headers {
            options.secret_headers = parse_secret_headers(headers)?;
        }
        super::replace_text(&mut options.client_certificate, self.client_certificate.as_ref());
        super::replace_text(&mut options.ca, self.ca.as_ref());
        super::replace_text(&mut options.proxy, self.proxy.as_ref());
        super::replace_text(&mut options.connect_to, self.connect_to.as_ref());
        super::replace_text(&mut options.host_header, self.host_header.as_ref());
        if let Some(version) = &self.http_version {
            options.http_version = parse_http_version(version)?;
        }
        Ok(())
    }
}

fn parse_basic(text: &str) -> Result<Auth, ValidationError> {
    const FIELD: &str = "options.auth.basic";
    let (user, password) = text.split_once(':').ok_or_else(|| hide_value(FIELD, "USER:secret:NAME"))?;
    Ok(Auth::Basic { user: user.to_owned(), password: parse_secret(FIELD, "USER:secret:NAME", password)? })
}

fn parse_bearer(text: &str) -> Result<Auth, ValidationError> {
    Ok(Auth::Bearer(parse_secret("options.auth.bearer", "secret:NAME", text)?))
}

fn parse_oauth2(text: &str) -> Result<Auth, ValidationError> {
    const FIELD: &str = "options.auth.oauth2";
    const ALLOWED: &str = "'token_url=URL client_id=ID client_secret=secret:NAME scopes=A,B', each once, scopes only where needed";
    let mut fields = BTreeMap::new();
    for part in text.split_whitespace() {
        let (name, value) = part.split_once('=').ok_or_else(|| hide_value(FIELD, ALLOWED))?;
        if fields.insert(name, value).is_some() {
            return Err(hide_value(FIELD, ALLOWED));
        }
    }
    let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_empty());
    let (url, id, secret, scopes) =
        (take("token_url"), take("client_id"), take("client_secret"), take("scopes"));
    let (Some(url), Some(id), Some(secret), true) = (url, id, secret, fields.is_empty()) else {
        return Err(hide_value(FIELD, ALLOWED));
    };
    Ok(Auth::Oauth2 {
        token_url: url.to_owned(),
        client_id: id.to_owned(),
        client_secret: parse_secret(
            "options.auth.oauth2.client_secret",
            "client_secret=secret:NAME",
            secret,
        )?,
        scopes: scopes.map_or_else(Vec::new, |scopes| scopes.split(',').map(str::to_owned).collect()),
    })
}

fn parse_secret_headers(given: &[String]) -> Result<BTreeMap<String, SecretRef>, ValidationError> {
    const FIELD: &str = "options.secret_headers";
    const ALLOWED: &str = "HEADER=secret:NAME, each header once";
    let mut headers = BTreeMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let (name, secret) = text.split_once('=').ok_or_else(|| hide_value(FIELD, ALLOWED))?;
        // 'X-Api-Key: …=' has the value before the '='.
        if name.contains(|letter: char| letter == ':' || letter.is_whitespace()) {
            return Err(hide_value(FIELD, ALLOWED));
        }
        if headers.insert(name.to_owned(), parse_secret(FIELD, ALLOWED, secret)?).is_some() {
            return Err(ValidationError::new(FIELD, name, ALLOWED));
        }
    }
    Ok(headers)
}

/// Parses `secret:NAME`. `form` is the form of the whole value, for the refusal.
fn parse_secret(field: &str, form: &str, text: &str) -> Result<SecretRef, ValidationError> {
    match text.strip_prefix("secret:") {
        Some(name) if !name.is_empty() => Ok(SecretRef { secret: name.to_owned() }),
        _ => Err(hide_value(field, form)),
    }
}

fn parse_http_version(text: &str) -> Result<HttpVersion, ValidationError> {
    serde_json::from_value(text.into())
        .map_err(|_| ValidationError::new("options.http_version", text, "any, 1.1, 2"))
}

/// Refusal that does not repeat the value. `form` is the allowed form.
fn hide_value(field: &str, form: &str) -> ValidationError {
    let allowed = format!("{form}, where NAME is the name of a secret of the probers and not its value");
    ValidationError::new(field, HIDDEN_VALUE, allowed)
}
