//! Metrics of live streams.

use std::sync::atomic::{AtomicI64, AtomicU64};

use picket_runtime::AddMetric;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone)]
pub(crate) struct LiveMetrics {
    pub(crate) streams: Gauge<i64, AtomicI64>,
    pub(crate) events_delivered: Counter<u64, AtomicU64>,
    pub(crate) events_lost: Counter<u64, AtomicU64>,
    pub(crate) unusable_messages: Counter<u64, AtomicU64>,
}

impl LiveMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            streams: registry.add_metric("live_streams", "Open live streams"),
            events_delivered: registry.add_metric("live_events_delivered", "Events queued for live streams"),
            events_lost: registry
                .add_metric("live_events_lost", "Events that live streams lost because their reader is slow"),
            unusable_messages: registry
                .add_metric("live_unusable_messages", "Results and events that live streams could not use"),
        }
    }
}
