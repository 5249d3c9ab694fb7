//! The clocks that the lease manager reads, and what it logs and publishes of the database's clock.
//!
//! The decisions about clocks are in `machine` and `clock_trust` (pure).

use std::time::Duration;

use picket_proto::Timestamp;
use picket_runtime::{
    clock::{self, Boottime, ClockAdjustment, DbClock},
    streams,
};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{LeaseManager, LeaseState, clock_trust::ReferenceClocks};
use crate::schedule::scheduler;

/// Interval and timeout of reading the NATS server's clock.
const BUS_CLOCK_INTERVAL: Duration = Duration::from_secs(10);
const BUS_CLOCK_TIMEOUT: Duration = Duration::from_millis(500);

impl LeaseManager {
    /// Reads other clocks. The bus clock is read every 10 s, and in each round while the database's
    /// clock is in doubt.
    pub(super) async fn read_reference_clocks(&self, state: &mut LeaseState) -> ReferenceClocks {
        let is_due = state
            .bus_clock_read_at
            .is_none_or(|at| Boottime::now().saturating_duration_since(at) >= BUS_CLOCK_INTERVAL);
        let mut bus = None;
        if is_due || state.is_clock_in_doubt {
            bus =
                timeout(BUS_CLOCK_TIMEOUT, streams::read_server_clock(&self.jetstream)).await.ok().flatten();
            state.bus_clock_read_at = Some(Boottime::now());
        }
        // Without an answer the last reading stays: it ages on the local monotonic clock.
        if let Some(bus) = bus {
            self.clock.set_bus(bus);
        }
        ReferenceClocks { wall: Some(clock::wall_clock_now()), bus }
    }

    /// Uses `clock` as the database's clock from now on.
    pub(super) fn follow_clock(&self, state: &mut LeaseState, clock: DbClock, adjusted: ClockAdjustment) {
        self.clock.set_database(clock);
        let was_in_doubt =
            std::mem::replace(&mut state.is_clock_in_doubt, clock.unconfirmed_jump_us().is_some());
        self.metrics.clock_unconfirmed.set(i64::from(state.is_clock_in_doubt));
        match adjusted {
            ClockAdjustment::Stepped(us) => {
                self.metrics.clock_steps.inc();
                warn!(step_ms = us / 1_000, "database clock jumped, following it");
            }
            ClockAdjustment::Unconfirmed(us) if !was_in_doubt => {
                warn!(
                    step_ms = us / 1_000,
                    hold_s = DbClock::JUMP_HOLD_PERIOD.as_secs(),
                    "database clock jumped, unconfirmed; keeping the previous time and deleting nothing \
                     until another clock confirms the jump, or the clock has been steady for hold_s"
                );
            }
            ClockAdjustment::Slewing if was_in_doubt => {
                info!("database clock is back at the time before its jump")
            }
            _ => {}
        }
        // The scheduler computes the time between two heartbeats from this clock.
        let _ = self.scheduler.cast(scheduler::Msg::ClockUpdated(clock, adjusted));
    }
}

impl LeaseState {
    /// Warns once that log timestamps of this machine will not match those of other machines.
    pub(super) fn warn_on_clock_skew(&mut self, now: Timestamp) {
        const SKEW: Duration = Duration::from_secs(1);
        let wall = clock::wall_clock_now();
        let skew = wall.saturating_duration_since(now).max(now.saturating_duration_since(wall));
        if skew > SKEW && !self.is_skew_reported {
            self.is_skew_reported = true;
            warn!(
                skew_ms = skew.as_millis(),
                "wall clock differs from the database clock; ticks follow the database clock"
            );
        }
    }
}
