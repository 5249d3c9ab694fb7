//! Hears which sites began to fail, and has them checked again at once from all their regions.
//!
//! Bound: what the subscription holds, [`MAX_SITES`] sites, and the rate of [`Rounds`]. Loss: a round that is not published costs time only, since
//! the next ticks tell the same.

mod rounds;

use std::time::Duration;

use futures_util::StreamExt;
use picket_proto::{Suspect, subject};
use picket_runtime::{Backoff, Bus, Chain};
use ractor::{ActorRef, ActorStatus};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use self::rounds::{BURST, Due, MAX_SITES, Rounds};
use crate::{fence::Fence, metrics::Metrics, planner};

/// Between looks at whether the planner is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Whom to hear, and who publishes.
pub(crate) struct Confirming {
    pub(crate) bus: Bus,
    pub(crate) fence: Fence,
    pub(crate) planner: ActorRef<planner::Msg>,
    pub(crate) metrics: Metrics,
}

impl Confirming {
    /// Runs until the planner is gone.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        while self.planner.get_status() < ActorStatus::Stopping {
            match self.bus.client.subscribe(subject::SUSPECTS).await {
                Ok(heard) => {
                    backoff.reset();
                    self.listen(heard).await;
                }
                Err(error) => {
                    warn!(error = %Chain(&error), "cannot hear of sites that begin to fail, trying again")
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn listen(&self, mut heard: async_nats::Subscriber) {
        let mut rounds = Rounds::default();
        let mut is_throttled = false;
        loop {
            let now = Instant::now();
            let Due { sites, delayed, dropped } = rounds.due(now);
            self.metrics.suspects_dropped.inc_by(u64::try_from(dropped).unwrap_or(u64::MAX));
            let was_throttled = std::mem::replace(&mut is_throttled, delayed > 0);
            if is_throttled && !was_throttled {
                warn!(
                    sites = delayed,
                    burst = BURST,
                    "many sites are suspected at once: a sample is confirmed, the others wait for their ticks"
                );
            }
            if !sites.is_empty() {
                debug!(sites = sites.len(), "confirming {} sites", sites.len());
                let _ = self.planner.cast(planner::Msg::Confirm(sites));
            }
            if self.planner.get_status() >= ActorStatus::Stopping {
                return;
            }
            let until = rounds.next().map_or(now + LOOK, |next| next.min(now + LOOK));
            let message = tokio::select! {
                message = heard.next() => message,
                () = sleep_until(until) => continue,
            };
            let Some(message) = message else { return };
            self.hear(&message, &mut rounds);
            // What is there already is heard before anything is published: it may take something back.
            while let Ok(Some(message)) = timeout(Duration::ZERO, heard.next()).await {
                self.hear(&message, &mut rounds);
            }
        }
    }

    fn hear(&self, message: &async_nats::Message, rounds: &mut Rounds) {
        let Ok(suspect) = serde_json::from_slice::<Suspect>(&message.payload) else {
            self.metrics.suspects_refused.inc();
            return;
        };
        if self.fence.holds(suspect.shard) && !rounds.hear(&suspect, Instant::now()) {
            self.metrics.suspects_refused.inc();
            warn!(site.id = %suspect.site_id, "more than {MAX_SITES} sites are to be confirmed; this one waits for its ticks");
        }
    }
}
