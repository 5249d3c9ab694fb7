//! Stores check results as rows: pulls them from the stream in batches, writes each once, and
//! acknowledges after the commit.
//!
//! fetcher → writer. Results wait in the stream. Each batch travels with a permit, released after
//! the write, so the sink's memory does not depend on the backlog.

mod actor;
mod batch;
mod database_clock;
mod decode;
mod fetcher;
mod installation_guard;
mod metrics;
mod options;
mod outbox;
mod pipeline;
mod pull;
mod recovery;
mod settings_follower;
mod writer;

use picket_runtime::{Bus, ErrorChain, Health, PipelineHandle, bus};
use picket_store::{Store, settings::SharedSettings, tickets::Keyring};
use ractor::SpawnErr;
use tokio::time::Instant;
use tracing::{info, warn};

pub use metrics::describe_metrics;
pub use options::{Config, Options};

use crate::{installation_guard::InstallationGuard, pipeline::SinkPipeline, recovery::Recovery};

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
pub async fn start(
    config: Config,
    bus: &Bus,
    store: &Store,
    health: &Health,
) -> Result<PipelineHandle, Error> {
    let metrics = metrics::Metrics::new(health);
    let (database, stream) = (health.add_readiness_check("database"), health.add_readiness_check("results"));

    bus.wait_connected().await?;
    let (keyring, settings) = wait_for_database(store).await?;
    database.set_ready();

    let clock = database_clock::SharedDatabaseClock::default();
    if let Err(error) = clock.update_from_database(store).await {
        warn!(error = %ErrorChain(&error), "could not read the database clock; using the local clock meanwhile");
    }
    let limit = config.drain_timeout;
    let (bus, store) = (bus.clone(), store.clone());
    let guard =
        InstallationGuard::new(bus.clone(), store.clone(), keyring, settings.clone(), metrics.clone());
    let recovery =
        Recovery::new(config, bus.clone(), store.clone(), guard.clone(), clock.clone(), metrics.clone());
    let sink =
        SinkPipeline { config, bus, store, settings, clock, recovery, guard, metrics, database, stream };
    Ok(PipelineHandle::start("sink", sink, limit).await?)
}

async fn wait_for_database(store: &Store) -> Result<(Keyring, SharedSettings), Error> {
    /// Interval between equal warnings.
    const WARN_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);
    let mut reported: Option<(String, Instant)> = None;
    let mut report = |error: &picket_store::Error| {
        let why = ErrorChain(error).to_string();
        if reported.as_ref().is_none_or(|(before, at)| *before != why || at.elapsed() >= WARN_INTERVAL) {
            warn!(error = why, "waiting for the database");
            reported = Some((why, Instant::now()));
        }
    };
    let loaded = loop {
        store.wait_ready(&mut report).await?;
        match tokio::try_join!(Keyring::load_from(store), SharedSettings::load_from(store)) {
            Ok(loaded) => break loaded,
            Err(error) => report(&error),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    };
    if reported.is_some() {
        info!("database available");
    }
    Ok(loaded)
}
