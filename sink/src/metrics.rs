//! Metrics of the sink.

use std::sync::atomic::{AtomicI64, AtomicU64};

use picket_runtime::Health;
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
        let metrics = Self {
            rows_written: Family::default(),
            duplicates: Counter::default(),
            replays: Counter::default(),
            replayed_results: Counter::default(),
            dead_letters: Family::default(),
            foreign_results: Counter::default(),
            tickets_required: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            write_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            delay_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            database_errors: Counter::default(),
            pull_errors: Counter::default(),
            pending_messages: Gauge::default(),
            incidents_opened: Counter::default(),
            incidents_closed: Counter::default(),
            confirmation_requests: Counter::default(),
            events_published: Counter::default(),
            event_publish_errors: Counter::default(),
            outbox_depth: Gauge::default(),
            outbox_age_seconds: Gauge::default(),
        };
        // Every series starts at zero, because a series that first appears with the value 1 shows
        // no increase.
        let reasons =
            ["subject", "bundle", "json", "time", "contradiction", "ticket", "region", "refused", "event"];
        for reason in reasons {
            let _ = metrics.dead_letters.get_or_create(&ReasonLabel { reason });
        }
        metrics.register_metrics(health);
        metrics
    }

    fn register_metrics(&self, health: &Health) {
        let mut registry = health.registry();
        let sink = registry.sub_registry_with_prefix("sink");
        sink.register("results", "Rows written, by outcome and cause", self.rows_written.clone());
        sink.register("duplicate_results", "Duplicate results, stored already", self.duplicates.clone());
        sink.register("replays", "Replays of results that the database had lost", self.replays.clone());
        sink.register(
            "replayed_results",
            "Results that the database had lost, replayed from the stream",
            self.replayed_results.clone(),
        );
        sink.register(
            "dead_letters",
            "Messages stored as dead letters, by reason",
            self.dead_letters.clone(),
        );
        sink.register(
            "foreign_results",
            "Rejected results of another installation's checks",
            self.foreign_results.clone(),
        );
        sink.register(
            "tickets_required",
            "1 if results without a ticket are rejected (picket.settings.require_tickets), else 0",
            self.tickets_required.clone(),
        );
        sink.register("batch_size", "Results per batch", self.batch_size.clone());
        sink.register(
            "write_duration_seconds",
            "Time from the start of a write to its commit",
            self.write_seconds.clone(),
        );
        sink.register(
            "result_delay_seconds",
            "Time from the due time of a check to the commit of its result",
            self.delay_seconds.clone(),
        );
        sink.register(
            "database_errors",
            "Failed writes and checks of the database, which are retried",
            self.database_errors.clone(),
        );
        sink.register(
            "pull_errors",
            "Failures to pull results from NATS, which are retried",
            self.pull_errors.clone(),
        );
        sink.register(
            "pending_messages",
            "Messages waiting in the stream, each with one or more results",
            self.pending_messages.clone(),
        );
        sink.register("incidents_opened", "Incidents opened by this sink", self.incidents_opened.clone());
        sink.register("incidents_closed", "Incidents closed by this sink", self.incidents_closed.clone());
        sink.register(
            "confirmation_requests",
            "Confirmation requests for sites that began to fail",
            self.confirmation_requests.clone(),
        );
        sink.register("events_published", "Events published by this sink", self.events_published.clone());
        sink.register(
            "event_publish_errors",
            "Failures to publish events, which are retried",
            self.event_publish_errors.clone(),
        );
        sink.register("outbox_events", "Events waiting to be published", self.outbox_depth.clone());
        sink.register(
            "outbox_age_seconds",
            "Age of the oldest waiting event",
            self.outbox_age_seconds.clone(),
        );
    }
}

/// Registers all metrics, with a series in each family, for the generated reference: an empty
/// family is not encoded. Labels whose values are not known in advance get `placeholder`.
pub fn describe_metrics(health: &Health, placeholder: &'static str) {
    let metrics = Metrics::new(health);
    let _ = metrics.rows_written.get_or_create(&OutcomeLabels { outcome: placeholder, cause: placeholder });
}
