//! What Picket keeps, in Postgres. The only crate that knows SQL.
//!
//! A function takes a [`Store`], and opens the transaction itself wherever atomicity is its promise. Every
//! statement has a deadline, here and on the server, since nothing below notices a server that went away.
#![warn(missing_docs)]

pub mod change_feed;
pub mod error;
pub mod housekeeping;
pub mod incident_rules;
pub mod incidents;
pub mod leases;
pub mod ledger;
pub mod maintenance;
pub mod options;
pub mod outbox;
pub mod partitions;
pub mod regions;
pub mod reports;
pub mod result_watermark;
pub mod results;
pub mod schedules;
pub mod site_status;
pub mod sites;
mod store;
pub mod tickets;
mod timestamp;

pub use error::Error;
pub use options::DatabaseOptions;
pub use store::{MIGRATOR, ServerGuard, Store};
pub use timestamp::DbTimestamp;
