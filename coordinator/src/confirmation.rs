//! Hears which sites began to fail, and has them checked again at once from all their regions.
//!
//! Bound: what the subscription holds, [`MAX_SITES`] sites, and the rate of [`Rounds`]. Loss: a round that is not published costs time only, since
//! the next ticks tell the same.

mod queue;

use std::time::Duration;

use futures_util::StreamExt;
use picket_proto::{ConfirmationRequest, subject};
use picket_runtime::{Backoff, Bus, ErrorChain};
use ractor::{ActorRef, ActorStatus};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use self::queue::{ConfirmationQueue, DueConfirmations, MAX_BURST_ROUNDS, MAX_SITES};
use crate::{fence::Fence, metrics::Metrics, scheduler};

/// Between looks at whether the planner is still there.
const SCHEDULER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Whom to hear, and who publishes.
pub(crate) struct ConfirmationListener {
    pub(crate) bus: Bus,
    pub(crate) fence: Fence,
    pub(crate) scheduler: ActorRef<scheduler::Msg>,
    pub(crate) metrics: Metrics,
}

impl ConfirmationListener {
    /// Runs until the planner is gone.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        while self.scheduler.get_status() < ActorStatus::Stopping {
            match self.bus.client.subscribe(subject::CONFIRMATION_SUBJECTS).await {
                Ok(heard) => {
                    backoff.reset();
                    self.process_requests(heard).await;
                }
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "cannot hear of sites that begin to fail, trying again")
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn process_requests(&self, mut heard: async_nats::Subscriber) {
        let mut rounds = ConfirmationQueue::default();
        let mut is_throttled = false;
        loop {
            let now = Instant::now();
            let DueConfirmations { sites, delayed, dropped } = rounds.take_due(now);
            self.metrics.confirmations_dropped.inc_by(u64::try_from(dropped).unwrap_or(u64::MAX));
            let was_throttled = std::mem::replace(&mut is_throttled, delayed > 0);
            if is_throttled && !was_throttled {
                warn!(
                    sites = delayed,
                    burst = MAX_BURST_ROUNDS,
                    "many sites are suspected at once: a sample is confirmed, the others wait for their ticks"
                );
            }
            if !sites.is_empty() {
                debug!(sites = sites.len(), "confirming {} sites", sites.len());
                let _ = self.scheduler.cast(scheduler::Msg::ConfirmSites(sites));
            }
            if self.scheduler.get_status() >= ActorStatus::Stopping {
                return;
            }
            let until = rounds
                .next_due_at()
                .map_or(now + SCHEDULER_CHECK_INTERVAL, |next| next.min(now + SCHEDULER_CHECK_INTERVAL));
            let message = tokio::select! {
                message = heard.next() => message,
                () = sleep_until(until) => continue,
            };
            let Some(message) = message else { return };
            self.accept_message(&message, &mut rounds);
            // What is there already is heard before anything is published: it may take something back.
            while let Ok(Some(message)) = timeout(Duration::ZERO, heard.next()).await {
                self.accept_message(&message, &mut rounds);
            }
        }
    }

    fn accept_message(&self, message: &async_nats::Message, rounds: &mut ConfirmationQueue) {
        let Ok(suspect) = serde_json::from_slice::<ConfirmationRequest>(&message.payload) else {
            self.metrics.confirmations_rejected.inc();
            return;
        };
        if self.fence.has_shard(suspect.shard) && !rounds.accept_request(&suspect, Instant::now()) {
            self.metrics.confirmations_rejected.inc();
            warn!(site.id = %suspect.site_id, "more than {MAX_SITES} sites are to be confirmed; this one waits for its ticks");
        }
    }
}
