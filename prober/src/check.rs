//! Single check: fresh connection, timed phases, address policy on each hop, and the judgement of
//! the response.

mod address_policy;
mod body;
mod body_match;
mod certificate;
mod content_encoding;
mod cookies;
mod error_text;
mod failure;
mod gateway;
mod inbound;
mod os_error;
mod plain_http;
mod redirects;
mod resolver;
mod response_so_far;
mod timing;
mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use picket_proto::{Cause, Check, Outcome, Timestamp, Timing};
use picket_runtime::clock;
use prometheus_client::metrics::gauge::Gauge;
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{HeaderValue, LOCATION},
    redirect,
};
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

pub use self::resolver::Lookup;
use self::{
    address_policy::AddressPolicy,
    body::BodyReader,
    body_match::{
        BodyExtent, BodyMatcher,
        match_queue::{MatchQueue, MatchTask},
    },
    cookies::Cookies,
    failure::Failure,
    plain_http::{BoxError, PlainHttpClient},
    redirects::{Hop, RedirectHistory},
    resolver::Resolver,
    response_so_far::ResponseSoFar,
    timing::{ConnectLayer, Phase, PhaseRecorder},
};

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
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("Picket/", env!("CARGO_PKG_VERSION"), " (website availability check)")
                .to_owned(),
            lookup: resolver::system_lookup(),
            name_servers: resolver::name_servers(),
            running_lookups: Gauge::default(),
        }
    }
}

/// Reasons why no check can be performed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of extra root certificates is unusable.
    #[error("PICKET_CA_FILE: '{path}' cannot be used: {why}")]
    CaFile {
        /// Path of the file.
        path: String,
        /// Reason.
        why: String,
    },
    /// No root certificate is available. Every certificate would be rejected, with no relation to
    /// the sites.
    #[error(
        "there is not one root certificate on this machine; install your system's ca-certificates, \
         or name a file with SSL_CERT_FILE or PICKET_CA_FILE"
    )]
    NoRoots,
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

/// Observations of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Start by the wall clock.
    pub started_at: Timestamp,
    /// Outcome of the check.
    pub outcome: Outcome,
    /// Cause if the outcome is not `up`.
    pub cause: Option<Cause>,
    /// Human-readable explanation of the cause.
    pub message: Option<String>,
    /// Status of the last response.
    pub http_status: Option<u16>,
    /// HTTP version of the last response: `1.0`, `1.1` or `2`.
    pub http_version: Option<&'static str>,
    /// Peer address of the last connection.
    pub remote_addr: Option<SocketAddr>,
    /// Duration of each phase; for a failed check up to the point of failure.
    pub timing: Timing,
    /// Redirects followed.
    pub redirects: u8,
    /// Decoded body bytes read: to the end of the body or to the limit.
    pub body_bytes: u64,
    /// Result of `regex`, if decided.
    pub regex_matched: Option<bool>,
    /// Earliest expiry of all certificates in the redirect chain.
    pub tls_expires_at: Option<Timestamp>,
}

/// Performs checks. Clones share all state.
#[derive(Clone)]
pub struct Checker {
    verifying_client: Client,
    insecure_client: Client,
    plain_client: PlainHttpClient,
    address_policy: AddressPolicy,
    match_queue: MatchQueue,
    max_body_bytes: usize,
}

impl Checker {
    /// Maximum headers of a response.
    const MAX_HEADERS: usize = 256;
    /// Maximum size of HTTP/2 response headers in bytes; the HTTP/1 limit is some 400 KiB.
    const MAX_HEADER_LIST_BYTES: u32 = 256 << 10;

    /// Loads the root certificates and builds the clients. All checks share the clients, because
    /// building a client costs more than a check.
    ///
    /// # Errors
    /// Fails if the root certificates or the settings are unusable.
    pub fn new(limits: &CheckLimits) -> Result<Self, Error> {
        Self::with_options(limits, ClientOptions::default())
    }

    /// Creates a checker with `lookup` in place of the system's resolver.
    ///
    /// # Errors
    /// Fails if the root certificates or the settings are unusable.
    pub fn with_lookup(limits: &CheckLimits, lookup: Lookup) -> Result<Self, Error> {
        Self::with_options(
            limits,
            ClientOptions { lookup, name_servers: Vec::new(), ..ClientOptions::default() },
        )
    }

    /// Creates a checker with custom client options.
    ///
    /// # Errors
    /// Fails if the root certificates or the settings are unusable.
    pub fn with_options(limits: &CheckLimits, asking: ClientOptions) -> Result<Self, Error> {
        let addresses = AddressPolicy::new(&limits.allowed_networks);
        let resolver = Arc::new(Resolver::new(
            addresses.clone(),
            asking.lookup,
            asking.name_servers,
            asking.running_lookups,
        ));
        let roots = Arc::new(tls::load_roots(limits.ca_file.as_deref())?);
        // A flow-control window above the body limit would only buffer bytes that are never read.
        let window = u32::try_from(limits.max_body_bytes).unwrap_or(u32::MAX).clamp(64 << 10, 1 << 20);
        let client = |tls| {
            Client::builder()
                .tls_backend_preconfigured(tls)
                .dns_resolver(Arc::clone(&resolver))
                .connector_layer(ConnectLayer)
                .pool_max_idle_per_host(0)
                // Keepalive is useless: a connection lives no longer than its check, whose deadline
                // covers stalls. Saves five system calls per connection.
                .tcp_keepalive(None)
                .tcp_keepalive_interval(None)
                .tcp_keepalive_retries(None)
                .tcp_user_timeout(None)
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .referer(false)
                // Accept malformed headers that browsers accept: visitors of such a site are
                // served.
                .http1_allow_obsolete_multiline_headers_in_responses(true)
                .http1_allow_spaces_after_header_name_in_responses(true)
                .http1_ignore_invalid_headers_in_responses(true)
                .http1_max_headers(Self::MAX_HEADERS)
                .http2_max_header_list_size(Self::MAX_HEADER_LIST_BYTES)
                .http2_initial_stream_window_size(window)
                .http2_initial_connection_window_size(window)
                .user_agent(asking.user_agent.as_str())
                .build()
                .map_err(Error::Client)
        };
        let agent = HeaderValue::try_from(&asking.user_agent)
            .map_err(|_| Error::UserAgent(asking.user_agent.clone()))?;
        Ok(Self {
            plain_client: PlainHttpClient::new(Arc::clone(&resolver), agent),
            verifying_client: client(tls::build_client_config(Some(roots))?)?,
            insecure_client: client(tls::build_client_config(None)?)?,
            address_policy: addresses,
            match_queue: MatchQueue::new().map_err(Error::Threads)?,
            max_body_bytes: limits.max_body_bytes,
        })
    }

    /// Performs `check` within its timeout.
    pub async fn run_check(&self, check: &Check) -> Observation {
        let started_at = clock::wall_clock_now();
        let began = Instant::now();
        let marks = PhaseRecorder::new(check.ip_version, began);
        // Declared outside of the future: after a timeout the observations are still available.
        let mut seen = ResponseSoFar::default();
        let doing =
            timing::with_recorder(Arc::clone(&marks), self.follow_redirects(check, &marks, &mut seen));
        let failure = match timeout_at(began + check.timeout, doing).await {
            Ok(done) => done.err(),
            Err(_) => Some(failure::timeout_failure(check.timeout, &marks, &seen)),
        };
        let (cause, message) = failure.map(|failure| (failure.cause, failure.message)).unzip();
        Observation {
            started_at,
            outcome: cause.map_or(Outcome::Up, Cause::outcome),
            cause,
            message,
            http_status: seen.http_status,
            http_version: seen.http_version,
            // A check that failed before its response still has the address if it was unambiguous.
            remote_addr: seen.remote_addr.or_else(|| marks.remote_address()),
            timing: marks.finish_timing(),
            redirects: seen.redirects,
            body_bytes: seen.body_bytes,
            regex_matched: seen.regex_matched,
            tls_expires_at: marks.earliest_expiry(),
        }
    }

    async fn follow_redirects(
        &self,
        check: &Check,
        marks: &PhaseRecorder,
        seen: &mut ResponseSoFar,
    ) -> Result<(), Failure> {
        let mut hop = Hop::from_check(check)?;
        let mut cookies = Cookies::default();
        let mut trail = RedirectHistory::default();
        loop {
            let mut request = reqwest::Request::new(hop.method.clone(), hop.url.clone());
            *request.headers_mut() = hop.headers.clone();
            *request.body_mut() = hop.body.clone().map(Into::into);
            cookies.apply_cookies(&hop.url, request.headers_mut());
            trail.push_request(&request, check.max_redirects)?;
            seen.redirects = trail.redirect_count();
            self.check_address(&hop.url, check, marks)?;
            // Reset so that a failed connect does not report the address of the previous hop.
            seen.remote_addr = None;
            let response = self
                .send_request(check, request)
                .await
                .map_err(|why| failure::classify_error(why.as_ref(), marks, seen))?;
            marks.inbound().set_answered();
            marks.enter_phase(Phase::Between);
            seen.record_response(&response);
            let status = response.status();
            let location = response.headers().get(LOCATION).filter(|_| redirects::is_redirect(status));
            // `max_redirects = 0` makes the redirect itself the response to judge.
            if check.max_redirects > 0
                && let Some(location) = location
            {
                cookies.store_cookies(&hop.url, response.headers());
                hop = hop.follow_redirect(status, location)?;
                continue;
            }
            if !check.status.allows_status(status.as_u16()) {
                let nowhere = redirects::is_redirect(status) && location.is_none();
                let nowhere = if nowhere { " without a Location" } else { "" };
                let why = format!("status {}{nowhere}, not {}", status.as_u16(), check.status);
                return Err(Failure::new(Cause::Status, why));
            }
            return self.evaluate_body(check, &hop.method, response, marks, seen).await;
        }
    }

    async fn send_request(&self, check: &Check, request: reqwest::Request) -> Result<Response, BoxError> {
        let client = match request.url().scheme() {
            "http" => return self.plain_client.send_request(request).await,
            _ if check.tls_verify => &self.verifying_client,
            _ => &self.insecure_client,
        };
        Ok(client.execute(request).await?)
    }

    /// Rejects literal addresses forbidden by the address policy. Names are checked by the
    /// resolver.
    fn check_address(&self, url: &Url, check: &Check, marks: &PhaseRecorder) -> Result<(), Failure> {
        let address: Option<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        };
        marks.start_hop(address, url.port_or_known_default().unwrap_or_default());
        let Some(address) = address else { return Ok(()) };
        if !self.address_policy.is_allowed(address) {
            return Err(Failure::new(
                Cause::Blocked,
                format!("{address} is where checks are not allowed to go"),
            ));
        }
        match check.ip_version.allows_address(address) {
            true => Ok(()),
            false => Err(Failure::new(
                Cause::Dns,
                format!("{address} is no IPv{} address", check.ip_version.as_str()),
            )),
        }
    }

    async fn evaluate_body(
        &self,
        check: &Check,
        method: &Method,
        response: Response,
        marks: &PhaseRecorder,
        seen: &mut ResponseSoFar,
    ) -> Result<(), Failure> {
        let matcher = BodyMatcher::new(check);
        // These responses have no body; a content length in their headers describes another
        // response.
        if *method == Method::HEAD
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            marks.enter_phase(Phase::BodyMatch);
            let task = MatchTask { matcher, body: Vec::new(), extent: BodyExtent::Complete };
            return body::evaluate(task, &self.match_queue, seen).await;
        }
        BodyReader::new(response, matcher, &self.match_queue, self.max_body_bytes, marks, seen)
            .read_and_evaluate()
            .await
    }
}
