//! Tells people and programs of incidents, warnings and regions: plans who is told, composes
//! messages from what is true, and delivers them by channels.
//!
//! Postgres decides; the stream of events only wakes. Any number of notifiers share the work.
#![warn(missing_docs)]

pub mod attempt;
pub mod message;
#[cfg(test)]
mod samples;
pub mod text;
