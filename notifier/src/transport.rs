//! HTTP to receivers: vetted addresses, bounded answers, and errors without addresses.
//!
//! The address policy applies to each connection after the lookup of the name. Redirects are never
//! followed: a receiver could lead a message, and its signature, elsewhere.
//!
//! Bound: 64 lookups at a time, 64 clients with authorities of their own. Loss: none.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use picket_runtime::{
    AddressPolicy,
    error_source::{describe_io_error, find_source, innermost_source},
    name_lookup::{Lookup, describe_lookup_error},
    tls_roots::{self, RootsError},
};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::Host;

use crate::{
    answer::Answer,
    channel::{HttpRequest, TransportSettings},
};

/// Bytes that are read of an answer.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Lookups in progress. The system's resolver blocks a thread and cannot be interrupted.
const MAX_LOOKUPS: usize = 64;
/// Clients with authorities of their own.
const MAX_CLIENTS: usize = 64;
/// Time after which an unused connection is closed: longer than the pause between two messages of
/// a storm, and shorter than servers keep one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_IDLE_CONNECTIONS: usize = 8;
const USER_AGENT: &str = concat!("Picket/", env!("CARGO_PKG_VERSION"), " (notifications)");

/// Reasons why nothing can be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// There are no usable root certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The TLS configuration is rejected.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// Failure of a request: no answer, or no connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TransportFailure {
    pub(crate) message: String,
    /// True if another attempt fails as well, unless a person changes something.
    pub(crate) is_channel_failing: bool,
}

impl TransportFailure {
    fn new(message: impl Into<String>, is_channel_failing: bool) -> Self {
        Self { message: message.into(), is_channel_failing }
    }
}

/// HTTP clients for receivers.
pub(crate) struct Transport {
    policy: AddressPolicy,
    resolver: Arc<VettingResolver>,
    client: Client,
    /// Clients that trust the authorities of a file alone, with the content of the file.
    clients: Mutex<HashMap<PathBuf, (Vec<u8>, Client)>>,
}

impl Transport {
    pub(crate) fn new(
        policy: AddressPolicy,
        lookup: Lookup,
        roots: RootCertStore,
    ) -> Result<Self, SenderError> {
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        let resolver = Arc::new(VettingResolver { policy: policy.clone(), lookup, lookups });
        let client = build_client(roots, Arc::clone(&resolver))?;
        Ok(Self { policy, resolver, client, clients: Mutex::default() })
    }

    /// Sends `request` and reads the answer until `deadline`.
    ///
    /// # Errors
    /// If no answer arrives.
    pub(crate) async fn exchange(
        &self,
        request: HttpRequest,
        settings: &TransportSettings,
        deadline: Instant,
    ) -> Result<Answer, TransportFailure> {
        let address = match request.url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::from(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::from(address)),
            _ => None,
        };
        // No name is looked up for an address.
        if let Some(address) = address.filter(|address| !self.policy.is_allowed(*address)) {
            let host = address.to_string();
            return Err(TransportFailure::new(VettingError::Blocked { host, address }.to_string(), true));
        }
        let place = match request.url.port_or_known_default() {
            Some(port) => format!("{}:{port}", request.url.host_str().unwrap_or_default()),
            None => request.url.host_str().unwrap_or_default().to_owned(),
        };
        let client = self.client_of(settings).await?;
        let sending =
            client.request(request.method, request.url).headers(request.headers).body(request.body).send();
        let late = || {
            let limit = settings.timeout.as_secs_f64();
            TransportFailure::new(format!("{place}: no answer within {limit} s"), false)
        };
        match timeout_at(deadline, sending).await {
            Err(_) => Err(late()),
            Ok(Err(why)) => Err(describe_failure(&place, why)),
            Ok(Ok(response)) => Ok(read_answer(response, deadline).await),
        }
    }

    async fn client_of(&self, settings: &TransportSettings) -> Result<Client, TransportFailure> {
        let Some(path) = settings.ca_file.clone() else { return Ok(self.client.clone()) };
        let unusable = |path: &Path, why: &str| {
            TransportFailure::new(format!("ca_file '{}' cannot be used: {why}", path.display()), true)
        };
        let reading = path.clone();
        let pem = tokio::task::spawn_blocking(move || tls_roots::read_authority_file(&reading)).await;
        let pem = pem
            .unwrap_or_else(|_| Err("it cannot be read".to_owned()))
            .map_err(|why| unusable(&path, &why))?;
        if let Some((known, client)) = self.clients.lock().get(&path)
            && *known == pem
        {
            return Ok(client.clone());
        }
        let roots = tls_roots::parse_roots(&pem).map_err(|why| unusable(&path, why))?;
        let client = build_client(roots, Arc::clone(&self.resolver))
            .map_err(|why| unusable(&path, &why.to_string()))?;
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(path, (pem, client.clone()));
        Ok(client)
    }
}

fn build_client(roots: RootCertStore, resolver: Arc<VettingResolver>) -> Result<Client, SenderError> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(SenderError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(resolver)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|why| SenderError::Client(why.without_url()))
}

/// Reads what arrives of a body in time. The status is an answer already, so a body that does not
/// end is no failure.
async fn read_answer(mut response: Response, deadline: Instant) -> Answer {
    let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while body.len() < MAX_BODY_BYTES {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                let room = MAX_BODY_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    Answer { status, headers, body, received_at: picket_runtime::clock::wall_clock_now() }
}

/// The only place where an error of the HTTP library becomes a text: its own texts contain the
/// URL, and the URL may be a credential.
fn describe_failure(place: &str, error: reqwest::Error) -> TransportFailure {
    let error = error.without_url();
    if let Some(why) = find_source::<VettingError>(&error) {
        return TransportFailure::new(why.to_string(), matches!(why, VettingError::Blocked { .. }));
    }
    if let Some(why) = find_source::<rustls::Error>(&error) {
        let is_untrusted = matches!(why, rustls::Error::InvalidCertificate(_));
        return TransportFailure::new(format!("{place}: TLS: {why}"), is_untrusted);
    }
    let why = match find_source::<std::io::Error>(&error) {
        Some(why) => describe_io_error(why),
        None => innermost_source(&error).to_string(),
    };
    TransportFailure::new(format!("{place}: {why}"), false)
}

/// Reasons why there is no address to send to.
#[derive(Debug, thiserror::Error)]
enum VettingError {
    #[error("could not resolve {host}: {why}")]
    Lookup { host: String, why: String },
    #[error("{host} has no IP address")]
    NoAddress { host: String },
    #[error("{host} is at {address}, and notifications may not go there (see PICKET_NOTIFY_ALLOW_ADDRESSES)")]
    Blocked { host: String, address: IpAddr },
    #[error("no thread for a lookup was to be had")]
    NoThread,
}

/// Resolver that yields allowed addresses alone.
struct VettingResolver {
    policy: AddressPolicy,
    lookup: Lookup,
    lookups: Arc<Semaphore>,
}

impl Resolve for VettingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookup, lookups) =
            (self.policy.clone(), Arc::clone(&self.lookup), Arc::clone(&self.lookups));
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let permit = lookups.acquire_owned().await.map_err(|_| VettingError::NoThread)?;
            let asked = host.clone();
            let found = tokio::task::spawn_blocking(move || {
                // A lookup whose attempt has ended still blocks its thread.
                let _permit = permit;
                lookup(&asked)
            });
            let found = found.await.map_err(|_| VettingError::NoThread)?;
            let found = found.map_err(|why| VettingError::Lookup {
                host: host.clone(),
                why: describe_lookup_error(&why),
            })?;
            let vetted = policy
                .vet_addresses(found)
                .map_err(|address| VettingError::Blocked { host: host.clone(), address })?;
            if vetted.is_empty() {
                return Err(VettingError::NoAddress { host }.into());
            }
            // The client takes the port from the URL.
            let addresses: Addrs = Box::new(vetted.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
