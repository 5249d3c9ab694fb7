//! What all handlers share.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use picket_runtime::Bus;
use picket_store::{Store, settings::SharedSettings};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    Config,
    access::{authenticator::Authenticator, limits::RateLimits, local_request::is_loopback_host},
    live::Hub,
    metrics::Metrics,
    oidc::OidcProvider,
    pages::FleetNumbers,
    permits::Permits,
    problem::{Problem, ProblemKind},
    prometheus::site_metrics::SiteMetrics,
};

/// State of an API process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<ApiState>);

/// See [`Api`].
pub(crate) struct ApiState {
    pub(crate) config: Config,
    /// Address that the process listens on.
    pub(crate) address: SocketAddr,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) settings: SharedSettings,
    pub(crate) metrics: Metrics,
    /// Numbers of all sites for pages.
    pub(crate) fleet: FleetNumbers,
    pub(crate) authenticator: Authenticator,
    pub(crate) limits: RateLimits,
    /// Sign-in by OpenID Connect, if configured.
    pub(crate) oidc: Option<OidcProvider>,
    /// Cancelled at the start of a drain. Endless responses end with it.
    pub(crate) stopping: CancellationToken,
    pub(crate) live: Arc<Hub>,
    /// Permits to validate sites.
    pub(crate) validations: Permits,
    /// Permits to read reports and ledgers.
    pub(crate) reports: Permits,
    /// Permits of probes for Prometheus.
    pub(crate) probe_permits: Semaphore,
    pub(crate) site_metrics: SiteMetrics,
    /// Permits of the first checks of new sites.
    pub(crate) first_checks: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(
        config: Config,
        address: SocketAddr,
        bus: Bus,
        store: Store,
        settings: SharedSettings,
        metrics: Metrics,
        oidc: Option<OidcProvider>,
    ) -> Self {
        /// Maximum number of concurrent probes for Prometheus.
        const MAX_PROBES: usize = 200;
        /// Maximum sites whose first checks run at once.
        const MAX_FIRST_CHECKS: usize = 20;
        let (authenticator, limits) = (Authenticator::new(store.clone()), RateLimits::new(&metrics));
        let stopping = CancellationToken::new();
        let (live_metrics, ending) = (metrics.live.clone(), stopping.clone());
        let live = Hub::new(bus.clone(), store.clone(), settings.clone(), live_metrics, ending);
        let (validations, reports) = (Permits::for_validations(&metrics), Permits::for_reports(&metrics));
        Self(Arc::new(ApiState {
            config,
            address,
            bus,
            store,
            settings,
            metrics,
            fleet: FleetNumbers::new(),
            authenticator,
            limits,
            oidc,
            stopping,
            live,
            validations,
            reports,
            probe_permits: Semaphore::new(MAX_PROBES),
            site_metrics: SiteMetrics::default(),
            first_checks: Arc::new(Semaphore::new(MAX_FIRST_CHECKS)),
        }))
    }
}

impl ApiState {
    /// # Errors
    /// If NATS is away, so that a request would wait in vain.
    pub(crate) fn require_bus(&self) -> Result<(), Problem> {
        match *self.bus.watch_connection().borrow() {
            true => Ok(()),
            false => Err(Problem::new(ProblemKind::BusUnavailable, "no connection to NATS; try again")
                .with_retry_after(5)),
        }
    }

    /// URL under which people reach this installation, without a slash at its end.
    pub(crate) fn public_url(&self) -> String {
        let url = self.configured_url().unwrap_or_else(|| format!("http://{}", self.address));
        url.trim_end_matches('/').to_owned()
    }

    fn configured_url(&self) -> Option<String> {
        let own = self.config.public_url.as_ref().map(Url::to_string);
        own.or_else(|| self.settings.current().public_url.clone())
    }

    /// False where people reach this process from elsewhere: then it is never open without a token.
    pub(crate) fn may_be_open(&self) -> bool {
        let is_public = |url: String| {
            let url = Url::parse(&url).ok();
            !url.is_some_and(|url| url.host_str().is_some_and(is_loopback_host))
        };
        // A sign-in provider is for people who should sign in.
        self.address.ip().is_loopback()
            && self.oidc.is_none()
            && !self.configured_url().is_some_and(is_public)
    }
}

impl Deref for Api {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.0
    }
}
