//! What Picket knows, for programs and people: a REST API, a web UI, and live results.
//!
//! listener → router → handler → store or bus. A process keeps no state that another could not have: sessions
//! and tokens are rows, so any number of processes serve the same users.
#![warn(missing_docs)]

mod access;
mod assets;
mod channels;
mod charts;
mod config;
mod extract;
mod first_checks;
mod live;
mod metrics;
mod observation;
mod oidc;
mod openapi;
mod options;
mod pages;
mod permits;
mod pipeline;
mod problem;
mod prometheus;
mod reference;
mod reply_stream;
mod router;
mod server;
mod sign_in;
mod state;
mod v1;

use std::net::SocketAddr;

use picket_runtime::{Bus, Health, PipelineHandle, bus, wait_for_database};
use picket_store::{Store, settings::SharedSettings};
use ractor::SpawnErr;
use tokio::net::TcpListener;
use tracing::info;

pub use self::{
    config::Config,
    metrics::describe_metrics,
    oidc::{GroupRights, OidcConfig, OidcOptions, OidcSetupError},
    options::{AddressOptions, Options},
};

use self::{metrics::Metrics, oidc::OidcProvider, pipeline::ApiPipeline, state::Api};

/// Failure to start an API process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to NATS failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The database is unusable.
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    /// The listen address is unusable.
    #[error("PICKET_API_LISTEN: cannot listen on '{address}'")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Sign-in by OpenID Connect is misconfigured.
    #[error(transparent)]
    Oidc(#[from] OidcSetupError),
    /// An actor did not start.
    #[error("could not start the actors of the API")]
    Spawn(#[from] SpawnErr),
}

/// The OpenAPI document of `/api/v1`, as api/openapi.json has it.
pub fn describe_api() -> String {
    let (_, document) = router::build_v1();
    // Only text keys are in a document, so that it always has a text.
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// Maximum database connections of an API process.
pub const DATABASE_CONNECTIONS: u32 = 8;

/// A running API process.
pub struct RunningApi {
    /// The pipeline, which ends when drained.
    pub pipeline: PipelineHandle,
    /// Address of the API and the web UI.
    pub address: SocketAddr,
    /// URL under which people reach the web UI, without a slash at its end.
    pub url: String,
    /// True if the API may be open to all users of this machine while there is no token.
    pub may_be_open: bool,
}

/// Starts an API process, which runs until drained. Waits for a database with a schema; NATS may be
/// away, since most of the API does without it.
///
/// # Errors
/// If the address is unusable, or a retry cannot help: an option is invalid.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<RunningApi, Error> {
    let metrics = Metrics::new(&health);
    let oidc = config.oidc.clone().map(OidcProvider::new).transpose()?;
    let database = health.add_readiness_check("database");
    let listen_error = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;

    let connect = async || {
        store.check_usable().await?;
        SharedSettings::load_from(&store).await
    };
    let settings = wait_for_database(&database, connect, picket_store::Error::may_recover).await?;

    let limit = config.drain_timeout;
    let api = Api::new(config, address, bus, store, settings, metrics, oidc);
    if api.config.site_metrics > 0 {
        health.registry().register_collector(Box::new(api.site_metrics.clone()));
    }
    let (url, may_be_open) = (api.public_url(), api.may_be_open());
    let pipeline = ApiPipeline::new(api, listener);
    let pipeline = PipelineHandle::start("api", pipeline, limit, &health).await?;
    info!(%address, "serving the API");
    Ok(RunningApi { pipeline, address, url, may_be_open })
}
