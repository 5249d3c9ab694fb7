//! What all handlers share.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use picket_runtime::Bus;
use picket_store::{Store, settings::SharedSettings};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    Config,
    check_limit::CheckLimit,
    live::Hub,
    metrics::Metrics,
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
    /// Cancelled at the start of a drain. Endless responses end with it.
    pub(crate) stopping: CancellationToken,
    pub(crate) live: Arc<Hub>,
    pub(crate) check_limit: CheckLimit,
    /// Permits of probes for Prometheus.
    pub(crate) probe_permits: Semaphore,
    pub(crate) site_metrics: SiteMetrics,
}

impl Api {
    pub(crate) fn new(
        config: Config,
        address: SocketAddr,
        bus: Bus,
        store: Store,
        settings: SharedSettings,
        metrics: Metrics,
    ) -> Self {
        /// Maximum number of concurrent probes for Prometheus.
        const MAX_PROBES: usize = 200;
        let stopping = CancellationToken::new();
        let (live_metrics, ending) = (metrics.live.clone(), stopping.clone());
        let live = Hub::new(bus.clone(), store.clone(), settings.clone(), live_metrics, ending);
        Self(Arc::new(ApiState {
            config,
            address,
            bus,
            store,
            settings,
            metrics,
            stopping,
            live,
            check_limit: CheckLimit::default(),
            probe_permits: Semaphore::new(MAX_PROBES),
            site_metrics: SiteMetrics::default(),
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
        let own = self.config.public_url.as_ref().map(Url::to_string);
        let url = own.or_else(|| self.settings.current().public_url.clone());
        let url = url.unwrap_or_else(|| format!("http://{}", self.address));
        url.trim_end_matches('/').to_owned()
    }
}

impl Deref for Api {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.0
    }
}
