//! What Picket keeps, in Postgres. The only crate that knows SQL.
//!
//! A function takes a [`Store`], and opens the transaction itself wherever atomicity is its promise. Every
//! statement has a deadline, here and on the server, since nothing below notices a server that went away.
#![warn(missing_docs)]

pub mod changes;
pub mod error;
pub mod incidents;
pub mod leases;
pub mod ledger;
pub mod maintenance;
pub mod options;
pub mod outbox;
pub mod partitions;
pub mod regions;
pub mod report;
pub mod reports;
pub mod results;
pub mod schedules;
pub mod sites;
mod store;
pub mod stored;
pub mod tickets;
mod timestamp;
pub mod upkeep;
pub mod verdict;

pub use error::Error;
pub use options::DatabaseOptions;
pub use store::{Guard, MIGRATOR, Store};
pub use timestamp::DbTimestamp;
