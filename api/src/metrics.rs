//! Metrics of the API.

use std::sync::atomic::{AtomicI64, AtomicU64};

use picket_runtime::{AddMetric, Health};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::live::LiveMetrics;

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    pub(crate) request_seconds: Histogram,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    pub(crate) live: LiveMetrics,
}

/// Labels of answered requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    /// Route with its parameters' names, which bounds the number of label values.
    pub(crate) route: String,
    pub(crate) method: String,
    pub(crate) status: u16,
}

impl Metrics {
    pub(crate) fn new(health: &Health) -> Self {
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("api");
        Self {
            requests: registry.add_metric("requests", "Answered requests, by route, method and status"),
            request_seconds: registry.add_histogram(
                "request_duration_seconds",
                "Time from the head of a request to the head of its response",
                exponential_buckets(0.001, 2.0, 15),
            ),
            connections: registry.add_metric("connections", "Open connections"),
            live: LiveMetrics::register(registry),
        }
    }
}

/// Registers the metrics of an API process, for their reference.
pub fn describe_metrics(health: &Health) {
    Metrics::new(health);
}
