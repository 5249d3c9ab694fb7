//! Prometheus metrics of a prober.

use std::{ops::Deref, sync::Arc, time::Duration};

use picket_proto::{CheckResult, Kind, RegionName};
use picket_runtime::Health;
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use crate::health::job_clock::JobClock;

type CheckLabels = [(&'static str, &'static str); 3];

/// Handle of the metrics. Clones share the metrics at the cost of one reference count; each check
/// has several clones.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<MetricSet>);

impl Deref for Metrics {
    type Target = MetricSet;

    fn deref(&self) -> &MetricSet {
        &self.0
    }
}

/// Metrics behind the handle; see [`Metrics`].
pub(crate) struct MetricSet {
    pub(crate) checks: Family<CheckLabels, Counter>,
    pub(crate) checks_running: Gauge,
    pub(crate) adhoc_checks_running: Gauge,
    pub(crate) slots: Gauge,
    pub(crate) slots_free: Gauge,
    pub(crate) jobs_pulled: Counter,
    pub(crate) pull_errors: Counter,
    pub(crate) adhoc_requests_rejected: Counter,
    pub(crate) rejected: Counter,
    pub(crate) results_published: Counter,
    pub(crate) publish_retries: Counter,
    pub(crate) results_lost: Counter,
    pub(crate) scheduling_delay: Histogram,
    pub(crate) stalls: Counter,
    pub(crate) checks_waiting: Gauge,
    pub(crate) host_wait: Histogram,
    pub(crate) host_rejections: Counter,
    pub(crate) confirmations_waiting: Gauge,
    pub(crate) confirmations_rejected: Counter,
    pub(crate) offline: Gauge,
    pub(crate) canary_rounds: Counter,
    pub(crate) lookups_running: Gauge,
    lateness: Histogram,
    duration: Histogram,
}

impl Metrics {
    /// Registers the metrics of a prober in `region`. Probers of different regions may share one
    /// registry.
    pub(crate) fn new(health: &Health, region: &RegionName) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let metrics = MetricSet {
            checks: Family::default(),
            checks_running: Gauge::default(),
            adhoc_checks_running: Gauge::default(),
            slots: Gauge::default(),
            slots_free: Gauge::default(),
            jobs_pulled: Counter::default(),
            pull_errors: Counter::default(),
            adhoc_requests_rejected: Counter::default(),
            rejected: Counter::default(),
            results_published: Counter::default(),
            publish_retries: Counter::default(),
            results_lost: Counter::default(),
            scheduling_delay: seconds(),
            stalls: Counter::default(),
            checks_waiting: Gauge::default(),
            host_wait: seconds(),
            host_rejections: Counter::default(),
            confirmations_waiting: Gauge::default(),
            confirmations_rejected: Counter::default(),
            offline: Gauge::default(),
            canary_rounds: Counter::default(),
            lookups_running: Gauge::default(),
            lateness: seconds(),
            duration: seconds(),
        };
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        registry.register("checks", "Finished checks by kind, outcome and cause", metrics.checks.clone());
        registry.register(
            "checks_running",
            "Running checks of all kinds, including checks whose result is not stored yet",
            metrics.checks_running.clone(),
        );
        registry.register(
            "adhoc_checks_running",
            "Running ad-hoc checks; included in checks_running, occupy no slot",
            metrics.adhoc_checks_running.clone(),
        );
        registry.register(
            "slots",
            "Maximum concurrent queued checks (PICKET_CONCURRENCY); must exceed ticks per second times seconds per check",
            metrics.slots.clone(),
        );
        registry.register("slots_free", "Free slots for queued checks", metrics.slots_free.clone());
        registry.register("jobs_pulled", "Jobs pulled from the stream", metrics.jobs_pulled.clone());
        registry.register(
            "pull_errors",
            "Failures of pulling jobs, each followed by a retry",
            metrics.pull_errors.clone(),
        );
        registry.register(
            "adhoc_requests_rejected",
            "Ad-hoc requests rejected because too many were running",
            metrics.adhoc_requests_rejected.clone(),
        );
        registry.register("invalid_messages", "Invalid jobs and requests", metrics.rejected.clone());
        registry.register(
            "results_published",
            "Results acknowledged by the stream",
            metrics.results_published.clone(),
        );
        registry.register(
            "publish_retries",
            "Repeated publishes of results",
            metrics.publish_retries.clone(),
        );
        registry.register(
            "results_lost",
            "Results not stored in the stream in time",
            metrics.results_lost.clone(),
        );
        registry.register(
            "scheduling_delay_seconds",
            "Scheduling delay of this prober's tasks; a check delayed by more than PICKET_MAX_DRIFT is missed/overloaded",
            metrics.scheduling_delay.clone(),
        );
        registry.register("stalls", "Scheduling delays above PICKET_MAX_DRIFT", metrics.stalls.clone());
        registry.register(
            "checks_waiting",
            "Checks waiting for a busy host (PICKET_PER_HOST)",
            metrics.checks_waiting.clone(),
        );
        registry.register(
            "host_wait_seconds",
            "Time that checks waited for a busy host",
            metrics.host_wait.clone(),
        );
        registry.register(
            "host_rejections",
            "Checks missed because the wait queue was full, or expired while waiting for a busy host",
            metrics.host_rejections.clone(),
        );
        registry.register(
            "confirmations_waiting",
            "Confirmations waiting for a busy host or for a permit",
            metrics.confirmations_waiting.clone(),
        );
        registry.register(
            "confirmations_rejected",
            "Confirmations missed because the wait queue was full, or expired while waiting; the next tick of the site decides instead",
            metrics.confirmations_rejected.clone(),
        );
        registry.register(
            "offline",
            "1 while no canary responds and no jobs are pulled",
            metrics.offline.clone(),
        );
        registry.register("canary_rounds", "Rounds of canary checks", metrics.canary_rounds.clone());
        registry.register(
            "lookups_running",
            "Threads blocked in the system's resolver, including lookups of checks that have timed out (at most 256)",
            metrics.lookups_running.clone(),
        );
        registry.register(
            "lateness_seconds",
            "Time from the tick to the start of its check",
            metrics.lateness.clone(),
        );
        registry.register(
            "check_duration_seconds",
            "Time from the start of a check to its outcome",
            metrics.duration.clone(),
        );
        Self(Arc::new(metrics))
    }

    /// Records a result. Lateness is recorded for scheduled checks and confirmations, not for
    /// ad-hoc checks.
    pub(crate) fn record_result(&self, result: &CheckResult) {
        let cause = result.cause.map_or("", |cause| cause.as_str());
        let labels = [("kind", result.kind.as_str()), ("outcome", result.outcome.as_str()), ("cause", cause)];
        self.checks.get_or_create(&labels).inc();
        if let Some(micros) = result.timing.total_us {
            self.duration.observe(Duration::from_micros(micros.into()).as_secs_f64());
        }
        if result.kind != Kind::Adhoc
            && let Some(lateness) = result.lateness()
        {
            self.lateness.observe(lateness.as_secs_f64());
        }
    }
}

/// Registers all metrics, with a series in each family, for the generated reference: an empty
/// family is not encoded. Labels without a fixed set of values get `placeholder`.
pub fn describe_metrics(health: &Health, region: &RegionName, placeholder: &'static str) {
    let metrics = Metrics::new(health, region);
    let _ = metrics.checks.get_or_create(&[
        ("kind", placeholder),
        ("outcome", placeholder),
        ("cause", placeholder),
    ]);
    JobClock::new(health, region);
}
