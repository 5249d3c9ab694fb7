//! Shared parts of all Picket processes: options, logs, the NATS connection, supervision, health
//! and metrics.
#![warn(missing_docs)]

pub mod address_policy;
pub mod adhoc;
pub mod backoff;
pub mod bus;
pub mod clock;
pub mod connect;
pub mod console;
mod database_wait;
pub mod discovery;
pub mod error_source;
pub mod health;
pub mod name_lookup;
mod network_scope;
mod open_connections;
pub mod options;
pub mod process;
pub mod secrets;
pub mod streams;
pub mod supervised_task;
pub mod supervisor;
pub mod telemetry;
pub mod tls_roots;

pub use address_policy::AddressPolicy;
pub use backoff::Backoff;
pub use bus::Bus;
pub use database_wait::wait_for_database;
pub use health::{AddMetric, Health, ReadinessCheck};
pub use network_scope::NetworkScope;
pub use open_connections::{BusyMark, ConnectionPlace, OpenConnections, peer_network};
pub use secrets::{SecretUnavailable, SecretValue, Secrets, redact};
pub use supervised_task::spawn_task;
pub use supervisor::{Pipeline, PipelineHandle};
pub use telemetry::ErrorChain;
