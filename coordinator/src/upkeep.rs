//! Keeps the database in shape: rolls results up once their ledger is closed, and throws away what is too old.
//!
//! Every coordinator tries, and the database lets one at a time. Bound: one statement at a time, over a piece of time that is
//! smaller when it was slow; what there is to catch up with takes half of the time at most. Loss: none, since how far
//! things are is in the database.

use std::time::Duration;

use picket_runtime::Chain;
use picket_store::{
    Error, Store,
    upkeep::{self, Retention},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    clock::SharedClock,
    metrics::{Metrics, Repaired},
    piece::Piece,
};

pub enum Msg {
    /// Time to look.
    Round,
}

/// See the module.
#[derive(Clone)]
pub struct Upkeep {
    pub store: Store,
    pub clock: SharedClock,
    pub retention: Retention,
    pub metrics: Metrics,
}

/// How things stand.
pub struct Standing {
    piece: Piece,
    rounds: u64,
    told: bool,
    /// That nothing is deleted, as the log has it, and whether only because it is too early to.
    refused: Option<bool>,
    /// Whether schedules may lie in the future: at the start, and after the clock was in doubt.
    thoroughly: bool,
}

/// Between rounds.
const ROUND: Duration = Duration::from_secs(10);
/// Rows that are not rolled up yet are read by every report; with pieces much smaller each row of the rollups would be
/// rewritten too often.
const PIECE: Duration = Duration::from_secs(1_200);
const LEAST_PIECE: Duration = Duration::from_secs(60);
/// A piece that takes longer is too large.
const SLOW: Duration = Duration::from_secs(10);
/// One of the last hours is counted again every ten minutes: each of them twice a day.
const RECOUNT_ROUNDS: u64 = 60;
const RECOUNTED_HOURS: u64 = 72;
/// What is too old is looked for every minute.
const EXPIRE_ROUNDS: u64 = 6;

impl Actor for Upkeep {
    type Msg = Msg;
    type State = Standing;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Standing, ActorProcessingErr> {
        myself.send_after(ROUND / 10, || Msg::Round);
        let piece = Piece::new(PIECE, LEAST_PIECE, PIECE, SLOW, SLOW / 4);
        Ok(Standing { piece, rounds: 0, told: false, refused: None, thoroughly: true })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Round: Msg,
        standing: &mut Standing,
    ) -> Result<(), ActorProcessingErr> {
        let began = Instant::now();
        let more = match self.round(standing).await {
            Ok(more) => {
                standing.told = false;
                more
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                if !std::mem::replace(&mut standing.told, true) {
                    warn!(error = %Chain(&error), "rollups and retention could not be kept up, trying again");
                }
                false
            }
        };
        let pause = if more { began.elapsed().min(ROUND) } else { ROUND };
        if !more {
            standing.rounds += 1;
        }
        myself.send_after(pause, || Msg::Round);
        Ok(())
    }
}

impl Upkeep {
    /// One piece of each; says whether there is more to catch up with.
    async fn round(&self, standing: &mut Standing) -> Result<bool, Error> {
        // First, since an old snapshot may be why the rest fails.
        match upkeep::oldest_snapshot(&self.store).await? {
            Some(oldest) => {
                self.metrics.oldest_snapshot_seconds.set(oldest.seconds);
                self.metrics.oldest_snapshot_transactions.set(oldest.transactions);
            }
            None => {
                self.metrics.oldest_snapshot_seconds.set(f64::NAN);
            }
        }
        if !self.clock.is_known() {
            return Ok(false);
        }
        let now = match self.clock.now() {
            Ok(now) => now,
            Err(why) => {
                standing.thoroughly = true;
                self.refuse(standing, Some(why));
                return Ok(false);
            }
        };
        let began = Instant::now();
        let rolled = upkeep::roll_up(&self.store, now, standing.piece.size()).await?;
        let took = began.elapsed();
        if let Some(through) = rolled {
            self.metrics.rollup_seconds.observe(took.as_secs_f64());
            self.metrics.rolled_through.set(through.micros() / 1_000_000);
        }
        standing.piece.took(took);
        // Each takes the time anew: the one before may have taken minutes.
        let mended = upkeep::mend(&self.store, now.plus(began.elapsed())).await?;
        let day = upkeep::roll_up_day(&self.store, now.plus(began.elapsed())).await?;
        if let Some(hour) = mended {
            self.metrics.hours_mended.inc();
            info!(%hour, "the rollups of an hour whose results have changed were done anew");
        }
        if standing.rounds.is_multiple_of(RECOUNT_ROUNDS) {
            let ago = 1 + standing.rounds / RECOUNT_ROUNDS % RECOUNTED_HOURS;
            upkeep::recount(&self.store, now.plus(began.elapsed()), i32::try_from(ago).unwrap_or(1)).await?;
        }
        let mut more = rolled.is_some() || mended.is_some() || day.is_some();
        let is_due = standing.rounds.is_multiple_of(EXPIRE_ROUNDS);
        if is_due || standing.thoroughly {
            more |= self.repair(standing).await?;
        }
        if is_due {
            more |= self.expire(standing).await?;
        }
        Ok(more)
    }

    /// Takes marks that lie in the future back to now, and deletes results that lie there; says whether there may be more of these.
    async fn repair(&self, standing: &mut Standing) -> Result<bool, Error> {
        let Ok(now) = self.clock.now() else { return Ok(false) };
        let repaired = upkeep::repair_marks(&self.store, now, standing.thoroughly).await?;
        standing.thoroughly = false;
        for (mark, number) in repaired {
            warn!(
                mark,
                number,
                "{number} {mark} lay in the future, since the database's clock was ahead: taken back to now"
            );
            self.metrics.marks_repaired.get_or_create(&Repaired { mark }).inc_by(number.unsigned_abs());
        }
        // What is deleted cannot be had back: other clocks have to say the same.
        let Ok(now) = self.clock.agreed_now(SharedClock::NEAR) else { return Ok(false) };
        let deleted = upkeep::delete_future_results(&self.store, now).await?;
        if deleted > 0 {
            warn!(
                deleted,
                "{deleted} results were of ticks that are still to come, since the database's clock was ahead: deleted, so that \
                 their checks count when they are due"
            );
            let mark = "results".to_owned();
            self.metrics.marks_repaired.get_or_create(&Repaired { mark }).inc_by(deleted);
        }
        Ok(deleted >= upkeep::FUTURE_AT_ONCE.unsigned_abs().into())
    }

    /// Deletes what is too old; says whether there may be more.
    async fn expire(&self, standing: &mut Standing) -> Result<bool, Error> {
        let now = match self.clock.agreed_now(SharedClock::FAR) {
            Ok(now) => now,
            Err(why) => {
                self.refuse(standing, Some(why));
                return Ok(false);
            }
        };
        match upkeep::expire(&self.store, now, self.retention).await {
            Ok(dropped) => {
                if let Some(day) = dropped.day {
                    info!(%day, "dropped the results of {day}");
                }
                if let Some(month) = dropped.month {
                    info!(%month, "dropped the hourly rollups of the month from {month}");
                }
                let more = dropped.anything();
                self.refuse(standing, dropped.refused);
                Ok(more)
            }
            // Somebody reads a long report; the next minute will do.
            Err(error) if error.is_transient() => {
                self.metrics.drops_put_off.inc();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says once why nothing is deleted for its age, and when it is again.
    fn refuse(&self, standing: &mut Standing, why: Option<String>) {
        self.metrics.deletion_refused.set(i64::from(why.is_some()));
        let refused = why.as_deref().map(upkeep::is_too_early);
        if std::mem::replace(&mut standing.refused, refused) == refused {
            return;
        }
        match why {
            Some(why) if refused == Some(true) => info!(why, "nothing is deleted for its age yet: {why}"),
            Some(why) => error!(why, "nothing is deleted for its age: {why}"),
            None => info!("what is too old is deleted again: clocks, marks and results agree"),
        }
    }
}
