//! Results on their way to the stream. What leaves at the same moment goes together: to send each by itself would wake up
//! this prober and the server several times a check, and cost more than what it says.
//!
//! **Bound**: one result for each slot. **Loss**: none here; whoever hands a result in hears whether the stream has it.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;
use picket_proto::{RegionName, Shard, bundle, subject};
use picket_runtime::Bus;
use tokio::{sync::oneshot, time::timeout};

use crate::{aligned_ticker::AlignedTicker, publisher::Publisher};

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct ResultBatcher {
    bus: Bus,
    region: RegionName,
    /// When results leave, and so do the acknowledgements of their jobs.
    ticker: AlignedTicker,
    /// From so many on, results share a message; 0 for never.
    bundle_from: usize,
    pending: Arc<Mutex<Vec<PendingResult>>>,
}

/// A result that waits for the next moment.
struct PendingResult {
    /// Of a scheduled or confirming check; ad-hoc results have none.
    shard: Option<Shard>,
    payload: Bytes,
    reply: oneshot::Sender<StoreOutcome>,
}

type StoreOutcome = Result<(), String>;

/// A message with the results of those that wait for its acknowledgement.
struct OutboundMessage {
    subject: String,
    payload: Bytes,
    replies: Vec<oneshot::Sender<StoreOutcome>>,
}

impl ResultBatcher {
    pub(crate) fn new(bus: Bus, region: RegionName, ticker: AlignedTicker, bundle_from: usize) -> Self {
        Self { bus, region, ticker, bundle_from, pending: Arc::default() }
    }

    /// Publishes a result with the others that are ready by the next moment; returns once the stream has it, or with the
    /// reason why it has not.
    pub(crate) async fn publish_result(&self, shard: Option<Shard>, payload: Bytes) -> StoreOutcome {
        let (stored, outcome) = oneshot::channel();
        self.with_pending(|waiting| waiting.push(PendingResult { shard, payload, reply: stored }));
        self.ticker.next_wakeup().await;
        // Whoever wakes up first takes all along.
        let ready = self.with_pending(std::mem::take);
        if !ready.is_empty() {
            let letters = batch_results(ready, &self.region, self.bundle_from);
            join_all(letters.into_iter().map(|letter| self.publish_message(letter))).await;
        }
        outcome.await.unwrap_or_else(|_| Err("whoever published it was stopped".to_owned()))
    }

    fn with_pending<T>(&self, act: impl FnOnce(&mut Vec<PendingResult>) -> T) -> T {
        act(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn publish_message(&self, letter: OutboundMessage) {
        let OutboundMessage { subject, payload, replies: stored } = letter;
        let publishing = async {
            let message = PublishMessage::build().payload(payload);
            let sent = self.bus.jetstream.send_publish(subject, message).await;
            sent.map_err(|why| why.to_string())?.await.map_err(|why| why.to_string())
        };
        // The library bounds the wait for the acknowledgement, and not that for a place in its queue.
        let outcome = match timeout(Bus::ACK_TIMEOUT + Publisher::CORE_PUBLISH_TIMEOUT, publishing).await {
            Ok(published) => published.map(drop),
            Err(_) => Err("no answer from NATS".to_owned()),
        };
        for waiting in stored {
            // Who is gone need not know.
            let _ = waiting.send(outcome.clone());
        }
    }
}

/// The fewest messages that hold these, where there are enough of them to share any.
fn batch_results(
    parcels: Vec<PendingResult>,
    region: &RegionName,
    bundle_from: usize,
) -> Vec<OutboundMessage> {
    let of_sites = parcels.iter().filter(|parcel| parcel.shard.is_some()).count();
    let together = bundle_from > 0 && of_sites >= bundle_from;
    let mut letters = Vec::new();
    let mut bundle: Vec<PendingResult> = Vec::new();
    let mut bytes = 0;
    for parcel in parcels {
        if parcel.shard.is_none() || !together {
            letters.push(single_message(parcel, region));
            continue;
        }
        let more = parcel.payload.len() + 1;
        if bundle.len() == bundle::MAX_RESULTS || bytes + more > bundle::MAX_BYTES {
            letters.extend(finish_bundle(std::mem::take(&mut bundle), region));
            bytes = 0;
        }
        bytes += more;
        bundle.push(parcel);
    }
    letters.extend(finish_bundle(bundle, region));
    letters
}

fn single_message(parcel: PendingResult, region: &RegionName) -> OutboundMessage {
    let subject = match parcel.shard {
        Some(shard) => subject::site_result(region, shard),
        None => subject::adhoc_result(region),
    };
    OutboundMessage { subject, payload: parcel.payload, replies: vec![parcel.reply] }
}

fn finish_bundle(mut bundle: Vec<PendingResult>, region: &RegionName) -> Option<OutboundMessage> {
    if bundle.len() < 2 {
        return bundle.pop().map(|parcel| single_message(parcel, region));
    }
    let payloads: Vec<&[u8]> = bundle.iter().map(|parcel| parcel.payload.as_ref()).collect();
    let payload = payloads.join(&b'\n').into();
    let stored = bundle.into_iter().map(|parcel| parcel.reply).collect();
    Some(OutboundMessage { subject: subject::result_bundle(region), payload, replies: stored })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The subjects and the results of what is sent for so many results of sites, of so many bytes each, and one ad-hoc one.
    fn sent(sites: usize, bytes: usize, bundle_from: usize) -> Vec<(String, usize)> {
        let parcel =
            |shard| PendingResult { shard, payload: vec![b'x'; bytes].into(), reply: oneshot::channel().0 };
        let mut parcels: Vec<PendingResult> = (0..sites).map(|_| parcel(Some(Shard(7)))).collect();
        parcels.insert(sites / 2, parcel(None));
        let letters = batch_results(parcels, &"eu".parse().unwrap(), bundle_from);
        letters
            .into_iter()
            .map(|letter| {
                let lines = bundle::split_results(&letter.payload, true).count();
                assert_eq!(lines, letter.replies.len(), "each waits for the message that it is in");
                assert!(letter.payload.len() <= bundle::MAX_BYTES.max(bytes));
                (letter.subject, lines)
            })
            .collect()
    }

    #[test]
    fn few_results_and_those_of_ad_hoc_checks_go_each_in_a_message_of_its_own() {
        let alone = |shards: usize| {
            let mut all = vec![("picket.result.eu.7".to_owned(), 1); shards];
            all.insert(shards / 2, ("picket.result.eu.adhoc".to_owned(), 1));
            all
        };
        assert_eq!(sent(7, 400, 8), alone(7));
        assert_eq!(sent(100, 400, 0), alone(100));
    }

    #[test]
    fn many_results_share_messages_of_bounded_number_and_size() {
        let adhoc = ("picket.result.eu.adhoc".to_owned(), 1);
        let bundle = |results| ("picket.result.eu.bundle".to_owned(), results);

        assert_eq!(sent(8, 400, 8), [adhoc.clone(), bundle(8)]);
        assert_eq!(sent(130, 400, 8), [bundle(64), adhoc.clone(), bundle(64), bundle(2)]);
        assert_eq!(sent(9, 20_000, 8), [bundle(3), adhoc.clone(), bundle(3), bundle(3)]);
        // What would not even fit alone is the stream's to refuse, and takes no other along.
        let huge = ("picket.result.eu.7".to_owned(), 1);
        assert!(sent(8, 100_000, 8).iter().all(|letter| [&huge, &adhoc].contains(&letter)));
    }
}
