//! The fault matrix: each test injects a fault into the real system, and then accounts for every
//! tick of the span.
//!
//! Slow tests are ignored in `just test`; `just e2e` runs all and prints the table.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bus;
mod clocks;
mod cluster;
mod coordinators;
mod database;
mod features;
mod floods;
mod hanging;
mod hosts;
mod leaf;
mod ledger;
mod lies;
mod network;
mod offline;
mod order;
mod overload;
mod probers;
mod restore;
mod results;
mod rows;
mod sinks;
mod sites;
mod streams;
mod upgrade;
