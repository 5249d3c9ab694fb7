//! What the sink counts.

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
    pub(crate) event_errors: Counter<u64, AtomicU64>,
    pub(crate) outbox_depth: Gauge<i64, AtomicI64>,
    pub(crate) outbox_age_seconds: Gauge<f64, AtomicU64>,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) outcome: &'static str,
    /// Empty where there is none.
    pub(crate) cause: &'static str,
}

/// Why a letter is dead.
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
            event_errors: Counter::default(),
            outbox_depth: Gauge::default(),
            outbox_age_seconds: Gauge::default(),
        };
        // From zero: the first one to come would be no increase of what was not there.
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
        sink.register("duplicates", "Results that were there already", self.duplicates.clone());
        sink.register("replays", "Replays of results that the database had lost", self.replays.clone());
        sink.register(
            "replayed",
            "Results that the database had lost and that were replayed from the stream",
            self.replayed_results.clone(),
        );
        sink.register("dead_letters", "Messages kept with why they are no rows", self.dead_letters.clone());
        sink.register(
            "foreign_results",
            "Results of another installation's checks, refused and not stored",
            self.foreign_results.clone(),
        );
        sink.register(
            "tickets_required",
            "Whether results without a ticket are refused (picket.settings.require_tickets)",
            self.tickets_required.clone(),
        );
        sink.register("batch_size", "Messages written together", self.batch_size.clone());
        sink.register("write_seconds", "From the start of a write to its commit", self.write_seconds.clone());
        sink.register("delay_seconds", "From when a check was due to its commit", self.delay_seconds.clone());
        sink.register(
            "database_errors",
            "Writes that failed and are tried again",
            self.database_errors.clone(),
        );
        sink.register("pull_errors", "Failures to take results from NATS", self.pull_errors.clone());
        sink.register(
            "pending",
            "Messages that wait in the stream, of a result or several",
            self.pending_messages.clone(),
        );
        sink.register("incidents_opened", "Incidents that this sink opened", self.incidents_opened.clone());
        sink.register("incidents_closed", "Incidents that this sink closed", self.incidents_closed.clone());
        sink.register(
            "suspects",
            "Sites that were to be confirmed at once",
            self.confirmation_requests.clone(),
        );
        sink.register("events", "Events that this sink published", self.events_published.clone());
        sink.register(
            "event_errors",
            "Failures to publish events, which are tried again",
            self.event_errors.clone(),
        );
        sink.register("outbox_waiting", "Events that wait to be published", self.outbox_depth.clone());
        sink.register(
            "outbox_age_seconds",
            "How long the oldest event has waited",
            self.outbox_age_seconds.clone(),
        );
    }
}
