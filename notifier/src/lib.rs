//! Tells people and programs of incidents, warnings and regions: plans who is told, composes
//! messages from what is true, and delivers them by channels.
//!
//! Postgres decides; the stream of events only wakes. Any number of notifiers share the work.
#![warn(missing_docs)]

mod answer;
pub mod attempt;
pub mod channel;
pub mod message;
mod samples;
pub mod sender;
pub mod template;
pub mod text;
mod transport;
