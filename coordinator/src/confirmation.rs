//! Confirmation: receives requests for sites that began to fail, and has these sites checked again
//! at once from all their regions.
//!
//! Bound: the buffer of the subscription, [`MAX_SITES`] sites, and the rate of
//! [`ConfirmationQueue`]. Loss: an unpublished round only delays the decision, because the next
//! ticks give the same information.

mod queue;

use std::time::Duration;

use futures_util::StreamExt;
use picket_proto::{ConfirmationRequest, subject};
use picket_runtime::{Backoff, Bus, ErrorChain};
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, warn};

use self::queue::{ConfirmationQueue, DueConfirmations, MAX_BURST_ROUNDS, MAX_SITES};
use crate::{fence::Fence, metrics::Metrics, schedule::scheduler};

/// Receives confirmation requests and forwards due sites to the scheduler.
pub(crate) struct ConfirmationListener {
    pub(crate) bus: Bus,
    pub(crate) fence: Fence,
    pub(crate) scheduler: ActorRef<scheduler::Msg>,
    pub(crate) metrics: Metrics,
}

impl ConfirmationListener {
    /// Runs until the pipeline ends.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.bus.client.subscribe(subject::CONFIRMATION_SUBJECTS).await {
                Ok(subscriber) => {
                    backoff.reset();
                    self.process_requests(subscriber).await;
                }
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "could not subscribe to confirmation requests, retrying")
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn process_requests(&self, mut subscriber: async_nats::Subscriber) {
        let mut rounds = ConfirmationQueue::default();
        let mut is_throttled = false;
        loop {
            let now = Instant::now();
            let DueConfirmations { sites, delayed, dropped } = rounds.take_due(now);
            self.metrics.confirmations_dropped.inc_by(u64::try_from(dropped).unwrap_or(u64::MAX));
            let was_throttled = std::mem::replace(&mut is_throttled, delayed > 0);
            // Logged on the transition only; during a flood every turn is throttled.
            if is_throttled && !was_throttled {
                warn!(
                    sites = delayed,
                    burst = MAX_BURST_ROUNDS,
                    "many sites are suspected at once; confirming a sample, leaving the others to their ticks"
                );
            }
            if !sites.is_empty() {
                debug!(sites = sites.len(), "confirming sites");
                // A scheduler that has stopped takes the pipeline down with it.
                let _ = self.scheduler.cast(scheduler::Msg::ConfirmSites(sites));
            }
            let message = match rounds.next_due_at() {
                None => subscriber.next().await,
                Some(until) => match timeout_at(until, subscriber.next()).await {
                    Ok(message) => message,
                    Err(_) => continue,
                },
            };
            let Some(message) = message else { return };
            self.accept_message(&message, &mut rounds);
            // Processes all buffered requests before publishing, because one may withdraw an
            // earlier request.
            while let Ok(Some(message)) = timeout(Duration::ZERO, subscriber.next()).await {
                self.accept_message(&message, &mut rounds);
            }
        }
    }

    fn accept_message(&self, message: &async_nats::Message, rounds: &mut ConfirmationQueue) {
        #[cfg(test)]
        picket_harness::injected_panic::panic_if_injected("confirmation_listener");
        let Ok(request) = serde_json::from_slice::<ConfirmationRequest>(&message.payload) else {
            self.metrics.confirmations_rejected.inc();
            return;
        };
        if self.fence.has_shard(request.shard) && !rounds.accept_request(&request, Instant::now()) {
            self.metrics.confirmations_rejected.inc();
            warn!(site.id = %request.site_id, "confirmation queue is full ({MAX_SITES} sites), leaving the site to its ticks");
        }
    }
}
