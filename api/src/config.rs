//! Configuration of an API process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use url::Url;

use crate::{
    oidc::OidcConfig,
    options::{AddressOptions, Options},
};

/// Configuration of an API process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address of the API and the web UI.
    pub listen: SocketAddr,
    /// URL under which people reach this process, if the cluster setting does not say it.
    pub public_url: Option<Url>,
    /// Networks of reverse proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Sign-in by OpenID Connect, if any.
    pub oidc: Option<OidcConfig>,
    /// Number of sites whose state is among the metrics.
    pub site_metrics: u32,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// Maximum time for open requests to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8088)),
            public_url: None,
            trusted_proxies: Vec::new(),
            oidc: None,
            site_metrics: 0,
            max_connections: 10_000,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

impl From<AddressOptions> for Config {
    fn from(options: AddressOptions) -> Self {
        Self { listen: options.api_listen, trusted_proxies: options.trusted_proxies, ..Self::default() }
    }
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            public_url: options.public_url,
            oidc: options.oidc.into_config(),
            site_metrics: options.site_metrics,
            drain_timeout: options.drain_timeout.0,
            ..Self::from(options.address)
        }
    }
}
