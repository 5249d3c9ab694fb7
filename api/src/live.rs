//! Live results and events: from the bus to viewers, without a store in between.
//!
//! subscription → events → filter and queue of each viewer → server-sent events. What a viewer sees is
//! what probers report. Rows are the record: a sink verifies each result before it becomes one.

pub(crate) mod access;
mod changes;
pub(crate) mod event;
pub(crate) mod filter;
pub(crate) mod hub;
mod metrics;
mod queue;
pub(crate) mod stream;
mod tags;

pub(crate) use self::{hub::Hub, metrics::LiveMetrics, queue::Lagged};
