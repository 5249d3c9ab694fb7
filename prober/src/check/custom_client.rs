//! HTTP client for hops with a [`ConnectionPlan`]. reqwest's client connects to the host of the URL;
//! this client connects where the plan leads, and speaks as reqwest's client does.

use std::{future::poll_fn, sync::Arc};

use hyper::{
    Uri,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    client::legacy::connect::{Connection, HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use picket_proto::{Check, http_options::HttpVersion};
use picket_runtime::{AddressPolicy, Secrets, error_source::find_source};
use reqwest::{
    Body, Request, Response, StatusCode,
    header::{HOST, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION},
};
use rustls::{AlertDescription, ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;
use url::{Host, Url};

use super::{
    connection_error::ConnectionError,
    connection_plan::ConnectionPlan,
    destination::Destination,
    failure::Failure,
    plain_http::{BoxError, HyperResolver, MeteredStream, set_default_headers},
    resolver::Resolver,
    settings,
    timing::{self, Phase, PhaseRecorder},
    tls::HTTP2_PROTOCOL,
    tls_configs::TlsConfigs,
};

/// Client for hops with a plan.
pub(super) struct CustomClient {
    connector: HttpConnector<HyperResolver>,
    /// Connector to proxies, to which the address policy does not apply.
    proxy_connector: HttpConnector<HyperResolver>,
    user_agent: HeaderValue,
    /// HTTP/2 flow-control window in bytes.
    window: u32,
    secrets: Secrets,
    tls_configs: TlsConfigs,
}

impl CustomClient {
    pub(super) fn new(
        resolver: &Arc<Resolver>,
        user_agent: HeaderValue,
        window: u32,
        secrets: Secrets,
        tls_configs: TlsConfigs,
    ) -> Self {
        let connector = |resolver| {
            let mut connector = HttpConnector::new_with_resolver(HyperResolver(resolver));
            connector.set_nodelay(true);
            connector
        };
        Self {
            connector: connector(Arc::clone(resolver)),
            proxy_connector: connector(Arc::new(resolver.with_policy(AddressPolicy::unrestricted()))),
            user_agent,
            window,
            secrets,
            tls_configs,
        }
    }

    /// Returns the plan for a hop of `check` to `url`; `None` if no option applies to the hop.
    ///
    /// # Errors
    /// Fails if an option names a file that this prober does not have or cannot use.
    pub(super) fn plan_hop(&self, check: &Check, url: &Url) -> Result<Option<Box<ConnectionPlan>>, Failure> {
        match check.options.has_connection_options() {
            true => ConnectionPlan::for_hop(check, url, &self.secrets, &self.tls_configs),
            false => Ok(None),
        }
    }

    /// Sends `request` along `plan`.
    ///
    /// # Errors
    /// Fails if no response arrives.
    pub(super) async fn send_request(
        &self,
        plan: &ConnectionPlan,
        request: Request,
    ) -> Result<Response, BoxError> {
        let request = hyper::Request::<Body>::try_from(request)?;
        let mut stream = self.connect(plan).await?;
        // The address of the peer, as reqwest's response finds it.
        let peer = stream.connected();
        let response = match &plan.tls {
            Some(config) => {
                if let Some(proxy) = &plan.proxy {
                    timing::update_recorder(|marks| marks.enter_phase(Phase::ProxyConnect));
                    proxy.open_tunnel(&mut stream, &plan.site).await?;
                }
                let stream = negotiate_tls(stream, config, plan).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2_PROTOCOL);
                if plan.http_version == HttpVersion::Http2 && !is_http2 {
                    return Err(ConnectionError::Version(HttpVersion::Http2).into());
                }
                timing::update_recorder(|marks| marks.enter_phase(Phase::FirstByte));
                self.exchange(stream, is_http2, plan, request).await?
            }
            None => {
                timing::update_recorder(|marks| marks.enter_phase(Phase::FirstByte));
                let inbound = timing::current_recorder().map(|marks| marks.inbound()).unwrap_or_default();
                let stream = MeteredStream { stream, inbound: Arc::clone(&inbound) };
                let is_http2 = plan.http_version == HttpVersion::Http2;
                self.exchange(stream, is_http2, plan, request).await.map_err(|why| {
                    match is_http2 && inbound.has_other_than_http2() {
                        true => ConnectionError::Version(HttpVersion::Http2).into(),
                        false => why,
                    }
                })?
            }
        };
        // Of a tunnel only the site could send this status here. A proxy names the credentials that it
        // requires (RFC 9110, section 15.5.8), so a response without them is the site's.
        if let (Some(proxy), None, StatusCode::PROXY_AUTHENTICATION_REQUIRED) =
            (&plan.proxy, &plan.tls, response.status())
            && response.headers().contains_key(PROXY_AUTHENTICATE)
        {
            return Err(ConnectionError::ProxyCredentials { proxy: Arc::clone(&proxy.name) }.into());
        }
        let mut response = response.map(Body::wrap);
        peer.get_extras(response.extensions_mut());
        Ok(response.into())
    }

    async fn connect(&self, plan: &ConnectionPlan) -> Result<TcpStream, BoxError> {
        let mut connector = match plan.proxy {
            Some(_) => self.proxy_connector.clone(),
            None => self.connector.clone(),
        };
        // The connector reads host and port alone.
        let to = Uri::builder()
            .scheme("http")
            .authority(plan.destination.to_string())
            .path_and_query("/")
            .build()?;
        timing::update_recorder(PhaseRecorder::start_connect);
        poll_fn(|context| connector.poll_ready(context)).await?;
        Ok(connector.call(to).await?.into_inner())
    }

    /// Sends `request` on a new connection.
    async fn exchange<S>(
        &self,
        stream: S,
        is_http2: bool,
        plan: &ConnectionPlan,
        mut request: hyper::Request<Body>,
    ) -> Result<hyper::Response<Incoming>, BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        set_default_headers(request.headers_mut(), &self.user_agent);
        match is_http2 {
            true => set_http2_authority(&mut request, plan)?,
            false => set_http1_target(&mut request, plan)?,
        }
        let stream = TokioIo::new(stream);
        if is_http2 {
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(settings::MAX_HEADER_LIST_BYTES)
                .initial_stream_window_size(self.window)
                .initial_connection_window_size(self.window)
                .handshake(stream)
                .await?;
            drive_connection(connection);
            return Ok(sender.send_request(request).await?);
        }
        let (mut sender, connection) = http1::Builder::new()
            // Accept malformed headers that browsers accept: visitors of such a site are served.
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_headers(settings::MAX_HEADERS)
            .handshake(stream)
            .await?;
        drive_connection(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// Reads and writes a connection until its response has ended. The response and its body report
/// errors of the connection.
fn drive_connection(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    use hyper::rt::Executor;
    TokioExecutor::new().execute(async {
        let _ = connection.await;
    });
}

async fn negotiate_tls(
    stream: TcpStream,
    config: &Arc<ClientConfig>,
    plan: &ConnectionPlan,
) -> Result<TlsStream<TcpStream>, BoxError> {
    let name = match &plan.site.host {
        Host::Domain(name) => ServerName::try_from(name.clone())?,
        Host::Ipv4(address) => ServerName::from(std::net::IpAddr::from(*address)),
        Host::Ipv6(address) => ServerName::from(std::net::IpAddr::from(*address)),
    };
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    connected.map_err(|why| {
        let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        match find_source::<rustls::Error>(&why) {
            Some(seen) if *seen == alert && !plan.http_version.is_any() => {
                ConnectionError::Version(plan.http_version).into()
            }
            _ => why.into(),
        }
    })
}

/// Puts the given host into `:authority`, which HTTP/2 has instead of `Host`.
fn set_http2_authority(
    request: &mut hyper::Request<Body>,
    plan: &ConnectionPlan,
) -> Result<(), ConnectionError> {
    let Some(host) = &plan.host_header else { return Ok(()) };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(host.as_bytes().try_into().map_err(|_| ConnectionError::HostHeader)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| ConnectionError::HostHeader)?;
    Ok(())
}

/// Sets the header `Host` and the target of an HTTP/1 request: a path, or the whole URL for a proxy
/// that forwards the request.
fn set_http1_target(request: &mut hyper::Request<Body>, plan: &ConnectionPlan) -> Result<(), BoxError> {
    let host = match &plan.host_header {
        Some(host) => host.clone(),
        None => host_value(&plan.site, plan.tls.is_some())?,
    };
    request.headers_mut().insert(HOST, host);
    match &plan.proxy {
        Some(proxy) if plan.tls.is_none() => {
            if let Some(authorization) = &proxy.authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        _ => {
            let path = request.uri().path_and_query().cloned();
            let mut parts = hyper::http::uri::Parts::default();
            parts.path_and_query = path;
            *request.uri_mut() = Uri::from_parts(parts)?;
        }
    }
    Ok(())
}

/// Host of the URL, with its port unless that is the default of the scheme.
fn host_value(site: &Destination, is_https: bool) -> Result<HeaderValue, BoxError> {
    let default_port = if is_https { 443 } else { 80 };
    Ok(HeaderValue::try_from(match site.port == default_port {
        true => site.host.to_string(),
        false => site.to_string(),
    })?)
}
