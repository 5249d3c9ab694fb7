//! Results on their way to the stream.

pub(crate) mod batcher;
pub(crate) mod publisher;
