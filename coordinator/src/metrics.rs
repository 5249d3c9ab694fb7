//! Metrics of the coordinator.

use std::{sync::atomic::AtomicU64, time::Duration};

use picket_proto::{Cause, RegionName};
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

/// Label: reason for which a job was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct JobsLostLabel {
    /// `expired`, `fenced`, `refused` or `backlog`.
    pub(crate) cause: &'static str,
}

/// Label: cause of a missed tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MissedLabel {
    /// Cause as in the result row.
    pub(crate) cause: String,
}

/// Label: kind of a repaired mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RepairedLabel {
    /// `leases`, `gaps`, `rollups`, `schedules` or `results`.
    pub(crate) kind: String,
}

/// Label: region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RegionLabel {
    /// Name of the region.
    pub(crate) region: String,
}

/// Cheap to clone; all clones share the same metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) jobs_published: Counter,
    pub(crate) jobs_duplicate: Counter,
    pub(crate) publish_retries: Counter,
    pub(crate) jobs_lost: Family<JobsLostLabel, Counter>,
    pub(crate) lateness: Histogram,
    pub(crate) batch_jobs: Histogram,
    pub(crate) jobs_in_flight: Gauge,
    pub(crate) jobs_waiting: Family<RegionLabel, Gauge>,
    pub(crate) region_silent: Family<RegionLabel, Gauge>,
    pub(crate) schedules: Gauge,
    pub(crate) sites: Gauge,
    pub(crate) site_problems: Counter,
    pub(crate) patterns_compiled: Counter,
    pub(crate) leases_held: Gauge,
    pub(crate) leases_lost: Counter,
    pub(crate) shards_acquired: Counter,
    pub(crate) database_errors: Counter,
    pub(crate) clock_steps: Counter,
    pub(crate) clock_unconfirmed: Gauge,
    pub(crate) future_timestamps_repaired: Family<RepairedLabel, Counter>,
    pub(crate) deletion_refused: Gauge,
    pub(crate) confirmation_jobs: Counter,
    pub(crate) confirmations_rejected: Counter,
    pub(crate) confirmations_dropped: Counter,
    pub(crate) ticks_missed: Family<MissedLabel, Counter>,
    pub(crate) ledger_lag: Gauge<f64, AtomicU64>,
    pub(crate) ledger_close_duration: Histogram,
    pub(crate) results_waiting: Gauge,
    pub(crate) results_waiting_ratio: Gauge<f64, AtomicU64>,
    pub(crate) results_discarded: Counter,
    pub(crate) results_arrived: Family<RegionLabel, Counter>,
    pub(crate) jobs_stored_ratio: Gauge<f64, AtomicU64>,
    pub(crate) publishing_paused: Gauge,
    pub(crate) rolled_up_through: Gauge,
    pub(crate) site_summaries_waiting: Gauge,
    pub(crate) rollup_duration: Histogram,
    pub(crate) rollup_hours_rebuilt: Counter,
    pub(crate) partition_drops_deferred: Counter,
    pub(crate) oldest_snapshot_age_seconds: Gauge<f64, AtomicU64>,
    pub(crate) oldest_snapshot_age_transactions: Gauge,
}

impl Metrics {
    /// Creates and registers all metrics.
    pub(crate) fn new(health: &Health) -> Self {
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("coordinator");
        let metrics = Self {
            jobs_published: registry.add_metric("jobs_published", "Jobs acknowledged by the stream"),
            jobs_duplicate: registry
                .add_metric("jobs_duplicate", "Jobs that the stream dropped as duplicates"),
            publish_retries: registry
                .add_metric("publish_retries", "Jobs published again after a failure or timeout"),
            jobs_lost: registry.add_metric("jobs_lost", "Jobs dropped before they were published, by cause"),
            lateness: registry.add_histogram(
                "lateness_seconds",
                "Time from a tick to its publishing",
                exponential_buckets(0.001, 2.0, 16),
            ),
            batch_jobs: registry.add_histogram(
                "batch_jobs",
                "Jobs per published batch",
                exponential_buckets(1.0, 2.0, 9),
            ),
            jobs_in_flight: registry
                .add_metric("jobs_in_flight", "Jobs waiting for acknowledgement by the stream"),
            jobs_waiting: registry.add_metric(
                "jobs_waiting",
                "Jobs waiting for a prober, by region; updated every few seconds",
            ),
            region_silent: registry.add_metric(
                "region_silent",
                "1 if no prober of the region pulls, receives or acknowledges jobs, else 0; \
                 observed by each coordinator separately",
            ),
            schedules: registry.add_metric("schedules", "Schedules in the shards held"),
            sites: registry.add_metric("sites", "Sites in the shards held"),
            site_problems: registry.add_metric("site_problems", "Sites rejected by validation"),
            leases_held: registry.add_metric("leases_held", "Shards held by this coordinator"),
            leases_lost: registry.add_metric("leases_lost", "Shards lost, i.e. neither released nor renewed"),
            shards_acquired: registry.add_metric("shards_acquired", "Shards acquired"),
            database_errors: registry.add_metric("database_errors", "Failed database statements"),
            patterns_compiled: registry.add_metric(
                "patterns_compiled",
                "Regexes compiled because no coordinator had recorded them as valid",
            ),
            clock_steps: registry
                .add_metric("clock_steps", "Jumps of the database's clock that were followed"),
            clock_unconfirmed: registry.add_metric(
                "clock_unconfirmed",
                "1 while no second source confirms the database's clock, else 0",
            ),
            future_timestamps_repaired: registry.add_metric(
                "future_timestamps_repaired",
                "Timestamps in the future that were reset to now, and results in the future that \
                 were deleted, by kind",
            ),
            deletion_refused: registry.add_metric(
                "deletion_refused",
                "1 while retention is paused because clocks, timestamps and results disagree, else 0",
            ),
            confirmation_jobs: registry.add_metric("confirmation_jobs", "Confirming jobs after a failure"),
            confirmations_rejected: registry.add_metric(
                "confirmations_rejected",
                "Confirmation requests rejected as invalid or because the queue was full",
            ),
            confirmations_dropped: registry.add_metric(
                "confirmations_dropped",
                "Confirmations dropped because too many sites were suspected at once; their next \
                 ticks decide",
            ),
            ticks_missed: registry.add_metric(
                "ticks_missed",
                "Ticks without a result that the ledger recorded as missed, by cause",
            ),
            ledger_lag: registry.add_metric(
                "ledger_lag_seconds",
                "Age of the newest tick up to which all ticks are accounted for",
            ),
            ledger_close_duration: registry.add_histogram(
                "ledger_close_duration_seconds",
                "Time to close one chunk of the ledger",
                exponential_buckets(0.001, 4.0, 8),
            ),
            results_waiting: registry.add_metric(
                "results_waiting",
                "Messages in the results stream, of one or more results each, not acknowledged by \
                 a sink",
            ),
            results_waiting_ratio: registry.add_metric(
                "results_waiting_ratio",
                "Share of the results stream's capacity from the oldest unacknowledged message to \
                 the newest",
            ),
            results_discarded: registry.add_metric(
                "results_discarded",
                "Messages with results that left the stream before a sink acknowledged them; \
                 every coordinator counts the same messages",
            ),
            results_arrived: registry.add_metric(
                "results_arrived",
                "Messages with results by publishing region, counted only while at least a \
                 quarter of the stream waits for a sink; every coordinator counts the same \
                 messages",
            ),
            jobs_stored_ratio: registry.add_metric(
                "jobs_stored_ratio",
                "Used share of the jobs stream's capacity; at 1 each new job discards the oldest \
                 job of all regions",
            ),
            publishing_paused: registry.add_metric(
                "publishing_paused",
                "1 while publishing is paused because too many results wait for a sink, else 0",
            ),
            rolled_up_through: registry.add_metric(
                "rolled_up_through_timestamp_seconds",
                "Unix time up to which results are rolled up; 0 if another coordinator does it",
            ),
            site_summaries_waiting: registry.add_metric(
                "site_summaries_waiting",
                "Marks of sites whose summary waits to be computed again, at most 100000; every \
                 coordinator counts the same marks",
            ),
            rollup_duration: registry.add_histogram(
                "rollup_duration_seconds",
                "Time to roll up one chunk of results",
                exponential_buckets(0.01, 4.0, 8),
            ),
            rollup_hours_rebuilt: registry.add_metric(
                "rollup_hours_rebuilt",
                "Hours whose rollups were rebuilt because their results had changed",
            ),
            partition_drops_deferred: registry.add_metric(
                "partition_drops_deferred",
                "Deferred drops of expired results because the table was busy",
            ),
            oldest_snapshot_age_seconds: registry.add_metric(
                "oldest_snapshot_age_seconds",
                "Age of the oldest open transaction that blocks the removal of dead rows; NaN if \
                 the schema's owner lacks pg_read_all_stats",
            ),
            oldest_snapshot_age_transactions: registry.add_metric(
                "oldest_snapshot_age_transactions",
                "Age of the oldest open snapshot in transactions, including replicas and \
                 replication slots",
            ),
        };
        // Exports each known cause from zero; otherwise its first count would not show as an
        // increase.
        for cause in ["expired", "fenced", "refused", "backlog"] {
            let _ = metrics.jobs_lost.get_or_create(&JobsLostLabel { cause });
        }
        for mark in ["leases", "gaps", "rollups", "schedules", "results"] {
            let _ =
                metrics.future_timestamps_repaired.get_or_create(&RepairedLabel { kind: mark.to_owned() });
        }
        for cause in [Cause::NoProber, Cause::NotScheduled, Cause::ResultLate] {
            let _ = metrics.ticks_missed.get_or_create(&MissedLabel { cause: cause.as_str().to_owned() });
        }
        metrics
    }

    /// Sets the silence gauge of each of `regions`, the regions in use, and removes the series of
    /// regions no longer in use.
    pub(crate) fn set_silent_regions(
        &self,
        regions: &[RegionName],
        silent: &[(RegionName, Duration)],
        before: &mut Vec<RegionName>,
    ) {
        for gone in before.iter().filter(|region| !regions.contains(region)) {
            let gone = RegionLabel { region: gone.to_string() };
            self.region_silent.remove(&gone);
            self.jobs_waiting.remove(&gone);
        }
        for region in regions {
            let is_silent = silent.iter().any(|(name, _)| name == region);
            self.region_silent
                .get_or_create(&RegionLabel { region: region.to_string() })
                .set(i64::from(is_silent));
        }
        regions.clone_into(before);
    }
}

/// Registers all metrics with a series in each family, for the generated reference, because empty
/// families are not encoded. Labels without a fixed set of values get `placeholder`.
pub fn describe_metrics(health: &Health, placeholder: &str) {
    let metrics = Metrics::new(health);
    let region = RegionLabel { region: placeholder.to_owned() };
    for family in [&metrics.jobs_waiting, &metrics.region_silent] {
        let _ = family.get_or_create(&region);
    }
    let _ = metrics.results_arrived.get_or_create(&region);
}
