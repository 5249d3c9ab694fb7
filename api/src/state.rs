//! What all handlers share.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use picket_runtime::Bus;
use picket_store::{Store, settings::SharedSettings};
use url::Url;

use crate::{Config, metrics::Metrics, pages::FleetNumbers};

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
        let fleet = FleetNumbers::new();
        Self(Arc::new(ApiState { config, address, bus, store, settings, metrics, fleet }))
    }
}

impl ApiState {
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
