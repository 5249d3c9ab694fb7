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
pub struct JobsLostLabel {
    /// `expired`, `fenced`, `refused` or `backlog`.
    pub cause: &'static str,
}

/// Label: cause of a missed tick.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MissedLabel {
    /// Cause as in the result row.
    pub cause: String,
}

/// Label: kind of a repaired mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepairedLabel {
    /// `leases`, `gaps`, `rollups`, `schedules` or `results`.
    pub mark: String,
}

/// Label: region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RegionLabel {
    /// Name of the region.
    pub region: String,
}

/// Cheap to clone; all clones share the same metrics.
#[derive(Clone)]
pub struct Metrics {
    pub jobs_published: Counter,
    pub jobs_duplicate: Counter,
    pub publish_retries: Counter,
    pub jobs_lost: Family<JobsLostLabel, Counter>,
    pub lateness: Histogram,
    pub batch_jobs: Histogram,
    pub jobs_in_flight: Gauge,
    pub jobs_waiting: Family<RegionLabel, Gauge>,
    pub region_silent: Family<RegionLabel, Gauge>,
    pub schedules: Gauge,
    pub sites: Gauge,
    pub site_problems: Counter,
    pub patterns_compiled: Counter,
    pub leases_held: Gauge,
    pub leases_lost: Counter,
    pub shards_acquired: Counter,
    pub database_errors: Counter,
    pub clock_steps: Counter,
    pub clock_unconfirmed: Gauge,
    pub marks_repaired: Family<RepairedLabel, Counter>,
    pub deletion_refused: Gauge,
    pub confirmation_jobs: Counter,
    pub confirmations_rejected: Counter,
    pub confirmations_dropped: Counter,
    pub ticks_missed: Family<MissedLabel, Counter>,
    pub ledger_behind: Gauge<f64, AtomicU64>,
    pub ledger_seconds: Histogram,
    pub results_waiting: Gauge,
    pub results_waiting_ratio: Gauge<f64, AtomicU64>,
    pub results_discarded: Counter,
    pub results_arrived: Family<RegionLabel, Counter>,
    pub jobs_stored_ratio: Gauge<f64, AtomicU64>,
    pub publishing_paused: Gauge,
    pub rolled_up_through: Gauge,
    pub rollup_seconds: Histogram,
    pub rollup_hours_rebuilt: Counter,
    pub partition_drops_deferred: Counter,
    pub oldest_snapshot_seconds: Gauge<f64, AtomicU64>,
    pub oldest_snapshot_transactions: Gauge,
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new(health: &Health) -> Self {
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
            marks_repaired: Family::default(),
            deletion_refused: Gauge::default(),
            confirmation_jobs: Counter::default(),
            confirmations_rejected: Counter::default(),
            confirmations_dropped: Counter::default(),
            ticks_missed: Family::default(),
            ledger_behind: Gauge::default(),
            ledger_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            results_waiting: Gauge::default(),
            results_waiting_ratio: Gauge::default(),
            results_discarded: Counter::default(),
            results_arrived: Family::default(),
            jobs_stored_ratio: Gauge::default(),
            publishing_paused: Gauge::default(),
            rolled_up_through: Gauge::default(),
            rollup_seconds: Histogram::new(exponential_buckets(0.01, 4.0, 8)),
            rollup_hours_rebuilt: Counter::default(),
            partition_drops_deferred: Counter::default(),
            oldest_snapshot_seconds: Gauge::default(),
            oldest_snapshot_transactions: Gauge::default(),
        };
        // Exports each known cause from zero; otherwise its first count would not show as an
        // increase.
        for cause in ["expired", "fenced", "refused", "backlog"] {
            let _ = metrics.jobs_lost.get_or_create(&JobsLostLabel { cause });
        }
        for mark in ["leases", "gaps", "rollups", "schedules", "results"] {
            let _ = metrics.marks_repaired.get_or_create(&RepairedLabel { mark: mark.to_owned() });
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
        registry.register("shards_taken", "Shards acquired", metrics.shards_acquired.clone());
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
            "marks_repaired",
            "Marks in the future that were reset to now, and results in the future that were deleted, by kind",
            metrics.marks_repaired.clone(),
        );
        registry.register(
            "deletion_refused",
            "1 while retention is paused because clocks, marks and results disagree, else 0",
            metrics.deletion_refused.clone(),
        );
        registry.register(
            "jobs_confirming",
            "Confirming jobs after a failure",
            metrics.confirmation_jobs.clone(),
        );
        registry.register(
            "suspects_refused",
            "Confirmation requests rejected as invalid or because the queue was full",
            metrics.confirmations_rejected.clone(),
        );
        registry.register(
            "suspects_dropped",
            "Confirmations dropped because too many sites were suspected at once; their next ticks decide",
            metrics.confirmations_dropped.clone(),
        );
        registry.register(
            "ticks_missed",
            "Ticks without a result that the ledger recorded as missed, by cause",
            metrics.ticks_missed.clone(),
        );
        registry.register(
            "ledger_behind_seconds",
            "Age of the newest tick up to which all ticks are accounted for",
            metrics.ledger_behind.clone(),
        );
        registry.register(
            "ledger_seconds",
            "Time to close one chunk of the ledger",
            metrics.ledger_seconds.clone(),
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
            "planner_held_back",
            "1 while publishing is paused because too many results wait for a sink, else 0",
            metrics.publishing_paused.clone(),
        );
        registry.register(
            "rolled_through_seconds",
            "Unix time up to which results are rolled up; 0 if another coordinator does it",
            metrics.rolled_up_through.clone(),
        );
        registry.register(
            "rollup_seconds",
            "Time to roll up one chunk of results",
            metrics.rollup_seconds.clone(),
        );
        registry.register(
            "rollup_hours_mended",
            "Hours whose rollups were rebuilt because their results had changed",
            metrics.rollup_hours_rebuilt.clone(),
        );
        registry.register(
            "drops_put_off",
            "Deferred drops of expired results because the table was busy",
            metrics.partition_drops_deferred.clone(),
        );
        registry.register(
            "oldest_snapshot_seconds",
            "Age of the oldest open transaction that blocks the removal of dead rows; NaN if the schema's owner lacks pg_read_all_stats",
            metrics.oldest_snapshot_seconds.clone(),
        );
        registry.register(
            "oldest_snapshot_transactions",
            "Age of the oldest open snapshot in transactions, including replicas and replication slots",
            metrics.oldest_snapshot_transactions.clone(),
        );
        metrics
    }

    /// Sets the silence gauge of each of `regions`, the regions in use, and removes the series of
    /// regions no longer in use.
    pub fn set_silent_regions(
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
