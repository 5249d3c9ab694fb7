//! Drills of notifications: real notifiers on real servers and receivers, under faults. Each ends with
//! a ledger of notifications without an unaccounted row, and with a count at the receiver.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod behaviour;
mod channels;
mod drill;
mod faults;
mod receivers;
mod storms;
