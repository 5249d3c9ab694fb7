//! Metrics of the coordinator.

use std::{sync::atomic::AtomicU64, time::Duration};

use picket_proto::{Cause, RegionName};
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
    pub(crate) rollup_duration: Histogram,
    pub(crate) rollup_hours_rebuilt: Counter,
    pub(crate) partition_drops_deferred: Counter,
    pub(crate) oldest_snapshot_age_seconds: Gauge<f64, AtomicU64>,
    pub(crate) oldest_snapshot_age_transactions: Gauge,
}

impl Metrics {
    /// Creates and registers all metrics.
    pub(crate) fn new(health: &Health) -> Self {
        let metrics = Self {
            jobs_published: Counter::default(),
            jobs_duplicate: Counter::default(),
            publish_retries: Counter::default(),
            jobs_lost: Family::default(),
            lateness: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            batch_jobs: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            jobs_in_flight: Gauge::default(),
            jobs_waiting: Family::default(),
            region_silent: Family::default(),
            schedules: Gauge::default(),
            sites: Gauge::default(),
            site_problems: Counter::default(),
            patterns_compiled: Counter::default(),
            leases_held: Gauge::default(),
            leases_lost: Counter::default(),
            shards_acquired: Counter::default(),
            database_errors: Counter::default(),
            clock_steps: Counter::default(),
            clock_unconfirmed: Gauge::default(),
            future_timestamps_repaired: Family::default(),
            deletion_refused: Gauge::default(),
            confirmation_jobs: Counter::default(),
            confirmations_rejected: Counter::default(),
            confirmations_dropped: Counter::default(),
            ticks_missed: Family::default(),
            ledger_lag: Gauge::default(),
            ledger_close_duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            results_waiting: Gauge::default(),
            results_waiting_ratio: Gauge::default(),
            results_discarded: Counter::default(),
            results_arrived: Family::default(),
            jobs_stored_ratio: Gauge::default(),
            publishing_paused: Gauge::default(),
            rolled_up_through: Gauge::default(),
            rollup_duration: Histogram::new(exponential_buckets(0.01, 4.0, 8)),
            rollup_hours_rebuilt: Counter::default(),
            partition_drops_deferred: Counter::default(),
            oldest_snapshot_age_seconds: Gauge::default(),
            oldest_snapshot_age_transactions: Gauge::default(),
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
        let mut registry = health.registry();
        let registry = registry.sub_registry_with_prefix("coordinator");
        registry.register(
            "jobs_published",
            "Jobs acknowledged by the stream",
            metrics.jobs_published.clone(),
        );
        registry.register(
            "jobs_duplicate",
            "Jobs that the stream dropped as duplicates",
            metrics.jobs_duplicate.clone(),
        );
        registry.register(
            "publish_retries",
            "Jobs published again after a failure or timeout",
            metrics.publish_retries.clone(),
        );
        registry.register(
            "jobs_lost",
            "Jobs dropped before they were published, by cause",
            metrics.jobs_lost.clone(),
        );
        registry.register("lateness_seconds", "Time from a tick to its publishing", metrics.lateness.clone());
        registry.register("batch_jobs", "Jobs per published batch", metrics.batch_jobs.clone());
        registry.register(
            "jobs_in_flight",
            "Jobs waiting for acknowledgement by the stream",
            metrics.jobs_in_flight.clone(),
        );
        registry.register(
            "jobs_waiting",
            "Jobs waiting for a prober, by region; updated every few seconds",
            metrics.jobs_waiting.clone(),
        );
        registry.register(
            "region_silent",
            "1 if no prober of the region pulls, receives or acknowledges jobs, else 0; observed by each coordinator separately",
            metrics.region_silent.clone(),
        );
        registry.register("schedules", "Schedules in the shards held", metrics.schedules.clone());
        registry.register("sites", "Sites in the shards held", metrics.sites.clone());
        registry.register("site_problems", "Sites rejected by validation", metrics.site_problems.clone());
        registry.register("leases_held", "Shards held by this coordinator", metrics.leases_held.clone());
        registry.register(
            "leases_lost",
            "Shards lost, i.e. neither released nor renewed",
            metrics.leases_lost.clone(),
        );
        registry.register("shards_acquired", "Shards acquired", metrics.shards_acquired.clone());
        registry.register("database_errors", "Failed database statements", metrics.database_errors.clone());
        registry.register(
            "patterns_compiled",
            "Regexes compiled because no coordinator had recorded them as valid",
            metrics.patterns_compiled.clone(),
        );
        registry.register(
            "clock_steps",
            "Jumps of the database's clock that were followed",
            metrics.clock_steps.clone(),
        );
        registry.register(
            "clock_unconfirmed",
            "1 while no second source confirms the database's clock, else 0",
            metrics.clock_unconfirmed.clone(),
        );
        registry.register(
            "future_timestamps_repaired",
            "Timestamps in the future that were reset to now, and results in the future that were deleted, by kind",
            metrics.future_timestamps_repaired.clone(),
        );
        registry.register(
            "deletion_refused",
            "1 while retention is paused because clocks, timestamps and results disagree, else 0",
            metrics.deletion_refused.clone(),
        );
        registry.register(
            "confirmation_jobs",
            "Confirming jobs after a failure",
            metrics.confirmation_jobs.clone(),
        );
        registry.register(
            "confirmations_rejected",
            "Confirmation requests rejected as invalid or because the queue was full",
            metrics.confirmations_rejected.clone(),
        );
        registry.register(
            "confirmations_dropped",
            "Confirmations dropped because too many sites were suspected at once; their next ticks decide",
            metrics.confirmations_dropped.clone(),
        );
        registry.register(
            "ticks_missed",
            "Ticks without a result that the ledger recorded as missed, by cause",
            metrics.ticks_missed.clone(),
        );
        registry.register(
            "ledger_lag_seconds",
            "Age of the newest tick up to which all ticks are accounted for",
            metrics.ledger_lag.clone(),
        );
        registry.register(
            "ledger_close_duration_seconds",
            "Time to close one chunk of the ledger",
            metrics.ledger_close_duration.clone(),
        );
        registry.register(
            "results_waiting",
            "Messages in the results stream, of one or more results each, not acknowledged by a sink",
            metrics.results_waiting.clone(),
        );
        registry.register(
            "results_waiting_ratio",
            "Share of the results stream's capacity from the oldest unacknowledged message to the newest",
            metrics.results_waiting_ratio.clone(),
        );
        registry.register(
            "results_discarded",
            "Messages with results that left the stream before a sink acknowledged them; every coordinator counts the same messages",
            metrics.results_discarded.clone(),
        );
        registry.register(
            "results_arrived",
            "Messages with results by publishing region, counted only while at least a quarter of the stream waits for a sink; every coordinator counts the same messages",
            metrics.results_arrived.clone(),
        );
        registry.register(
            "jobs_stored_ratio",
            "Used share of the jobs stream's capacity; at 1 each new job discards the oldest job of all regions",
            metrics.jobs_stored_ratio.clone(),
        );
        registry.register(
            "publishing_paused",
            "1 while publishing is paused because too many results wait for a sink, else 0",
            metrics.publishing_paused.clone(),
        );
        registry.register(
            "rolled_up_through_timestamp_seconds",
            "Unix time up to which results are rolled up; 0 if another coordinator does it",
            metrics.rolled_up_through.clone(),
        );
        registry.register(
            "rollup_duration_seconds",
            "Time to roll up one chunk of results",
            metrics.rollup_duration.clone(),
        );
        registry.register(
            "rollup_hours_rebuilt",
            "Hours whose rollups were rebuilt because their results had changed",
            metrics.rollup_hours_rebuilt.clone(),
        );
        registry.register(
            "partition_drops_deferred",
            "Deferred drops of expired results because the table was busy",
            metrics.partition_drops_deferred.clone(),
        );
        registry.register(
            "oldest_snapshot_age_seconds",
            "Age of the oldest open transaction that blocks the removal of dead rows; NaN if the schema's owner lacks pg_read_all_stats",
            metrics.oldest_snapshot_age_seconds.clone(),
        );
        registry.register(
            "oldest_snapshot_age_transactions",
            "Age of the oldest open snapshot in transactions, including replicas and replication slots",
            metrics.oldest_snapshot_age_transactions.clone(),
        );
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
