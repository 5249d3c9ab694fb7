//! Limits and options of checks, and the reasons why no check can be performed.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use picket_runtime::{
    Secrets,
    name_lookup::{Lookup, system_lookup},
    tls_roots::RootsError,
};
use prometheus_client::metrics::gauge::Gauge;

use super::resolver;

/// Maximum headers of a response.
pub(super) const MAX_HEADERS: usize = 256;
/// Maximum size of HTTP/2 response headers in bytes; the HTTP/1 limit is some 400 KiB.
pub(super) const MAX_HEADER_LIST_BYTES: u32 = 256 << 10;

/// Limits of all checks of the process.
#[derive(Clone, Debug)]
pub struct CheckLimits {
    /// Non-public networks that checks may connect to nevertheless.
    pub allowed_networks: Vec<IpNet>,
    /// PEM file of root certificates to trust in addition to the platform's.
    pub ca_file: Option<PathBuf>,
    /// Maximum body bytes read per check; applies to the raw and to the decoded body separately.
    pub max_body_bytes: usize,
}

/// Options of the HTTP and DNS clients of checks.
#[derive(Clone)]
pub struct ClientOptions {
    /// `User-Agent` of checks whose site sets none.
    pub user_agent: String,
    /// Function that resolves host names.
    pub lookup: Lookup,
    /// Name servers used by `lookup`, if known. Failed lookups probe these servers: if none
    /// responds, the fault is the prober's and not the site's.
    pub name_servers: Vec<SocketAddr>,
    /// Lookups in progress, including lookups abandoned by their checks.
    pub running_lookups: Gauge,
    /// Secrets that checks refer to by name.
    pub secrets: Secrets,
    /// Cached TLS configurations of checks with options.
    pub cached_tls_configs: Gauge,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("Picket/", env!("CARGO_PKG_VERSION"), " (website availability check)")
                .to_owned(),
            lookup: system_lookup(),
            name_servers: resolver::name_servers(),
            running_lookups: Gauge::default(),
            secrets: Secrets::none(),
            cached_tls_configs: Gauge::default(),
        }
    }
}

/// Reasons why no check can be performed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no usable root certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The TLS configuration is rejected.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The user agent is not a valid header value.
    #[error("the user agent '{0}' cannot be sent in a header")]
    UserAgent(String),
    /// The threads of the match queue cannot be started.
    #[error("no thread to match bodies can be started")]
    Threads(#[source] std::io::Error),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}
