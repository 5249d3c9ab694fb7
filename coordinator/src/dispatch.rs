//! Publishing of jobs, and the limits of it.

pub mod ack_inbox;
pub mod backpressure;
pub mod publish_gaps;
pub mod publisher;
