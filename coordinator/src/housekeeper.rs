//! Keeps the database in shape: rolls results up once their ledger is closed, and throws away what is too old.
//!
//! Every coordinator tries, and the database lets one at a time. Bound: one statement at a time, over a piece of time that is
//! smaller when it was slow; what there is to catch up with takes half of the time at most. Loss: none, since how far
//! things are is in the database.

use std::time::Duration;

use picket_runtime::ErrorChain;
use picket_store::{
    Error, Store,
    housekeeping::{self, Retention},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    adaptive_chunk::AdaptiveChunk,
    metrics::{Metrics, RepairedLabel},
    shared_clock::SharedClock,
};

pub enum Msg {
    /// Time to look.
    RunHousekeeping,
}

/// See the module.
#[derive(Clone)]
pub struct Housekeeper {
    pub store: Store,
    pub clock: SharedClock,
    pub retention: Retention,
    pub metrics: Metrics,
}

/// How things stand.
pub struct HousekeeperState {
    chunk: AdaptiveChunk,
    rounds: u64,
    is_failure_reported: bool,
    /// That nothing is deleted, as the log has it, and whether only because it is too early to.
    last_refusal: Option<bool>,
    /// Whether schedules may lie in the future: at the start, and after the clock was in doubt.
    should_check_all_marks: bool,
}

/// Between rounds.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);
/// Rows that are not rolled up yet are read by every report; with pieces much smaller each row of the rollups would be
/// rewritten too often.
const MAX_CHUNK_SPAN: Duration = Duration::from_secs(1_200);
const MIN_CHUNK_SPAN: Duration = Duration::from_secs(60);
/// A piece that takes longer is too large.
const SLOW_THRESHOLD: Duration = Duration::from_secs(10);
/// One of the last hours is counted again every ten minutes: each of them twice a day.
const RECOUNT_ROUNDS: u64 = 60;
const RECOUNT_HOURS: u64 = 72;
/// What is too old is looked for every minute.
const PRUNE_ROUNDS: u64 = 6;

impl Actor for Housekeeper {
    type Msg = Msg;
    type State = HousekeeperState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<HousekeeperState, ActorProcessingErr> {
        myself.send_after(HOUSEKEEPING_INTERVAL / 10, || Msg::RunHousekeeping);
        let piece = AdaptiveChunk::new(
            MAX_CHUNK_SPAN,
            MIN_CHUNK_SPAN,
            MAX_CHUNK_SPAN,
            SLOW_THRESHOLD,
            SLOW_THRESHOLD / 4,
        );
        Ok(HousekeeperState {
            chunk: piece,
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
        standing: &mut HousekeeperState,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.run_housekeeping(standing).await {
            Ok(more) => {
                standing.is_failure_reported = false;
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut standing.is_failure_reported, true) {
                    warn!(error = %ErrorChain(&error), "rollups and retention could not be kept up, trying again");
                }
                false
            }
        };
        let pause = if more { began.elapsed().min(HOUSEKEEPING_INTERVAL) } else { HOUSEKEEPING_INTERVAL };
        if !more {
            standing.rounds += 1;
        }
        myself.send_after(pause, || Msg::RunHousekeeping);
        Ok(())
    }
}

impl Housekeeper {
    /// One piece of each; says whether there is more to catch up with.
    async fn run_housekeeping(&self, standing: &mut HousekeeperState) -> Result<bool, Error> {
        // First, since an old snapshot may be why the rest fails.
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
                standing.should_check_all_marks = true;
                self.report_refusal(standing, Some(why));
                return Ok(false);
            }
        };
        let began = Instant::now();
        let rolled = housekeeping::roll_up_results(&self.store, now, standing.chunk.current_size()).await?;
        let took = began.elapsed();
        if let Some(through) = rolled {
            self.metrics.rollup_duration.observe(took.as_secs_f64());
            self.metrics.rolled_up_through.set(through.as_micros() / 1_000_000);
        }
        standing.chunk.record_duration(took);
        // Each takes the time anew: the one before may have taken minutes.
        let mended =
            housekeeping::rebuild_dirty_hour(&self.store, now.saturating_add(began.elapsed())).await?;
        let day = housekeeping::roll_up_day(&self.store, now.saturating_add(began.elapsed())).await?;
        if let Some(hour) = mended {
            self.metrics.rollup_hours_rebuilt.inc();
            info!(%hour, "the rollups of an hour whose results have changed were done anew");
        }
        if standing.rounds.is_multiple_of(RECOUNT_ROUNDS) {
            let ago = 1 + standing.rounds / RECOUNT_ROUNDS % RECOUNT_HOURS;
            housekeeping::recount_hour(
                &self.store,
                now.saturating_add(began.elapsed()),
                i32::try_from(ago).unwrap_or(1),
            )
            .await?;
        }
        let mut more = rolled.is_some() || mended.is_some() || day.is_some();
        let is_due = standing.rounds.is_multiple_of(PRUNE_ROUNDS);
        if is_due || standing.should_check_all_marks {
            more |= self.repair_marks(standing).await?;
        }
        if is_due {
            more |= self.prune_expired(standing).await?;
        }
        Ok(more)
    }

    /// Takes marks that lie in the future back to now, and deletes results that lie there; says whether there may be more of these.
    async fn repair_marks(&self, standing: &mut HousekeeperState) -> Result<bool, Error> {
        let Ok(now) = self.clock.database_now() else { return Ok(false) };
        let repaired =
            housekeeping::repair_future_marks(&self.store, now, standing.should_check_all_marks).await?;
        standing.should_check_all_marks = false;
        for (mark, number) in repaired {
            warn!(
                mark,
                number,
                "{number} {mark} lay in the future, since the database's clock was ahead: taken back to now"
            );
            self.metrics
                .future_timestamps_repaired
                .get_or_create(&RepairedLabel { kind: mark })
                .inc_by(number.unsigned_abs());
        }
        // What is deleted cannot be had back: other clocks have to say the same.
        let Ok(now) = self.clock.agreed_now(SharedClock::REPAIR_TOLERANCE) else { return Ok(false) };
        let deleted = housekeeping::delete_future_results(&self.store, now).await?;
        if deleted > 0 {
            warn!(
                deleted,
                "{deleted} results were of ticks that are still to come, since the database's clock was ahead: deleted, so that \
                 their checks count when they are due"
            );
            let mark = "results".to_owned();
            self.metrics
                .future_timestamps_repaired
                .get_or_create(&RepairedLabel { kind: mark })
                .inc_by(deleted);
        }
        Ok(deleted >= housekeeping::MAX_FUTURE_ROWS.unsigned_abs().into())
    }

    /// Deletes what is too old; says whether there may be more.
    async fn prune_expired(&self, standing: &mut HousekeeperState) -> Result<bool, Error> {
        let now = match self.clock.agreed_now(SharedClock::RETENTION_TOLERANCE) {
            Ok(now) => now,
            Err(why) => {
                self.report_refusal(standing, Some(why));
                return Ok(false);
            }
        };
        match housekeeping::prune_expired(&self.store, now, self.retention).await {
            Ok(dropped) => {
                if let Some(day) = dropped.dropped_day {
                    info!(%day, "dropped the results of {day}");
                }
                if let Some(month) = dropped.dropped_month {
                    info!(%month, "dropped the hourly rollups of the month from {month}");
                }
                let more = dropped.has_pruned_any();
                self.report_refusal(standing, dropped.refusal_reason);
                Ok(more)
            }
            // Somebody reads a long report; the next minute will do.
            Err(error) if error.is_transient() => {
                self.metrics.partition_drops_deferred.inc();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says once why nothing is deleted for its age, and when it is again.
    fn report_refusal(&self, standing: &mut HousekeeperState, why: Option<String>) {
        self.metrics.deletion_refused.set(i64::from(why.is_some()));
        let refused = why.as_deref().map(housekeeping::is_too_early);
        if std::mem::replace(&mut standing.last_refusal, refused) == refused {
            return;
        }
        match why {
            Some(why) if refused == Some(true) => info!(why, "nothing is deleted for its age yet: {why}"),
            Some(why) => error!(why, "nothing is deleted for its age: {why}"),
            None => info!("what is too old is deleted again: clocks, marks and results agree"),
        }
    }
}
