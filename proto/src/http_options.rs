//! Options of an HTTP check: how to ask, beyond method, headers and body.

mod auth;
mod connection;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{auth::check_secret_name, connection::ConnectTarget};
use crate::ValidationError;

/// The column `options` of a site, and the field of a request. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object, such as {\"http_version\": \"2\"}")]
pub struct HttpOptions {
    /// Credentials for the URL's own origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Headers whose values are secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, SecretRef>,
    /// Address or name, with an optional port, to connect to in place of the URL's own origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<String>,
    /// Value of the header `Host` in place of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_header: Option<String>,
    /// Name of the secret with the client certificate and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// Name of the certificate authority to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Name of the proxy to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Version of HTTP.
    #[serde(skip_serializing_if = "HttpVersion::is_any")]
    pub http_version: HttpVersion,
}

/// The name of a secret. Its value is in the configuration of each prober.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the name of a secret, as {\"secret\": NAME}")]
pub struct SecretRef {
    /// Name of the secret.
    pub secret: String,
}

/// A way to prove who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// User and password (RFC 7617).
    Basic {
        /// User.
        user: String,
        /// Password.
        password: SecretRef,
    },
    /// A bearer token (RFC 6750).
    Bearer(SecretRef),
    /// A token by the client credentials grant of OAuth 2 (RFC 6749, section 4.4).
    Oauth2 {
        /// URL of the token endpoint.
        token_url: String,
        /// Id of the client.
        client_id: String,
        /// Secret of the client.
        client_secret: SecretRef,
        /// Scopes to request.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scopes: Vec<String>,
    },
}

/// Versions of HTTP that a check may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HttpVersion {
    /// By negotiation.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// HTTP/1.1.
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "2")]
    Http2,
}

impl HttpVersion {
    /// Returns true if the version is negotiated.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

impl HttpOptions {
    /// Returns true if every option has its default.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Validates all options.
    ///
    /// # Errors
    /// If an option cannot be used. The error names it, as in `options.connect_to`.
    pub fn validate(&self) -> Result<(), ValidationError> {
        self.validate_auth()
    }
}
