//! Contenders of the comparison: the prober's check, the minimal equivalent with reqwest, and the
//! minimal equivalent with hyper alone.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::ValueEnum;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use picket_prober::check::{CheckLimits, Checker};
use picket_proto::{Check, CheckRequest, Outcome};
use reqwest::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::Error;

/// Kind of contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ContenderKind {
    /// `picket_prober::check::Checker`.
    Check,
    /// A reqwest client: sends the request, reads the body to the end and checks the status.
    /// Without timeout, timings and address policy. Like a check, each request uses a fresh
    /// connection with a full handshake.
    Bare,
    /// hyper on a connection opened for the request, without a client, a pool or a URL.
    Hyper,
}

/// Contender ready to run. Clones share all state.
#[derive(Clone)]
pub(crate) enum Contender {
    Check(Box<Checker>),
    Bare(Client),
    Hyper(TlsConnector),
}

impl Contender {
    /// Creates a contender that trusts the certificates in the file `authority`.
    pub(crate) fn new(kind: ContenderKind, authority: &Path) -> Result<Self, Error> {
        match kind {
            ContenderKind::Check => {
                let allow = vec!["127.0.0.0/8".parse().map_err(|why| Error::Failed(format!("{why}")))?];
                let limits = CheckLimits {
                    allowed_networks: allow,
                    ca_file: Some(authority.to_owned()),
                    max_body_bytes: 1 << 20,
                };
                let checker = Checker::new(&limits).map_err(|why| Error::Failed(why.to_string()))?;
                Ok(Self::Check(Box::new(checker)))
            }
            ContenderKind::Bare => {
                let client = tls_config(authority)
                    .and_then(bare_client)
                    .map_err(|why| Error::Failed(why.to_string()))?;
                Ok(Self::Bare(client))
            }
            ContenderKind::Hyper => {
                let config = tls_config(authority).map_err(|why| Error::Failed(why.to_string()))?;
                Ok(Self::Hyper(Arc::new(config).into()))
            }
        }
    }

    /// Performs the request once.
    ///
    /// # Errors
    /// Fails unless the response is a complete 200.
    pub(crate) async fn run_once(&self, request: &TargetRequest) -> Result<(), Error> {
        match self {
            Self::Check(checker) => check_once(checker, request).await,
            Self::Bare(client) => bare_once(client, request).await,
            Self::Hyper(connector) => hyper_once(connector, request).await,
        }
    }
}

/// [`Contender::run_once`] by the prober's check.
pub(crate) async fn check_once(checker: &Checker, request: &TargetRequest) -> Result<(), Error> {
    let result = checker.run_check(&request.check).await;
    match result.outcome {
        Outcome::Up => Ok(()),
        _ => Err(Error::Failed(format!("a check failed: {result:?}"))),
    }
}

/// [`Contender::run_once`] by the bare loop.
pub(crate) async fn bare_once(client: &Client, request: &TargetRequest) -> Result<(), Error> {
    let failed = |why: reqwest::Error| Error::Failed(format!("a request failed: {why:?}"));
    let mut response = client.get(request.check.url.clone()).send().await.map_err(failed)?;
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        std::hint::black_box(chunk.len());
    }
    match response.status().as_u16() {
        200 => Ok(()),
        other => Err(Error::Failed(format!("status {other}"))),
    }
}

/// [`Contender::run_once`] by hyper alone.
pub(crate) async fn hyper_once(connector: &TlsConnector, request: &TargetRequest) -> Result<(), Error> {
    let connect = |error| Error::System("a connection", error);
    let stream = TcpStream::connect(request.address).await.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    match request.check.url.scheme() {
        "https" => {
            let name = ServerName::from(request.address.ip());
            request_once(connector.connect(name, stream).await.map_err(connect)?, request).await
        }
        _ => request_once(stream, request).await,
    }
}

async fn request_once(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &TargetRequest,
) -> Result<(), Error> {
    let failed = |why: hyper::Error| Error::Failed(format!("a request failed: {why:?}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/page").header("host", target.address.to_string());
    let request = request.body(Empty::<&[u8]>::new()).map_err(|why| Error::Failed(why.to_string()))?;
    let mut response = sender.send_request(request).await.map_err(failed)?;
    while let Some(frame) = response.frame().await {
        std::hint::black_box(frame.map_err(failed)?.data_ref().map(|chunk| chunk.len()));
    }
    match response.status().as_u16() {
        200 => Ok(()),
        other => Err(Error::Failed(format!("status {other}"))),
    }
}

/// Request performed by each contender.
#[derive(Clone)]
pub(crate) struct TargetRequest {
    check: Check,
    address: SocketAddr,
}

impl TargetRequest {
    pub(crate) fn new(address: SocketAddr, tls: bool, timeout: Duration) -> Result<Self, Error> {
        let scheme = if tls { "https" } else { "http" };
        let check = CheckRequest::new(format!("{scheme}://{address}/page"))
            .validate()
            .map_err(|why| Error::Failed(format!("{address}: {why}")))?;
        // Longer than a request may ask for.
        let check = Check { timeout, ..check };
        Ok(Self { check, address })
    }
}

fn tls_config(authority: &Path) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.resumption = Resumption::disabled();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn bare_client(tls: ClientConfig) -> Result<Client, Box<dyn std::error::Error>> {
    let client = Client::builder().tls_backend_preconfigured(tls).pool_max_idle_per_host(0).no_proxy();
    Ok(client.build()?)
}

/// Raises the limit of open files to the maximum allowed for this process.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With a lower limit, the checks themselves report the failure.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
