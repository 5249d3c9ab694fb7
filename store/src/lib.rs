//! Postgres storage of Picket. The only crate with SQL.
//!
//! Every function takes a [`Store`] and opens a transaction itself if it promises atomicity. Every
//! statement has a deadline in the client and on the server, because the driver does not detect a
//! server that has disappeared.
#![warn(missing_docs)]

pub mod acknowledgements;
pub mod adhoc_results;
mod api_secrets;
pub mod api_tokens;
pub mod certificates;
pub mod change_feed;
pub mod channel_tests;
pub mod channels;
mod decisions;
pub mod definitions;
pub mod error;
pub mod housekeeping;
pub mod incident_pages;
pub mod incident_rules;
pub mod incidents;
pub mod lanes;
pub mod leases;
pub mod ledger;
pub mod live_feed;
pub mod maintenance;
pub mod moments;
pub mod notifications;
pub mod options;
pub mod outbox;
pub mod partitions;
pub mod regions;
pub mod reports;
pub mod result_watermark;
pub mod results;
pub mod routes;
mod row_version;
pub mod schedules;
pub mod sessions;
pub mod settings;
pub mod silences;
pub mod site_counts;
pub mod site_history;
pub mod site_list;
pub mod site_status;
pub mod sites;
mod store;
pub mod tags;
pub mod tickets;
mod timestamp;
pub mod warning_rules;
pub mod warnings;
mod write_error;

pub use api_secrets::ApiSecret;
pub use error::Error;
pub use options::DatabaseOptions;
pub use row_version::RowVersion;
pub use store::{MIGRATOR, ServerGuard, Store};
pub use timestamp::DbTimestamp;
