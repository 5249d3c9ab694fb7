//! Housekeeping of the database: rolls up results once their ledger is closed, and applies the
//! retention.
//!
//! Every coordinator tries, and the database admits one at a time. Bound: one statement at a time,
//! over a chunk of time that shrinks after a slow statement; catching up takes at most half of the
//! time. Loss: none, because progress is stored in the database.

use std::time::Duration;

use picket_proto::Timestamp;
use picket_runtime::ErrorChain;
use picket_store::{Error, Store, housekeeping, settings::SharedSettings};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    adaptive_chunk::AdaptiveChunk,
    metrics::{Metrics, RepairedLabel},
    shared_clock::SharedClock,
};

pub(crate) enum Msg {
    /// Run one round of housekeeping.
    RunHousekeeping,
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct Housekeeper {
    pub(crate) store: Store,
    pub(crate) clock: SharedClock,
    pub(crate) settings: SharedSettings,
    pub(crate) metrics: Metrics,
}

/// State of the housekeeper.
pub(crate) struct HousekeeperState {
    chunk: AdaptiveChunk,
    /// Number of sites whose summary one statement refreshes.
    refreshed_sites: AdaptiveChunk<u32>,
    rounds: u64,
    is_failure_reported: bool,
    /// Last refusal logged: `Some(true)` if only too early to delete, `Some(false)` for other
    /// reasons, `None` if deletion runs.
    last_refusal: Option<bool>,
    /// True if marks of schedules may lie in the future: at the start, and after doubt about the
    /// clock.
    should_check_all_marks: bool,
}

/// Pause between rounds.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time span of a rollup chunk. Every report reads results that are not rolled up yet, so
/// chunks must not be larger; much smaller chunks would rewrite each rollup row too often.
const MAX_CHUNK_SPAN: Duration = Duration::from_secs(1_200);
const MIN_CHUNK_SPAN: Duration = Duration::from_secs(60);
/// A statement slower than this halves the chunk.
const SLOW_THRESHOLD: Duration = Duration::from_secs(10);
/// Sites of each kind that one refresh of summaries handles.
const REFRESHED_SITES: u32 = 500;
const MIN_REFRESHED_SITES: u32 = 10;
const MAX_REFRESHED_SITES: u32 = 2_000;
/// A refresh slower than this handles half as many sites the next time, since rollups wait for it.
const SLOW_REFRESH: Duration = Duration::from_secs(2);
/// One of the last 72 hours is recounted every ten minutes, i.e. each of them twice a day.
const RECOUNT_ROUNDS: u64 = 60;
const RECOUNT_HOURS: u64 = 72;
/// Expired data is deleted every minute.
const PRUNE_ROUNDS: u64 = 6;

impl Actor for Housekeeper {
    type Msg = Msg;
    type State = HousekeeperState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<HousekeeperState, ActorProcessingErr> {
        myself.send_after(HOUSEKEEPING_INTERVAL / 10, || Msg::RunHousekeeping);
        let chunk = AdaptiveChunk::new(
            MAX_CHUNK_SPAN,
            MIN_CHUNK_SPAN,
            MAX_CHUNK_SPAN,
            SLOW_THRESHOLD,
            SLOW_THRESHOLD / 4,
        );
        let refreshed_sites = AdaptiveChunk::new(
            REFRESHED_SITES,
            MIN_REFRESHED_SITES,
            MAX_REFRESHED_SITES,
            SLOW_REFRESH,
            SLOW_REFRESH / 8,
        );
        Ok(HousekeeperState {
            chunk,
            refreshed_sites,
            rounds: 0,
            is_failure_reported: false,
            last_refusal: None,
            should_check_all_marks: true,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::RunHousekeeping: Msg,
        state: &mut HousekeeperState,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.run_housekeeping(state).await {
            Ok(more) => {
                state.is_failure_reported = false;
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut state.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&error), "housekeeping failed, retrying");
                }
                false
            }
        };
        // Catching up takes at most half of the time.
        let pause = if more { began.elapsed().min(HOUSEKEEPING_INTERVAL) } else { HOUSEKEEPING_INTERVAL };
        if !more {
            state.rounds += 1;
        }
        myself.send_after(pause, || Msg::RunHousekeeping);
        Ok(())
    }
}

impl Housekeeper {
    /// Processes one chunk of each task. Returns true if there is more to catch up.
    async fn run_housekeeping(&self, state: &mut HousekeeperState) -> Result<bool, Error> {
        // First, because an old snapshot may be the reason why the rest fails.
        match housekeeping::find_oldest_snapshot(&self.store).await? {
            Some(oldest) => {
                self.metrics.oldest_snapshot_age_seconds.set(oldest.seconds);
                self.metrics.oldest_snapshot_age_transactions.set(oldest.transactions);
            }
            None => {
                self.metrics.oldest_snapshot_age_seconds.set(f64::NAN);
            }
        }
        if !self.clock.is_known() {
            return Ok(false);
        }
        let now = match self.clock.database_now() {
            Ok(now) => now,
            Err(why) => {
                state.should_check_all_marks = true;
                self.report_refusal(state, Some(why));
                return Ok(false);
            }
        };
        // First, so that a failing rollup delays no site's state; and a failing refresh delays no rollup.
        let refreshing = Instant::now();
        let refreshed = self.refresh_summaries(state, now).await;
        let now = now.saturating_add(refreshing.elapsed());
        let began = Instant::now();
        let rolled = housekeeping::roll_up_results(&self.store, now, state.chunk.current_size()).await?;
        let took = began.elapsed();
        if let Some(through) = rolled {
            self.metrics.rollup_duration.observe(took.as_secs_f64());
            self.metrics.rolled_up_through.set(through.as_micros() / 1_000_000);
        }
        state.chunk.record_duration(took);
        // Each statement computes the time again, because the previous one may have taken minutes.
        let rebuilt =
            housekeeping::rebuild_dirty_hour(&self.store, now.saturating_add(began.elapsed())).await?;
        let day = housekeeping::roll_up_day(&self.store, now.saturating_add(began.elapsed())).await?;
        if let Some(hour) = rebuilt {
            self.metrics.rollup_hours_rebuilt.inc();
            info!(%hour, "rebuilt the rollups of an hour whose results had changed");
        }
        if state.rounds.is_multiple_of(RECOUNT_ROUNDS) {
            let ago = 1 + state.rounds / RECOUNT_ROUNDS % RECOUNT_HOURS;
            housekeeping::recount_hour(
                &self.store,
                now.saturating_add(began.elapsed()),
                i32::try_from(ago).unwrap_or(1),
            )
            .await?;
        }
        let mut more = rolled.is_some() || rebuilt.is_some() || day.is_some();
        let is_due = state.rounds.is_multiple_of(PRUNE_ROUNDS);
        if is_due || state.should_check_all_marks {
            more |= self.repair_marks(state).await?;
        }
        if is_due {
            more |= self.prune_expired(state).await?;
        }
        Ok(refreshed? | more)
    }

    /// Refreshes the summaries of some sites. Returns true if there are more.
    async fn refresh_summaries(&self, state: &mut HousekeeperState, now: Timestamp) -> Result<bool, Error> {
        let began = Instant::now();
        let max_sites = state.refreshed_sites.current_size();
        let refreshed = housekeeping::refresh_site_summaries(&self.store, now, max_sites).await;
        state.refreshed_sites.record_duration(began.elapsed());
        self.metrics.site_summaries_waiting.set(housekeeping::count_waiting_summaries(&self.store).await?);
        refreshed
    }

    /// Resets marks in the future to now, and deletes results in the future. Returns true if there
    /// may be more such results.
    async fn repair_marks(&self, state: &mut HousekeeperState) -> Result<bool, Error> {
        let Ok(now) = self.clock.database_now() else { return Ok(false) };
        let repaired =
            housekeeping::repair_future_marks(&self.store, now, state.should_check_all_marks).await?;
        state.should_check_all_marks = false;
        for (mark, number) in repaired {
            warn!(mark, number, "reset marks in the future to now; the database clock had been ahead");
            self.metrics
                .future_timestamps_repaired
                .get_or_create(&RepairedLabel { kind: mark })
                .inc_by(number.unsigned_abs());
        }
        // Deletion is irreversible, so other clocks must agree.
        let Ok(now) = self.clock.agreed_now(SharedClock::REPAIR_TOLERANCE) else { return Ok(false) };
        let deleted = housekeeping::delete_future_results(&self.store, now).await?;
        if deleted > 0 {
            warn!(
                deleted,
                "deleted results of future ticks, so that their checks count when they are due; the database \
                 clock had been ahead"
            );
            let mark = "results".to_owned();
            self.metrics
                .future_timestamps_repaired
                .get_or_create(&RepairedLabel { kind: mark })
                .inc_by(deleted);
        }
        Ok(deleted >= housekeeping::MAX_FUTURE_ROWS.unsigned_abs().into())
    }

    /// Deletes expired data. Returns true if there may be more.
    async fn prune_expired(&self, state: &mut HousekeeperState) -> Result<bool, Error> {
        let now = match self.clock.agreed_now(SharedClock::RETENTION_TOLERANCE) {
            Ok(now) => now,
            Err(why) => {
                self.report_refusal(state, Some(why));
                return Ok(false);
            }
        };
        let retention = self.settings.current().retention;
        match housekeeping::prune_expired(&self.store, now, retention).await {
            Ok(dropped) => {
                if let Some(day) = dropped.dropped_day {
                    info!(%day, "dropped a day of results");
                }
                if let Some(month) = dropped.dropped_month {
                    info!(%month, "dropped a month of hourly rollups");
                }
                let more = dropped.has_pruned_any();
                self.report_refusal(state, dropped.refusal_reason);
                Ok(more)
            }
            // A long report is being read; retry in the next minute.
            Err(error) if error.is_transient() => {
                self.metrics.partition_drops_deferred.inc();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Logs the reason of a refused retention once, and once when retention resumes.
    fn report_refusal(&self, state: &mut HousekeeperState, why: Option<String>) {
        self.metrics.deletion_refused.set(i64::from(why.is_some()));
        let refused = why.as_deref().map(housekeeping::is_too_early);
        if std::mem::replace(&mut state.last_refusal, refused) == refused {
            return;
        }
        match why {
            Some(why) if refused == Some(true) => info!(reason = why, "retention has not started yet"),
            Some(why) => error!(reason = why, "retention paused"),
            None => info!("retention resumed: clocks, marks and results agree"),
        }
    }
}
