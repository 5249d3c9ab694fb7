//! The coordinator: holds leases on shards of schedules and publishes a job for each tick when it
//! is due.
#![warn(missing_docs)]

mod adaptive_chunk;
mod config;
mod confirmation;
mod dispatch;
pub mod fence;
mod housekeeper;
pub mod lease;
mod ledger_closer;
mod metrics;
mod options;
mod pipeline;
mod region_liveness;
mod schedule;
mod settings_follower;
mod shared_clock;
mod stream_setup;
#[cfg(test)]
mod supervision_tests;

use std::time::Duration;

use picket_runtime::{Bus, Health, PipelineHandle, bus, wait_for_database};
use picket_store::{Store, settings::SharedSettings, tickets::Keyring};
use ractor::SpawnErr;

pub use self::{config::Config, metrics::describe_metrics, options::Options};
use self::{metrics::Metrics, pipeline::CoordinatorPipeline};

/// Reasons for which a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be used.
    #[error("the bus cannot be used")]
    Bus(#[from] bus::Error),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[from] picket_store::Error),
    /// An actor did not start.
    #[error("could not start the coordinator's actors")]
    Spawn(#[from] SpawnErr),
}

/// Maximum database connections of a coordinator.
pub const DATABASE_CONNECTIONS: u32 = 6;

/// Maximum time to release all shards.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Starts a coordinator, which runs until drained. Waits for NATS and for a database with a
/// compatible schema.
///
/// # Errors
/// If NATS or the database is reachable but cannot be used.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<PipelineHandle, Error> {
    let database = health.add_readiness_check("database");
    bus.wait_connected().await?;
    let connect = async || {
        store.check_usable().await?;
        let settings = SharedSettings::load_from(&store).await?;
        Ok::<_, picket_store::Error>((Keyring::load_from(&store, &settings.current()).await?, settings))
    };
    let (keyring, settings) = wait_for_database(&database, connect, picket_store::Error::may_recover).await?;
    let coordinator = CoordinatorPipeline {
        metrics: Metrics::new(&health),
        catalog_readiness: health.add_readiness_check("schedules"),
        lease_readiness: health.add_readiness_check("leases"),
        streams_readiness: health.add_readiness_check("streams"),
        backpressure_readiness: health.add_readiness_check("backlog"),
        config,
        bus,
        store,
        keyring,
        settings,
    };
    Ok(PipelineHandle::start("coordinator", coordinator, DRAIN_TIMEOUT, &health).await?)
}
