//! Prometheus metrics of a prober.

use std::{ops::Deref, sync::Arc, time::Duration};

use picket_proto::{CheckKind, CheckResult, RegionName};
use picket_runtime::{AddMetric, Health};
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
    pub(crate) tls_configs_cached: Gauge,
    pub(crate) secrets: Gauge,
    pub(crate) secrets_refused: Counter,
    lateness: Histogram,
    duration: Histogram,
}

impl Metrics {
    /// Registers the metrics of a prober in `region`. Probers of different regions may share one
    /// registry.
    pub(crate) fn new(health: &Health, region: &RegionName) -> Self {
        let seconds = || exponential_buckets(0.001, 2.0, 17);
        let mut registry = health.registry();
        let registry = registry
            .sub_registry_with_prefix("prober")
            .sub_registry_with_label(("region".into(), region.to_string().into()));
        let metrics = MetricSet {
            checks: registry.add_metric("checks", "Finished checks by kind, outcome and cause"),
            checks_running: registry.add_metric(
                "checks_running",
                "Running checks of all kinds, including checks whose result is not stored yet",
            ),
            adhoc_checks_running: registry.add_metric(
                "adhoc_checks_running",
                "Running ad-hoc checks; included in checks_running, occupy no slot",
            ),
            slots: registry.add_metric(
                "slots",
                "Maximum concurrent queued checks (PICKET_CONCURRENCY); must exceed ticks per \
                 second times seconds per check",
            ),
            slots_free: registry.add_metric("slots_free", "Free slots for queued checks"),
            jobs_pulled: registry.add_metric("jobs_pulled", "Jobs pulled from the stream"),
            pull_errors: registry
                .add_metric("pull_errors", "Failures of pulling jobs, each followed by a retry"),
            adhoc_requests_rejected: registry.add_metric(
                "adhoc_requests_rejected",
                "Ad-hoc requests rejected because too many were running",
            ),
            rejected: registry.add_metric("invalid_messages", "Invalid jobs and requests"),
            results_published: registry.add_metric("results_published", "Results acknowledged by the stream"),
            publish_retries: registry.add_metric("publish_retries", "Repeated publishes of results"),
            results_lost: registry.add_metric("results_lost", "Results not stored in the stream in time"),
            scheduling_delay: registry.add_histogram(
                "scheduling_delay_seconds",
                "Scheduling delay of this prober's tasks; a check delayed by more than \
                 PICKET_MAX_DRIFT is missed/overloaded",
                seconds(),
            ),
            stalls: registry.add_metric("stalls", "Scheduling delays above PICKET_MAX_DRIFT"),
            checks_waiting: registry
                .add_metric("checks_waiting", "Checks waiting for a busy host (PICKET_PER_HOST)"),
            host_wait: registry.add_histogram(
                "host_wait_seconds",
                "Time that checks waited for a busy host",
                seconds(),
            ),
            host_rejections: registry.add_metric(
                "host_rejections",
                "Checks missed because the wait queue was full, or expired while waiting for a \
                 busy host",
            ),
            confirmations_waiting: registry
                .add_metric("confirmations_waiting", "Confirmations waiting for a busy host or for a permit"),
            confirmations_rejected: registry.add_metric(
                "confirmations_rejected",
                "Confirmations missed because the wait queue was full, or expired while waiting; \
                 the next tick of the site decides instead",
            ),
            offline: registry.add_metric("offline", "1 while no canary responds and no jobs are pulled"),
            canary_rounds: registry.add_metric("canary_rounds", "Rounds of canary checks"),
            lookups_running: registry.add_metric(
                "lookups_running",
                "Threads blocked in the system's resolver, including lookups of checks that have \
                 timed out (at most 256)",
            ),
            tls_configs_cached: registry.add_metric(
                "tls_configs_cached",
                "Cached TLS configurations of checks with a client certificate, a certificate \
                 authority or an HTTP version of their own (at most 64)",
            ),
            secrets: registry.add_metric("secrets", "Entries of the secrets file in use"),
            secrets_refused: registry.add_metric(
                "secrets_files_refused",
                "Changes of the secrets file that were refused; the previous content stays in use",
            ),
            lateness: registry.add_histogram(
                "lateness_seconds",
                "Time from the tick to the start of its check",
                seconds(),
            ),
            duration: registry.add_histogram(
                "check_duration_seconds",
                "Time from the start of a check to its outcome",
                seconds(),
            ),
        };
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
        if result.kind != CheckKind::Adhoc
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
