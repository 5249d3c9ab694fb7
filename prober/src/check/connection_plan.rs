//! Plan of a hop's connection, for checks with options for the connection: where it goes, and what
//! it negotiates.
//!
//! `connect_to`, `host_header`, `client_certificate` and `ca` apply to the origin of the check's URL
//! alone: a site that redirects elsewhere must not choose who receives them. `proxy` and
//! `http_version` apply to each hop.

use std::sync::Arc;

use picket_proto::{Cause, Check, http_options::HttpVersion};
use picket_runtime::Secrets;
use reqwest::header::HeaderValue;
use rustls::ClientConfig;
use url::Url;

use super::{
    credentials::{secret_failure, value_for_check},
    destination::Destination,
    failure::Failure,
    proxy::ProxySettings,
    tls_configs::{NamedPem, TlsConfigs},
};

/// How one hop is connected, where that differs from a check without options.
pub(super) struct ConnectionPlan {
    /// Host and port in the URL.
    pub(super) site: Destination,
    /// Destination of the TCP connection: the proxy, or `connect_to`, or the site.
    pub(super) destination: Destination,
    pub(super) host_header: Option<HeaderValue>,
    pub(super) http_version: HttpVersion,
    pub(super) proxy: Option<ProxySettings>,
    /// TLS configuration; `None` for http.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl ConnectionPlan {
    /// Returns the plan for a hop to `url` of a check with options for the connection; `None` if
    /// none of them applies to the hop.
    ///
    /// # Errors
    /// Fails if an option names a file that this prober does not have or cannot use.
    pub(super) fn for_hop(
        check: &Check,
        url: &Url,
        secrets: &Secrets,
        configs: &TlsConfigs,
    ) -> Result<Option<Box<Self>>, Failure> {
        let options = &check.options;
        let is_own_origin = url.origin() == check.url.origin();
        let applies = is_own_origin || options.proxy.is_some() || !options.http_version.is_any();
        // A redirect to a URL without a host is refused before.
        let (true, Some(site)) = (applies, Destination::from_url(url)) else { return Ok(None) };
        let invalid = |what: &str| Failure::new(Cause::Invalid, what);
        let connect_to = match is_own_origin {
            true => options.connect_target().map_err(|why| invalid(&why.to_string()))?,
            false => None,
        };
        let host_header = options
            .host_header
            .as_deref()
            .filter(|_| is_own_origin)
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| invalid("options.host_header cannot be sent"))?;
        let proxy = options.proxy.as_deref().map(|name| find_proxy(secrets, name)).transpose()?;
        let destination = match (&proxy, connect_to) {
            (Some(proxy), _) => proxy.destination.clone(),
            (None, Some(target)) => Destination { host: target.host, port: target.port.unwrap_or(site.port) },
            (None, None) => site.clone(),
        };
        if proxy.is_some() && url.scheme() == "http" && options.http_version == HttpVersion::Http2 {
            let message = "redirect to an http URL, for which a proxy does not speak HTTP/2";
            return Err(Failure::new(Cause::Redirect, message));
        }
        let tls = match url.scheme() {
            "https" => {
                let identity = match options.client_certificate.as_deref().filter(|_| is_own_origin) {
                    Some(name) => Some((name, value_for_check(secrets, name, check)?)),
                    None => None,
                };
                let ca = match options.ca.as_deref().filter(|_| is_own_origin) {
                    Some(name) => Some((name, secrets.authority(name).map_err(|why| secret_failure(&why))?)),
                    None => None,
                };
                let identity =
                    identity.as_ref().map(|(name, pem)| NamedPem { name, pem: pem.expose_bytes() });
                let ca = ca.as_ref().map(|(name, pem)| NamedPem { name, pem: pem.as_bytes() });
                Some(configs.get_or_build(identity, ca, check.tls_verify, options.http_version)?)
            }
            _ => None,
        };
        let http_version = options.http_version;
        // Boxed, because the memory of each running check would grow by this rare value.
        Ok(Some(Box::new(Self { site, destination, host_header, http_version, proxy, tls })))
    }
}

fn find_proxy(secrets: &Secrets, name: &str) -> Result<ProxySettings, Failure> {
    let proxy = secrets.proxy(name).map_err(|why| secret_failure(&why))?;
    ProxySettings::new(name, &proxy.url, proxy.login.as_ref())
}
