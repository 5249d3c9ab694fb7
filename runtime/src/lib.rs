//! Shared parts of all Picket processes: options, logs, the NATS connection, supervision, health
//! and metrics.
#![warn(missing_docs)]

pub mod adhoc;
pub mod backoff;
pub mod bus;
pub mod clock;
pub mod connect;
pub mod console;
mod database_wait;
pub mod discovery;
pub mod health;
mod open_connections;
pub mod options;
pub mod process;
pub mod secrets;
pub mod streams;
pub mod supervised_task;
pub mod supervisor;
pub mod telemetry;

pub use backoff::Backoff;
pub use bus::Bus;
pub use database_wait::wait_for_database;
pub use health::{AddMetric, Health, ReadinessCheck};
pub use open_connections::{BusyMark, ConnectionPlace, OpenConnections, peer_network};
pub use secrets::{SecretUnavailable, SecretValue, Secrets, redact};
pub use supervised_task::spawn_task;
pub use supervisor::{Pipeline, PipelineHandle};
pub use telemetry::ErrorChain;
