//! What a prober has done, in Prometheus' form.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use picket_proto::{CheckResult, Kind, RegionName};
use picket_runtime::{Health, clock::Boottime};
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use crate::rate::RateEwma;

type CheckLabels = [(&'static str, &'static str); 3];

/// The numbers. Clones share them, and cost one count: each check has some.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<MetricSet>);

impl Deref for Metrics {
    type Target = MetricSet;

    fn deref(&self) -> &MetricSet {
        &self.0
    }
}

/// See [`Metrics`].
pub(crate) struct MetricSet {
    pub(crate) checks: Family<CheckLabels, Counter>,
    pub(crate) checks_running: Gauge,
    pub(crate) requests_running: Gauge,
    pub(crate) slots: Gauge,
    pub(crate) slots_free: Gauge,
    pub(crate) jobs_pulled: Counter,
    pub(crate) pull_errors: Counter,
    pub(crate) requests_busy: Counter,
    pub(crate) rejected: Counter,
    pub(crate) results_published: Counter,
    pub(crate) publish_retries: Counter,
    pub(crate) results_lost: Counter,
    pub(crate) task_delay: Histogram,
    pub(crate) stalls: Counter,
    pub(crate) checks_waiting: Gauge,
    pub(crate) host_wait: Histogram,
    pub(crate) host_refusals: Counter,
    pub(crate) confirmations_waiting: Gauge,
    pub(crate) confirmations_refused: Counter,
    pub(crate) offline: Gauge,
    pub(crate) canary_rounds: Counter,
    pub(crate) lookups_running: Gauge,
    lateness: Histogram,
    duration: Histogram,
    check_rate: Mutex<RateEwma>,
}

impl Metrics {
    /// Registers the numbers of a prober of `region`; several of different regions may share one registry.
    pub(crate) fn new(health: &Health, region: &RegionName) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let metrics = MetricSet {
            checks: Family::default(),
            checks_running: Gauge::default(),
            requests_running: Gauge::default(),
            slots: Gauge::default(),
            slots_free: Gauge::default(),
            jobs_pulled: Counter::default(),
            pull_errors: Counter::default(),
            requests_busy: Counter::default(),
            rejected: Counter::default(),
            results_published: Counter::default(),
            publish_retries: Counter::default(),
            results_lost: Counter::default(),
            task_delay: seconds(),
            stalls: Counter::default(),
            checks_waiting: Gauge::default(),
            host_wait: seconds(),
            host_refusals: Counter::default(),
            confirmations_waiting: Gauge::default(),
            confirmations_refused: Counter::default(),
            offline: Gauge::default(),
            canary_rounds: Counter::default(),
            lookups_running: Gauge::default(),
            lateness: seconds(),
            duration: seconds(),
            check_rate: Mutex::new(RateEwma::new(Boottime::now())),
        };
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        registry.register("checks", "Checks by kind, outcome and cause", metrics.checks.clone());
        registry.register(
            "checks_running",
            "Checks under way of every kind, with those whose result waits to be stored",
            metrics.checks_running.clone(),
        );
        registry.register(
            "requests_running",
            "Ad-hoc checks under way, which are among checks_running and take no slot",
            metrics.requests_running.clone(),
        );
        registry.register(
            "slots",
            "Queued checks that may be under way at once (PICKET_CONCURRENCY); ticks a second times the seconds that a check takes must be less",
            metrics.slots.clone(),
        );
        registry.register("slots_free", "Queued checks that could be taken now", metrics.slots_free.clone());
        registry.register("jobs_pulled", "Jobs taken from the stream", metrics.jobs_pulled.clone());
        registry.register(
            "pull_errors",
            "Times that pulling jobs failed and was begun anew",
            metrics.pull_errors.clone(),
        );
        registry.register(
            "requests_busy",
            "Ad-hoc requests turned away because too many were under way",
            metrics.requests_busy.clone(),
        );
        registry.register("rejected", "Jobs and requests that could not be used", metrics.rejected.clone());
        registry.register(
            "results_published",
            "Results that the stream has acknowledged",
            metrics.results_published.clone(),
        );
        registry.register(
            "publish_retries",
            "Times that a result had to be published again",
            metrics.publish_retries.clone(),
        );
        registry.register(
            "results_lost",
            "Results that the stream did not take in time",
            metrics.results_lost.clone(),
        );
        registry.register(
            "drift_seconds",
            "How late this prober's own tasks run; a check held up by more than PICKET_MAX_DRIFT is missed/overloaded",
            metrics.task_delay.clone(),
        );
        registry.register(
            "stalls",
            "Times that this prober's tasks ran later than PICKET_MAX_DRIFT allows",
            metrics.stalls.clone(),
        );
        registry.register(
            "checks_waiting",
            "Checks that wait for their turn at a host (PICKET_PER_HOST)",
            metrics.checks_waiting.clone(),
        );
        registry.register(
            "host_wait_seconds",
            "How long checks waited for their turn at a host",
            metrics.host_wait.clone(),
        );
        registry.register(
            "host_refusals",
            "Checks not done because too many waited for their host, or waited until they expired",
            metrics.host_refusals.clone(),
        );
        registry.register(
            "confirmations_waiting",
            "Confirming checks that wait for their turn at a host, or for one of their permits",
            metrics.confirmations_waiting.clone(),
        );
        registry.register(
            "confirmations_refused",
            "Confirming checks not done because too many waited, or waited until they expired; the site's next tick tells the same",
            metrics.confirmations_refused.clone(),
        );
        registry.register(
            "offline",
            "1 while no canary answers and no jobs are taken",
            metrics.offline.clone(),
        );
        registry.register(
            "canary_rounds",
            "Times that the canaries were asked",
            metrics.canary_rounds.clone(),
        );
        registry.register(
            "lookups_running",
            "Threads in the system's resolver, also for checks that have given up (at most 256)",
            metrics.lookups_running.clone(),
        );
        registry.register(
            "lateness_seconds",
            "From the tick to the start of its check",
            metrics.lateness.clone(),
        );
        registry.register(
            "check_duration_seconds",
            "From the start of a check to its verdict",
            metrics.duration.clone(),
        );
        Self(Arc::new(metrics))
    }

    /// Counts a result; lateness is that of what was due at a time, and not just asked for.
    pub(crate) fn record_result(&self, result: &CheckResult) {
        let cause = result.cause.map_or("", |cause| cause.as_str());
        let labels = [("kind", result.kind.as_str()), ("outcome", result.outcome.as_str()), ("cause", cause)];
        self.checks.get_or_create(&labels).inc();
        self.check_rate.lock().unwrap_or_else(PoisonError::into_inner).record_check(Boottime::now());
        if let Some(micros) = result.timing.total_us {
            self.duration.observe(Duration::from_micros(micros.into()).as_secs_f64());
        }
        if result.kind != Kind::Adhoc
            && let Some(lateness) = result.lateness()
        {
            self.lateness.observe(lateness.as_secs_f64());
        }
    }

    /// Checks a second, of late.
    pub(crate) fn checks_per_second(&self) -> f64 {
        self.check_rate.lock().unwrap_or_else(PoisonError::into_inner).per_second(Boottime::now())
    }
}
