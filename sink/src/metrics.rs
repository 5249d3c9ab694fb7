//! Metrics of the sink.

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
    pub(crate) rows_written: Family<OutcomeLabels, Counter<u64, AtomicU64>>,
    pub(crate) duplicates: Counter<u64, AtomicU64>,
    pub(crate) replays: Counter<u64, AtomicU64>,
    pub(crate) replayed_results: Counter<u64, AtomicU64>,
    pub(crate) dead_letters: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    pub(crate) foreign_results: Counter<u64, AtomicU64>,
    pub(crate) tickets_required: Gauge<i64, AtomicI64>,
    pub(crate) batch_size: Histogram,
    pub(crate) write_seconds: Histogram,
    pub(crate) delay_seconds: Histogram,
    pub(crate) database_errors: Counter<u64, AtomicU64>,
    pub(crate) pull_errors: Counter<u64, AtomicU64>,
    pub(crate) pending_messages: Gauge<i64, AtomicI64>,
    pub(crate) incidents_opened: Counter<u64, AtomicU64>,
    pub(crate) incidents_closed: Counter<u64, AtomicU64>,
    pub(crate) warnings_opened: Counter<u64, AtomicU64>,
    pub(crate) warnings_closed: Counter<u64, AtomicU64>,
    pub(crate) doubtful_windows: Counter<u64, AtomicU64>,
    pub(crate) confirmation_requests: Counter<u64, AtomicU64>,
    pub(crate) events_published: Counter<u64, AtomicU64>,
    pub(crate) event_publish_errors: Counter<u64, AtomicU64>,
    pub(crate) outbox_depth: Gauge<i64, AtomicI64>,
    pub(crate) outbox_age_seconds: Gauge<f64, AtomicU64>,
}

/// Labels of written rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) outcome: &'static str,
    /// Empty if there is no cause.
    pub(crate) cause: &'static str,
}

/// Label of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

impl Metrics {
    pub(crate) fn new(health: &Health) -> Self {
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("sink");
        let metrics = Self {
            rows_written: registry.add_metric("results", "Rows written, by outcome and cause"),
            duplicates: registry.add_metric("duplicate_results", "Duplicate results, stored already"),
            replays: registry.add_metric("replays", "Replays of results that the database had lost"),
            replayed_results: registry.add_metric(
                "replayed_results",
                "Results that the database had lost, replayed from the stream",
            ),
            dead_letters: registry.add_metric("dead_letters", "Messages stored as dead letters, by reason"),
            foreign_results: registry
                .add_metric("foreign_results", "Rejected results of another installation's checks"),
            tickets_required: registry.add_metric(
                "tickets_required",
                "1 if results without a ticket are rejected (picket.settings.require_tickets), else 0",
            ),
            batch_size: registry.add_histogram(
                "batch_size",
                "Results per batch",
                exponential_buckets(1.0, 4.0, 8),
            ),
            write_seconds: registry.add_histogram(
                "write_duration_seconds",
                "Time from the start of a write to its commit",
                exponential_buckets(0.001, 2.0, 14),
            ),
            delay_seconds: registry.add_histogram(
                "result_delay_seconds",
                "Time from the due time of a check to the commit of its result",
                exponential_buckets(0.01, 2.0, 16),
            ),
            database_errors: registry
                .add_metric("database_errors", "Failed writes and checks of the database, which are retried"),
            pull_errors: registry
                .add_metric("pull_errors", "Failures to pull results from NATS, which are retried"),
            pending_messages: registry.add_metric(
                "pending_messages",
                "Messages waiting in the stream, each with one or more results",
            ),
            incidents_opened: registry.add_metric("incidents_opened", "Incidents opened by this sink"),
            incidents_closed: registry.add_metric("incidents_closed", "Incidents closed by this sink"),
            warnings_opened: registry.add_metric("warnings_opened", "Warnings opened by this sink"),
            warnings_closed: registry.add_metric("warnings_closed", "Warnings closed by this sink"),
            doubtful_windows: registry.add_metric(
                "doubtful_windows",
                "Spans recorded by this sink in which the failures of a prober are doubtful, since other \
                 regions reach the same hosts (report.doubtful_windows)",
            ),
            confirmation_requests: registry
                .add_metric("confirmation_requests", "Confirmation requests for sites that began to fail"),
            events_published: registry.add_metric("events_published", "Events published by this sink"),
            event_publish_errors: registry
                .add_metric("event_publish_errors", "Failures to publish events, which are retried"),
            outbox_depth: registry.add_metric("outbox_events", "Events waiting to be published"),
            outbox_age_seconds: registry.add_metric("outbox_age_seconds", "Age of the oldest waiting event"),
        };
        // Every series starts at zero, because a series that first appears with the value 1 shows
        // no increase.
        let reasons = [
            "subject",
            "bundle",
            "json",
            "unsupported",
            "details",
            "time",
            "contradiction",
            "ticket",
            "region",
            "refused",
            "event",
        ];
        for reason in reasons {
            let _ = metrics.dead_letters.get_or_create(&ReasonLabel { reason });
        }
        metrics
    }
}

/// Registers all metrics, with a series in each family, for the generated reference: an empty
/// family is not encoded. Labels whose values are not known in advance get `placeholder`.
pub fn describe_metrics(health: &Health, placeholder: &'static str) {
    let metrics = Metrics::new(health);
    let _ = metrics.rows_written.get_or_create(&OutcomeLabels { outcome: placeholder, cause: placeholder });
}
