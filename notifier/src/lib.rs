//! Tells people and programs of incidents, warnings and regions: plans who is told, composes
//! messages from what is true, and delivers them by channels.
//!
//! events, notifications, poll → plan → lanes → decide → compose → attempt → aftermath. Postgres decides; the
//! stream of events and notifications of the database only wake. Any number of notifiers share the work.
#![warn(missing_docs)]

mod aftermath;
mod answer;
pub mod attempt;
pub mod channel;
mod compose;
mod config;
mod decide;
mod events;
pub mod message;
mod metrics;
mod options;
mod pending;
mod pings;
mod pipeline;
mod samples;
pub mod sender;
pub mod template;
pub mod text;
mod transport;
mod worker;

use std::sync::Arc;

use picket_runtime::{
    Bus, Health, PipelineHandle, bus,
    secrets::{Secrets, SecretsError},
    wait_for_database,
};
use picket_store::{Store, lanes, settings::SharedSettings};
use ractor::SpawnErr;

pub use self::{
    aftermath::retry_waits,
    config::Config,
    metrics::describe_metrics,
    options::{DeliveryOptions, Options},
};

use self::{
    metrics::Metrics,
    pipeline::NotifierPipeline,
    sender::{Sender, SenderOptions},
    worker::Worker,
};

/// Failure to start a notifier.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to NATS failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The database is unusable.
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    /// The secrets file is unusable.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// An option of delivery is unusable.
    #[error(transparent)]
    Sender(#[from] sender::SenderError),
    /// An actor did not start.
    #[error("could not start the notifier's actors")]
    Spawn(#[from] SpawnErr),
}

/// Maximum database connections of a notifier.
pub const DATABASE_CONNECTIONS: u32 = 8;

/// Starts a notifier, which runs until drained. Waits for a database with a schema; NATS may be away,
/// since events only wake.
///
/// # Errors
/// If a retry cannot help: an option is invalid.
pub async fn start(config: Config, bus: Bus, store: Store, health: Health) -> Result<PipelineHandle, Error> {
    let metrics = Metrics::new(&health);
    let database = health.add_readiness_check("database");
    let secrets = Secrets::load_or_none(config.secrets_file.as_deref())?;
    let options = SenderOptions {
        allowed_networks: config.delivery.notify_allow_addresses.clone(),
        ca_file: config.delivery.notify_ca_file.clone(),
        is_exec_allowed: config.delivery.allow_exec,
        ..SenderOptions::default()
    };
    let sender = Arc::new(Sender::new(options, secrets.clone())?);
    let connect = async || {
        store.check_usable().await?;
        // Before anything is told, so that a time without notifiers is known.
        lanes::mark_notifier(&store, &config.name, env!("CARGO_PKG_VERSION")).await?;
        SharedSettings::load_from(&store).await
    };
    let settings = wait_for_database(&database, connect, picket_store::Error::may_recover).await?;
    let limit = config.drain_timeout;
    let (name, default_public_url) = (config.name.clone(), config.default_public_url.clone());
    let preparations = Arc::new(tokio::sync::Semaphore::new(1));
    let worker = Worker { name, store, settings, default_public_url, sender, preparations, metrics };
    let pipeline = NotifierPipeline { config, bus, worker, secrets, database };
    Ok(PipelineHandle::start("notifier", pipeline, limit, &health).await?)
}
