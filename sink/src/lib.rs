//! Stores check results as rows: pulls them from the stream in batches, writes each once, and
//! acknowledges after the commit.
//!
//! fetcher → writer. Results wait in the stream. Each batch travels with a permit, released after
//! the write, so the sink's memory does not depend on the backlog.
#![warn(missing_docs)]

mod actor;
mod batch;
mod config;
mod database_clock;
mod decode;
mod fetcher;
mod installation_guard;
mod metrics;
mod options;
mod outbox_publisher;
mod pipeline;
mod pull;
mod recovery;
mod writer;

use picket_runtime::{Bus, ErrorChain, Health, PipelineHandle, bus, wait_for_database};
use picket_store::{Store, settings::SharedSettings, tickets::Keyring};
use ractor::SpawnErr;
use tracing::warn;

pub use self::{config::Config, metrics::describe_metrics, options::Options};

use self::{
    database_clock::SharedDatabaseClock, installation_guard::InstallationGuard, metrics::Metrics,
    pipeline::SinkPipeline, recovery::Recovery,
};

/// Failure to start a sink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to NATS failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The database is unusable.
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    /// An actor did not start.
    #[error("could not start the sink's actors")]
    Spawn(#[from] SpawnErr),
}

/// Maximum database connections of a sink, for the writer, the readiness check, the settings, and
/// the transaction with the lock on the outbox.
pub const DATABASE_CONNECTIONS: u32 = 4;

/// Starts a sink, which runs until drained. Waits for NATS and for a database with a schema.
/// Creates the results stream and its consumer if absent.
///
/// # Errors
/// If a retry cannot help: the server is too old, or an option is invalid.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<PipelineHandle, Error> {
    let metrics = Metrics::new(&health);
    let (database, stream) = (health.add_readiness_check("database"), health.add_readiness_check("results"));

    bus.wait_connected().await?;
    let connect = async || {
        store.check_usable().await?;
        let settings = SharedSettings::load_from(&store).await?;
        Ok::<_, picket_store::Error>((Keyring::load_from(&store, &settings.current()).await?, settings))
    };
    let (keyring, settings) = wait_for_database(&database, connect, picket_store::Error::may_recover).await?;

    let clock = SharedDatabaseClock::default();
    if let Err(error) = clock.update_from_database(&store).await {
        warn!(error = %ErrorChain(&error), "could not read the database clock; using the local clock meanwhile");
    }
    let limit = config.drain_timeout;
    let guard =
        InstallationGuard::new(bus.clone(), store.clone(), keyring, settings.clone(), metrics.clone());
    let recovery =
        Recovery::new(config, bus.clone(), store.clone(), guard.clone(), clock.clone(), metrics.clone());
    let sink =
        SinkPipeline { config, bus, store, settings, clock, recovery, guard, metrics, database, stream };
    Ok(PipelineHandle::start("sink", sink, limit, &health).await?)
}
