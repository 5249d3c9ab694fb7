//! Destination of a TCP connection.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

/// Host and port of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl Destination {
    /// The destination of `url`, if it has a host.
    pub(super) fn from_url(url: &Url) -> Option<Self> {
        Some(Self { host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    /// The address, if the host is not a name.
    pub(super) fn literal_address(&self) -> Option<IpAddr> {
        literal_address(&self.host)
    }
}

/// The address, if `host` is not a name.
pub(super) fn literal_address<S>(host: &Host<S>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
        Host::Domain(_) => None,
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}:{}", self.host, self.port)
    }
}
