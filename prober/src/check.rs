//! Single check: fresh connection, timed phases, address policy on each hop, and the judgement of
//! the response.

mod assertions;
mod body;
mod body_match;
mod certificate;
mod connection_error;
mod connection_plan;
mod content_encoding;
mod cookies;
mod credentials;
mod custom_client;
mod destination;
mod error_text;
mod failure;
mod finding;
mod gateway;
mod https_client;
mod inbound;
mod oauth;
mod observation;
mod os_error;
mod plain_http;
mod proxy;
mod redirects;
mod resolver;
mod response_so_far;
mod settings;
mod timing;
mod tls;
mod tls_configs;
mod token_fetch;
mod tracked_pattern;

use std::sync::Arc;

use picket_proto::{Cause, Check, Outcome};
use picket_runtime::{AddressPolicy, Secrets, clock, tls_roots::load_roots};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{HeaderValue, LOCATION},
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use self::{
    assertions::ExplainedCheck,
    body::BodyReader,
    body_match::{
        BodyMatcher,
        match_queue::{MatchQueue, MatchTask},
    },
    connection_plan::ConnectionPlan,
    cookies::Cookies,
    custom_client::CustomClient,
    failure::Failure,
    oauth::TokenCache,
    plain_http::{BoxError, PlainHttpClient},
    redirects::{Hop, RedirectHistory},
    resolver::Resolver,
    response_so_far::ResponseSoFar,
    timing::{Phase, PhaseRecorder},
    tls_configs::TlsConfigs,
    tracked_pattern::BodyExtent,
};
pub use self::{
    assertions::apply_must_fail,
    finding::EXPLANATION_KEY,
    observation::Observation,
    settings::{CheckLimits, ClientOptions, Error},
};
pub use picket_runtime::name_lookup::Lookup;

pub(crate) use self::{assertions::expects_failure, credentials::Credentials};

/// Performs checks. Clones share all state.
#[derive(Clone)]
pub struct Checker {
    verifying_client: Client,
    insecure_client: Client,
    plain_client: PlainHttpClient,
    /// Client of checks with options for the connection.
    custom_client: Arc<CustomClient>,
    address_policy: AddressPolicy,
    match_queue: MatchQueue,
    max_body_bytes: usize,
    secrets: Secrets,
    /// Access tokens, shared by all clones.
    tokens: Arc<TokenCache>,
}

impl Checker {
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
        let roots = Arc::new(load_roots(limits.ca_file.as_deref(), "PICKET_CA_FILE")?);
        // A flow-control window above the body limit would only buffer bytes that are never read.
        let window = u32::try_from(limits.max_body_bytes).unwrap_or(u32::MAX).clamp(64 << 10, 1 << 20);
        let build_client =
            |tls| https_client::build_client(tls, Arc::clone(&resolver), window, &asking.user_agent);
        let agent = HeaderValue::try_from(&asking.user_agent)
            .map_err(|_| Error::UserAgent(asking.user_agent.clone()))?;
        let tls_configs = TlsConfigs::new(Arc::clone(&roots), asking.cached_tls_configs);
        let custom_client =
            CustomClient::new(&resolver, agent.clone(), window, asking.secrets.clone(), tls_configs);
        Ok(Self {
            custom_client: Arc::new(custom_client),
            plain_client: PlainHttpClient::new(Arc::clone(&resolver), agent),
            verifying_client: build_client(tls::build_client_config(Some(roots))?)?,
            insecure_client: build_client(tls::build_client_config(None)?)?,
            address_policy: addresses,
            match_queue: MatchQueue::new().map_err(Error::Threads)?,
            max_body_bytes: limits.max_body_bytes,
            secrets: asking.secrets,
            tokens: Arc::default(),
        })
    }

    /// Performs `check` within its timeout, with its credentials.
    pub async fn run_check(&self, check: &Check) -> Observation {
        match self.prepare_check(check).await {
            Ok(credentials) => {
                let seen = self.run_prepared(check, credentials.as_ref()).await;
                match self.prepare_repetition(check, credentials.as_ref(), &seen).await {
                    Some(renewed) => self.run_prepared(check, Some(&renewed)).await,
                    None => seen,
                }
            }
            Err(missed) => *missed,
        }
    }

    /// Obtains the credentials of `check`, before its clock starts. A token request takes time that
    /// is not the site's. `Err` is the observation of a check that cannot begin.
    pub(crate) async fn prepare_check(&self, check: &Check) -> Result<Option<Credentials>, Box<Observation>> {
        if !credentials::needs_credentials(check) {
            return Ok(None);
        }
        // Boxed, because the memory of each running check would grow by this rare future.
        Box::pin(self.obtain_credentials(check))
            .await
            .map_err(|failure| Box::new(Observation::of_missed(failure)))
    }

    /// Returns new credentials if the check is to be repeated with them, after a 401.
    pub(crate) async fn prepare_repetition(
        &self,
        check: &Check,
        used: Option<&Credentials>,
        seen: &Observation,
    ) -> Option<Credentials> {
        used.and_then(|used| used.grant.as_ref())?;
        Box::pin(self.renew_credentials(check, used, seen)).await
    }

    /// Performs `check` within its timeout, with credentials from [`prepare_check`](Self::prepare_check).
    pub(crate) async fn run_prepared(&self, check: &Check, credentials: Option<&Credentials>) -> Observation {
        let started_at = clock::wall_clock_now();
        let began = Instant::now();
        let marks = PhaseRecorder::new(check.ip_version, began);
        // Declared outside of the future: after a timeout the observations are still available.
        let mut seen = ResponseSoFar { is_explained: check.explain, ..ResponseSoFar::default() };
        let doing = timing::with_recorder(
            Arc::clone(&marks),
            self.follow_redirects(check, credentials, &marks, &mut seen),
        );
        let failure = match timeout_at(began + check.timeout, doing).await {
            Ok(done) => done.err(),
            Err(_) => Some(failure::timeout_failure(check.timeout, &marks, &seen)),
        };
        let timing = marks.finish_timing();
        let failure = match failure {
            // After the end of the site's time. Boxed, because it is rare.
            Some(failure) if marks.silent_proxy().is_some() => {
                Some(Box::pin(failure::attribute_to_proxy(failure, &marks, &seen)).await)
            }
            failure => failure,
        };
        let certificate = marks.first_certificate_end();
        let asserted = check.assertions.as_deref();
        let failure = match (failure, asserted) {
            (None, Some(asserted)) => {
                assertions::check_limits(asserted, &timing, certificate.as_ref(), started_at).err()
            }
            (failure, _) => failure,
        };
        let (warnings, mut details) = match &failure {
            None => assertions::list_warnings(asserted, &timing, certificate.as_ref(), started_at),
            Some(_) => (Vec::new(), None),
        };
        if check.explain {
            let explained = ExplainedCheck {
                check,
                http_status: seen.http_status,
                timing: &timing,
                certificate: certificate.as_ref(),
                now: started_at,
                findings: std::mem::take(&mut seen.findings),
            };
            let list = assertions::explain_assertions(&explained);
            details.get_or_insert_default().insert(EXPLANATION_KEY.to_owned(), list);
        }
        let (cause, message) = failure.map(|failure| (failure.cause, failure.message)).unzip();
        Observation {
            started_at,
            // A prober knows all causes that it gives.
            outcome: cause.map_or(Outcome::Up, |cause| cause.outcome().unwrap_or(Outcome::Missed)),
            cause,
            message,
            http_status: seen.http_status,
            http_version: seen.http_version,
            // A check that failed before its response still has the address if it was unambiguous.
            remote_addr: seen.remote_addr.or_else(|| marks.remote_address()),
            timing,
            redirects: seen.redirects,
            body_bytes: seen.body_bytes,
            regex_matched: seen.regex_matched,
            tls_expires_at: marks.earliest_expiry(),
            warnings,
            details,
            network_scope: marks.network_scope(),
        }
    }

    async fn follow_redirects(
        &self,
        check: &Check,
        credentials: Option<&Credentials>,
        marks: &PhaseRecorder,
        seen: &mut ResponseSoFar,
    ) -> Result<(), Failure> {
        let mut hop = Hop::from_check(check)?;
        if let Some(credentials) = credentials {
            // Part of the first hop's headers, which end with its origin.
            hop.headers.extend(credentials.headers.clone());
        }
        let mut cookies = Cookies::default();
        let mut trail = RedirectHistory::default();
        loop {
            let mut request = reqwest::Request::new(hop.method.clone(), hop.url.clone());
            *request.headers_mut() = hop.headers.clone();
            *request.body_mut() = hop.body.clone().map(Into::into);
            cookies.apply_cookies(&hop.url, request.headers_mut());
            trail.push_request(&request, check.max_redirects)?;
            seen.redirects = trail.redirect_count();
            let plan = self.custom_client.plan_hop(check, &hop.url)?;
            self.check_address(&hop.url, plan.as_deref(), check, marks)?;
            // Reset so that a failed connect does not report the address of the previous hop.
            seen.remote_addr = None;
            let response = self
                .send_request(check, request, plan)
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
            return self.evaluate_body(check, &hop, response, marks, seen).await;
        }
    }

    async fn send_request(
        &self,
        check: &Check,
        request: reqwest::Request,
        plan: Option<Box<ConnectionPlan>>,
    ) -> Result<Response, BoxError> {
        if let Some(plan) = plan {
            // Boxed, because the memory of each running check would grow by this rare future.
            return Box::pin(self.custom_client.send_request(&plan, request)).await;
        }
        let client = match request.url().scheme() {
            "http" => return self.plain_client.send_request(request).await,
            _ if check.tls_verify => &self.verifying_client,
            _ => &self.insecure_client,
        };
        Ok(client.execute(request).await?)
    }

    /// Rejects literal addresses forbidden by the address policy. Names are checked by the
    /// resolver.
    fn check_address(
        &self,
        url: &Url,
        plan: Option<&ConnectionPlan>,
        check: &Check,
        marks: &PhaseRecorder,
    ) -> Result<(), Failure> {
        let (address, port) = match plan {
            Some(plan) => (plan.destination.literal_address(), plan.destination.port),
            None => {
                let address = url.host().as_ref().and_then(destination::literal_address);
                (address, url.port_or_known_default().unwrap_or_default())
            }
        };
        marks.start_hop(address, port);
        // The operator of the prober named the proxy, and the proxy chooses the address of the site.
        if let Some(proxy) = plan.and_then(|plan| plan.proxy.as_ref()) {
            marks.set_proxy(Arc::clone(&proxy.name), url.scheme() == "https");
            return Ok(());
        }
        let Some(address) = address else { return Ok(()) };
        if !self.address_policy.is_allowed(address) {
            return Err(Failure::new(
                Cause::Blocked,
                format!("checks may not connect to {address} (see PICKET_ALLOW_ADDRESSES)"),
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
        hop: &Hop,
        response: Response,
        marks: &PhaseRecorder,
        seen: &mut ResponseSoFar,
    ) -> Result<(), Failure> {
        let mut matcher = BodyMatcher::new(check);
        matcher.set_head(response.headers(), &hop.url);
        // These responses have no body; a content length in their headers describes another
        // response.
        if hop.method == Method::HEAD
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
