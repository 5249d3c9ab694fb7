//! Batches results on their way to the stream. Results that are ready at the same wake-up are sent
//! together: separate sends would wake up the prober and the server several times per check, at a
//! higher cost than the message itself.
//!
//! **Bound**: one result per slot. **Loss**: none here; the caller learns if the stream has stored
//! the result.

use std::sync::Arc;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use picket_proto::{RegionName, Shard, bundle, subject};
use picket_runtime::Bus;
use tokio::{sync::oneshot, time::timeout};

use crate::aligned_ticker::AlignedTicker;

/// Batcher of results. Clones share the queue.
#[derive(Clone)]
pub(crate) struct ResultBatcher {
    bus: Bus,
    region: RegionName,
    /// Ticker for the publish of results and for the acknowledgement of their jobs.
    ticker: AlignedTicker,
    pending: Arc<Mutex<Vec<PendingResult>>>,
}

/// Result waiting for the next wake-up.
struct PendingResult {
    /// Shard of a scheduled or confirming check; `None` for an ad-hoc result.
    shard: Option<Shard>,
    payload: Bytes,
    reply: oneshot::Sender<StoreOutcome>,
}

type StoreOutcome = Result<(), String>;

/// Message to publish, with the callers that await its acknowledgement.
struct OutboundMessage {
    subject: String,
    payload: Bytes,
    replies: Vec<oneshot::Sender<StoreOutcome>>,
}

impl ResultBatcher {
    pub(crate) fn new(bus: Bus, region: RegionName, ticker: AlignedTicker) -> Self {
        Self { bus, region, ticker, pending: Arc::default() }
    }

    /// Publishes a result, batched with all results ready by the next wake-up. Returns once the
    /// stream has stored the result, or the reason of the failure.
    pub(crate) async fn publish_result(&self, shard: Option<Shard>, payload: Bytes) -> StoreOutcome {
        let (stored, outcome) = oneshot::channel();
        self.with_pending(|waiting| waiting.push(PendingResult { shard, payload, reply: stored }));
        self.ticker.next_wakeup().await;
        // The first task to wake up publishes all pending results.
        let ready = self.with_pending(std::mem::take);
        if !ready.is_empty() {
            let messages = batch_results(ready, &self.region);
            join_all(messages.into_iter().map(|message| self.publish_message(message))).await;
        }
        outcome.await.unwrap_or_else(|_| Err("the publishing task was cancelled".to_owned()))
    }

    fn with_pending<T>(&self, act: impl FnOnce(&mut Vec<PendingResult>) -> T) -> T {
        act(&mut self.pending.lock())
    }

    async fn publish_message(&self, message: OutboundMessage) {
        let OutboundMessage { subject, payload, replies: stored } = message;
        let publishing = async {
            let message = PublishMessage::build().payload(payload);
            let sent = self.bus.jetstream.send_publish(subject, message).await;
            sent.map_err(|why| why.to_string())?.await.map_err(|why| why.to_string())
        };
        // The library bounds the wait for an acknowledgement, but not the wait for a place in its
        // send queue.
        let outcome = match timeout(Bus::ACK_TIMEOUT + Bus::CORE_PUBLISH_TIMEOUT, publishing).await {
            Ok(published) => published.map(drop),
            Err(_) => Err("no response from NATS".to_owned()),
        };
        for waiting in stored {
            // The caller may have been cancelled.
            let _ = waiting.send(outcome.clone());
        }
    }
}

/// Groups the results of sites into as few messages as possible.
fn batch_results(results: Vec<PendingResult>, region: &RegionName) -> Vec<OutboundMessage> {
    let mut messages = Vec::new();
    let mut bundle: Vec<PendingResult> = Vec::new();
    let mut bytes = 0;
    for result in results {
        // Ad-hoc results have a subject of their own and never share a message.
        if result.shard.is_none() {
            messages.push(single_message(result, region));
            continue;
        }
        let more = result.payload.len() + 1;
        if bundle.len() == bundle::MAX_RESULTS || bytes + more > bundle::MAX_BYTES {
            messages.extend(finish_bundle(std::mem::take(&mut bundle), region));
            bytes = 0;
        }
        bytes += more;
        bundle.push(result);
    }
    messages.extend(finish_bundle(bundle, region));
    messages
}

fn single_message(result: PendingResult, region: &RegionName) -> OutboundMessage {
    let subject = match result.shard {
        Some(shard) => subject::site_result(region, shard),
        None => subject::adhoc_result(region),
    };
    OutboundMessage { subject, payload: result.payload, replies: vec![result.reply] }
}

fn finish_bundle(mut bundle: Vec<PendingResult>, region: &RegionName) -> Option<OutboundMessage> {
    if bundle.len() < 2 {
        return bundle.pop().map(|result| single_message(result, region));
    }
    let payloads: Vec<&[u8]> = bundle.iter().map(|result| result.payload.as_ref()).collect();
    let payload = payloads.join(&b'\n').into();
    let stored = bundle.into_iter().map(|result| result.reply).collect();
    Some(OutboundMessage { subject: subject::result_bundle(region), payload, replies: stored })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subjects and result counts of the messages sent for `sites` results of sites, of `bytes`
    /// bytes each, and one ad-hoc result.
    fn sent(sites: usize, bytes: usize) -> Vec<(String, usize)> {
        let result =
            |shard| PendingResult { shard, payload: vec![b'x'; bytes].into(), reply: oneshot::channel().0 };
        let mut results: Vec<PendingResult> = (0..sites).map(|_| result(Some(Shard(7)))).collect();
        results.insert(sites / 2, result(None));
        let messages = batch_results(results, &"eu".parse().unwrap());
        messages
            .into_iter()
            .map(|message| {
                let lines = bundle::split_results(&message.payload, true).count();
                assert_eq!(lines, message.replies.len(), "each waits for the message that it is in");
                assert!(message.payload.len() <= bundle::MAX_BYTES.max(bytes));
                (message.subject, lines)
            })
            .collect()
    }

    #[test]
    fn a_single_result_and_an_ad_hoc_result_are_messages_of_their_own() {
        let message = |subject: &str| (subject.to_owned(), 1);

        assert_eq!(sent(0, 400), [message("picket.result.eu.adhoc")]);
        assert_eq!(sent(1, 400), [message("picket.result.eu.adhoc"), message("picket.result.eu.7")]);
    }

    #[test]
    fn many_results_are_bundled_with_bounded_count_and_size() {
        let adhoc = ("picket.result.eu.adhoc".to_owned(), 1);
        let bundle = |results| ("picket.result.eu.bundle".to_owned(), results);

        assert_eq!(sent(2, 400), [adhoc.clone(), bundle(2)]);
        assert_eq!(sent(130, 400), [bundle(64), adhoc.clone(), bundle(64), bundle(2)]);
        assert_eq!(sent(9, 20_000), [bundle(3), adhoc.clone(), bundle(3), bundle(3)]);
        // Oversized results are left to the stream to reject, and share no message with other
        // results.
        let huge = ("picket.result.eu.7".to_owned(), 1);
        assert!(sent(8, 100_000).iter().all(|message| [&huge, &adhoc].contains(&message)));
    }
}
