//! Failures of connections that options of a check asked for.

use std::sync::Arc;

use picket_proto::{Cause, http_options::HttpVersion};

/// Reasons why a connection is of no use for a check with options for the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the server does not speak HTTP/{}", version_number(*.0))]
    Version(HttpVersion),
    #[error("options.host_header cannot be sent with HTTP/2")]
    HostHeader,
    #[error("proxy '{proxy}' requires other credentials than this prober's (status 407)")]
    ProxyCredentials { proxy: Arc<str> },
    #[error("proxy '{proxy}' could not connect to {site} (status {status})")]
    SiteUnreachable { proxy: Arc<str>, site: String, status: u16 },
    #[error("proxy '{proxy}' refused to connect to {site} (status {status})")]
    ProxyRefusal { proxy: Arc<str>, site: String, status: u16 },
    #[error("proxy '{proxy}' did not answer CONNECT as a proxy does")]
    NotProxy { proxy: Arc<str> },
}

impl ConnectionError {
    /// Cause of the check result. A proxy that could not reach the site reports the site's failure;
    /// any other failure of the proxy is the prober's.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Version(_) => Cause::Http,
            Self::HostHeader => Cause::Invalid,
            Self::ProxyCredentials { .. } => Cause::SecretUnavailable,
            Self::SiteUnreachable { .. } => Cause::Connect,
            Self::ProxyRefusal { .. } | Self::NotProxy { .. } => Cause::SourceUnavailable,
        }
    }
}

fn version_number(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http1 => "1.1",
        HttpVersion::Any | HttpVersion::Http2 => "2",
    }
}
