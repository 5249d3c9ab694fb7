//! Publishing of jobs, and the limits of it.

pub(crate) mod backpressure;
pub(crate) mod publish_gaps;
pub(crate) mod publisher;
