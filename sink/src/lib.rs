//! Results into rows: pulled from the stream by the batch, written once each, acknowledged after commit.
//!
//! puller → writer. What the stream holds waits there: the leave to hold a batch travels with it and comes back when
//! it is written, so the sink's memory is the same whatever the backlog.

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
mod writer;

use picket_runtime::{Bus, ErrorChain, Health, PipelineHandle, bus};
use picket_store::{Store, tickets::Keyring};
use ractor::SpawnErr;
use tokio::time::Instant;
use tracing::{info, warn};

pub use options::{Config, Options};

use crate::{installation_guard::InstallationGuard, pipeline::SinkPipeline, recovery::Recovery};

/// Why there is no sink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to NATS.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    /// An actor did not start.
    #[error("could not start the sink's actors")]
    Spawn(#[from] SpawnErr),
}

/// How many connections to the database a sink needs: one to write, one to look whether it is there,
/// one that holds what is published.
pub const DATABASE_CONNECTIONS: u32 = 4;

/// Starts a sink: waits for NATS and for a database with a schema, and runs until it is drained. It makes the stream and
/// its consumer where they are not there.
///
/// # Errors
/// When waiting would be in vain: the server is too old, an option makes no sense.
pub async fn start(
    config: Config,
    bus: &Bus,
    store: &Store,
    health: &Health,
) -> Result<PipelineHandle, Error> {
    let metrics = metrics::Metrics::new(health);
    let (database, stream) = (health.add_readiness_check("database"), health.add_readiness_check("results"));

    bus.wait_connected().await?;
    let keyring = wait_for_database(store).await?;
    database.set_ready();

    let clock = database_clock::SharedDatabaseClock::default();
    if let Err(error) = clock.update_from_database(store).await {
        warn!(error = %ErrorChain(&error), "the database's clock could not be read; results are judged by this machine's until it is");
    }
    let limit = config.drain_timeout;
    let (bus, store) = (bus.clone(), store.clone());
    let guard =
        InstallationGuard::new(bus.clone(), store.clone(), keyring, config.durability, metrics.clone());
    let recovery =
        Recovery::new(config, bus.clone(), store.clone(), guard.clone(), clock.clone(), metrics.clone());
    let sink = SinkPipeline { config, bus, store, clock, recovery, guard, metrics, database, stream };
    Ok(PipelineHandle::start("sink", sink, limit).await?)
}

async fn wait_for_database(store: &Store) -> Result<Keyring, Error> {
    /// Between two lines that say the same.
    const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);
    let mut said: Option<(String, Instant)> = None;
    let mut say = |error: &picket_store::Error| {
        let why = ErrorChain(error).to_string();
        if said.as_ref().is_none_or(|(before, at)| *before != why || at.elapsed() >= AGAIN) {
            warn!(error = why, "waiting for the database");
            said = Some((why, Instant::now()));
        }
    };
    let keyring = loop {
        store.wait_ready(&mut say).await?;
        match Keyring::load_from(store).await {
            Ok(keyring) => break keyring,
            Err(error) => say(&error),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    };
    if said.is_some() {
        info!("the database is there");
    }
    Ok(keyring)
}
