//! Publishing of jobs, and the limits of it.

pub mod ack_inbox;
pub(crate) mod backpressure;
pub(crate) mod publish_gaps;
pub(crate) mod publisher;
