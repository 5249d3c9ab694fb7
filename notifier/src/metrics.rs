//! Metrics of the notifier.

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

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) notifications: Family<OutcomeLabels, Counter<u64, AtomicU64>>,
    pub(crate) suppressed: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    pub(crate) attempts: Family<OutcomeLabels, Counter<u64, AtomicU64>>,
    pub(crate) delivery_seconds: Histogram,
    pub(crate) waiting: Gauge<i64, AtomicI64>,
    pub(crate) oldest_waiting_seconds: Gauge<f64, AtomicU64>,
    pub(crate) unplanned: Gauge<i64, AtomicI64>,
    pub(crate) channel_failing: Family<ChannelLabel, Gauge<i64, AtomicI64>>,
    pub(crate) consumer_lag_seconds: Gauge<f64, AtomicU64>,
    pub(crate) unknown_ends: Counter<u64, AtomicU64>,
    pub(crate) lost_leases: Counter<u64, AtomicU64>,
    pub(crate) database_errors: Counter<u64, AtomicU64>,
    pub(crate) consumer_errors: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) kind: &'static str,
    pub(crate) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ChannelLabel {
    pub(crate) channel: String,
}

impl Metrics {
    pub(crate) fn new(health: &Health) -> Self {
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("notifier");
        Self {
            notifications: registry
                .add_metric("notifications", "Messages that ended, by kind of channel and outcome"),
            suppressed: registry.add_metric("suppressed", "Notices that ended untold, by reason"),
            attempts: registry
                .add_metric("attempts", "Attempts to deliver a message, by kind of channel and outcome"),
            delivery_seconds: registry.add_histogram(
                "delivery_seconds",
                "Time from the recording of the newest event of a message to its delivery",
                exponential_buckets(0.05, 2.0, 16),
            ),
            waiting: registry.add_metric("waiting", "Notices that are due and wait for a delivery"),
            oldest_waiting_seconds: registry
                .add_metric("oldest_waiting_seconds", "Time since the oldest waiting notice was due"),
            unplanned: registry.add_metric("unplanned", "Events of which it is not decided yet who is told"),
            channel_failing: registry
                .add_metric("channel_failing", "1 if the channel counts as failing, else 0"),
            consumer_lag_seconds: registry.add_metric(
                "consumer_lag_seconds",
                "Age of the last event when it arrived, 0 while none waits; events only wake",
            ),
            unknown_ends: registry.add_metric(
                "unknown_ends",
                "Messages sent again because the end of an earlier attempt is unknown",
            ),
            lost_leases: registry
                .add_metric("lost_leases", "Leases of lanes that another notifier took over"),
            database_errors: registry.add_metric("database_errors", "Failed statements, which are retried"),
            consumer_errors: registry.add_metric(
                "consumer_errors",
                "Failures to pull events from NATS; the database is polled meanwhile",
            ),
        }
    }
}

/// Registers all metrics, each with a sample where it would have none yet.
pub fn describe_metrics(health: &Health, placeholder: &'static str) {
    let metrics = Metrics::new(health);
    let _ = metrics.notifications.get_or_create(&OutcomeLabels { kind: placeholder, outcome: placeholder });
    let _ = metrics.attempts.get_or_create(&OutcomeLabels { kind: placeholder, outcome: placeholder });
    let _ = metrics.suppressed.get_or_create(&ReasonLabel { reason: placeholder });
    let _ = metrics.channel_failing.get_or_create(&ChannelLabel { channel: placeholder.to_owned() });
}
