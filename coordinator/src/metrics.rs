//! What a coordinator counts.

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

/// Why a job was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobsLostLabel {
    /// `expired`, `fenced`, `refused` or `backlog`.
    pub cause: &'static str,
}

/// Why a tick was written down as missed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MissedLabel {
    /// As in the row.
    pub cause: String,
}

/// What was repaired.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepairedLabel {
    /// `leases`, `gaps`, `rollups` or `schedules`.
    pub mark: String,
}

/// Where jobs wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RegionLabel {
    /// The region's name.
    pub region: String,
}

/// Cheap to clone; all clones count together.
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
    /// Registers all of them.
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
        // From zero: the first one to come would be no increase of what was not there.
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
            "Jobs that the stream acknowledged",
            metrics.jobs_published.clone(),
        );
        registry.register(
            "jobs_duplicate",
            "Jobs that the stream had already",
            metrics.jobs_duplicate.clone(),
        );
        registry.register(
            "publish_retries",
            "Jobs that had to be published again",
            metrics.publish_retries.clone(),
        );
        registry.register("jobs_lost", "Jobs that were given up, by cause", metrics.jobs_lost.clone());
        registry.register("lateness_seconds", "From a tick to its publishing", metrics.lateness.clone());
        registry.register("batch_jobs", "Jobs published together", metrics.batch_jobs.clone());
        registry.register(
            "jobs_in_flight",
            "Jobs that wait for the stream's acknowledgement",
            metrics.jobs_in_flight.clone(),
        );
        registry.register(
            "jobs_waiting",
            "Jobs that wait for a prober, by region, as of the last few seconds",
            metrics.jobs_waiting.clone(),
        );
        registry.register(
            "region_silent",
            "1 while nobody asks for jobs in a region, takes one or acknowledges one, else 0; as each coordinator sees it",
            metrics.region_silent.clone(),
        );
        registry.register("schedules", "Schedules in the shards held", metrics.schedules.clone());
        registry.register("sites", "Sites in the shards held", metrics.sites.clone());
        registry.register(
            "site_problems",
            "Sites found that cannot be watched",
            metrics.site_problems.clone(),
        );
        registry.register(
            "patterns_compiled",
            "Regexes of sites that were compiled, since no coordinator had recorded them as valid",
            metrics.patterns_compiled.clone(),
        );
        registry.register("leases_held", "Shards held", metrics.leases_held.clone());
        registry.register("leases_lost", "Shards lost, not given back", metrics.leases_lost.clone());
        registry.register("shards_taken", "Shards taken", metrics.shards_acquired.clone());
        registry.register("database_errors", "Statements that failed", metrics.database_errors.clone());
        registry.register(
            "clock_steps",
            "Times that the database's clock jumped, and was followed",
            metrics.clock_steps.clone(),
        );
        registry.register(
            "clock_unconfirmed",
            "1 while the database's clock says what no second witness confirms, else 0",
            metrics.clock_unconfirmed.clone(),
        );
        registry.register(
            "marks_repaired",
            "Marks that lay in the future and were taken back to now, and results that were deleted there, by kind",
            metrics.marks_repaired.clone(),
        );
        registry.register(
            "deletion_refused",
            "1 while nothing is deleted for its age, since clocks, marks and results disagree, else 0",
            metrics.deletion_refused.clone(),
        );
        registry.register(
            "jobs_confirming",
            "Jobs that were to confirm a failure at once",
            metrics.confirmation_jobs.clone(),
        );
        registry.register(
            "suspects_refused",
            "Requests to confirm that could not be read, or were too many",
            metrics.confirmations_rejected.clone(),
        );
        registry.register(
            "suspects_dropped",
            "Suspected sites left to their next ticks, since more were suspected at once than are confirmed",
            metrics.confirmations_dropped.clone(),
        );
        registry.register(
            "ticks_missed",
            "Ticks without a row that the ledger wrote down as missed, by cause",
            metrics.ticks_missed.clone(),
        );
        registry.register(
            "ledger_behind_seconds",
            "How long ago the ticks were due up to which all are accounted for",
            metrics.ledger_behind.clone(),
        );
        registry.register(
            "ledger_seconds",
            "How long it took to close a piece of the ledger",
            metrics.ledger_seconds.clone(),
        );
        registry.register(
            "results_waiting",
            "Messages in the stream, of a result or several, that no sink has acknowledged",
            metrics.results_waiting.clone(),
        );
        registry.register(
            "results_waiting_ratio",
            "How much of what the stream of results may hold lies behind the oldest that no sink has acknowledged",
            metrics.results_waiting_ratio.clone(),
        );
        registry.register(
            "results_discarded",
            "Messages with results that left the stream before a sink had acknowledged them; every coordinator counts the same ones",
            metrics.results_discarded.clone(),
        );
        registry.register(
            "results_arrived",
            "Messages with results by the region that published them, counted only while a quarter of the stream or more waits for a sink; every coordinator counts the same ones",
            metrics.results_arrived.clone(),
        );
        registry.register(
            "jobs_stored_ratio",
            "How much of what the stream of jobs may hold is taken; at 1 the oldest job of all regions is discarded for each new one",
            metrics.jobs_stored_ratio.clone(),
        );
        registry.register(
            "planner_held_back",
            "Whether no jobs are published because too many results wait for a sink",
            metrics.publishing_paused.clone(),
        );
        registry.register(
            "rolled_through_seconds",
            "Up to when results are rolled up, in seconds since 1970; 0 where another coordinator does it",
            metrics.rolled_up_through.clone(),
        );
        registry.register(
            "rollup_seconds",
            "How long it took to roll a piece of results up",
            metrics.rollup_seconds.clone(),
        );
        registry.register(
            "rollup_hours_mended",
            "Hours whose rollups were done anew since their results had changed",
            metrics.rollup_hours_rebuilt.clone(),
        );
        registry.register(
            "drops_put_off",
            "Times that old results could not be dropped at once, since the table was busy",
            metrics.partition_drops_deferred.clone(),
        );
        registry.register(
            "oldest_snapshot_seconds",
            "Age of the oldest open transaction that holds up the removal of dead rows; NaN where the schema's owner lacks pg_read_all_stats",
            metrics.oldest_snapshot_seconds.clone(),
        );
        registry.register(
            "oldest_snapshot_transactions",
            "The same in transactions, with replicas and replication slots",
            metrics.oldest_snapshot_transactions.clone(),
        );
        metrics
    }

    /// Of `regions`, which are those in use, `silent` are. What is no longer in use is not spoken of.
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
