//! Arrivals of results by region, counted while sinks are behind, so that a flooding region is
//! named.

use std::collections::BTreeMap;

use async_nats::jetstream::Context;
use futures_util::TryStreamExt;
use picket_proto::{RegionName, subject};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{BackpressureActor, Error, SAMPLE_TIMEOUT};
use crate::metrics::RegionLabel;

/// Number of messages per region in the results stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RegionMessageCounts(BTreeMap<RegionName, u64>);

impl RegionMessageCounts {
    /// Maximum number of subjects read. A region has about seventy; a client inventing more must
    /// not cost memory here.
    const MAX_SUBJECTS: usize = 50_000;

    /// Queries the stream.
    async fn fetch_counts(jetstream: &Context) -> Result<Self, Error> {
        let stream = jetstream.get_stream(subject::RESULTS_STREAM).await?;
        let mut subjects = stream.info_with_subjects(subject::RESULT_SUBJECTS).await?;
        let mut stored = Self::default();
        for _ in 0..Self::MAX_SUBJECTS {
            // The server sends the subjects in pages, so a broken connection shows here as well.
            let Some((subject, messages)) = subjects.try_next().await? else { break };
            stored.add_subject(&subject, u64::try_from(messages).unwrap_or(u64::MAX));
        }
        Ok(stored)
    }

    fn add_subject(&mut self, subject: &str, messages: u64) {
        // Only subjects with a region are published by probers.
        let region = subject.split('.').nth(2).and_then(|region| region.parse().ok());
        if let Some(region) = region {
            let sum = self.0.entry(region).or_default();
            *sum = sum.saturating_add(messages);
        }
    }

    /// Increase per region since `before`; a lower bound, because the stream may have discarded
    /// messages.
    fn increase_since(&self, before: &Self) -> Vec<(&RegionName, u64)> {
        let more = |(region, now): (_, &u64)| {
            let before = before.0.get(region).copied().unwrap_or(0);
            (region, now.saturating_sub(before))
        };
        self.0.iter().map(more).filter(|(_, more)| *more > 0).collect()
    }
}

/// Arrivals, carried from sample to sample.
#[derive(Debug, Default)]
pub(super) struct ArrivalCounter {
    /// Counts of the previous sample, while sinks are behind.
    previous: Option<RegionMessageCounts>,
    /// Region with the most arrivals in the previous sample, while publishing is paused.
    reported_region: Option<RegionName>,
}

impl ArrivalCounter {
    /// Above this ratio of the stream's capacity arrivals are counted, which costs one more request.
    const COUNT_ABOVE: f64 = 0.25;
}

impl BackpressureActor {
    /// Counts arrivals by region since the previous sample, and names the region with the most.
    pub(super) async fn count_arrivals(&self, arrivals: &mut ArrivalCounter, ratio: f64, is_paused: bool) {
        let before = arrivals.previous.take();
        if ratio < ArrivalCounter::COUNT_ABOVE {
            return;
        }
        match timeout(SAMPLE_TIMEOUT, RegionMessageCounts::fetch_counts(&self.bus.jetstream)).await {
            Ok(Ok(stored)) => {
                let arrived = before.as_ref().map(|before| stored.increase_since(before)).unwrap_or_default();
                for (region, messages) in &arrived {
                    let counter = self
                        .metrics
                        .results_arrived
                        .get_or_create(&RegionLabel { region: region.to_string() });
                    counter.inc_by(*messages);
                }
                let all: u64 = arrived.iter().map(|(_, messages)| messages).sum();
                let most = arrived.iter().max_by_key(|(_, messages)| *messages).filter(|_| is_paused);
                if let Some((region, messages)) = most
                    && arrivals.reported_region.as_ref() != Some(*region)
                {
                    warn!(
                        region = %region,
                        messages,
                        all,
                        "results still arrive while publishing is paused, most of them from one region"
                    );
                }
                arrivals.reported_region = most.map(|(region, _)| (*region).clone());
                arrivals.previous = Some(stored);
            }
            Ok(Err(why)) => debug!(error = why, "could not count results by region"),
            Err(_) => debug!("counting results by region timed out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(subjects: &[(&str, u64)]) -> RegionMessageCounts {
        let mut stored = RegionMessageCounts::default();
        subjects.iter().for_each(|(subject, messages)| stored.add_subject(subject, *messages));
        stored
    }

    #[test]
    fn messages_are_counted_by_the_region_token_of_their_subject() {
        let before = stored(&[("picket.result.east.7", 10), ("picket.result.west.7", 10)]);
        let now = stored(&[
            ("picket.result.east.7", 8),
            ("picket.result.east.bundle", 5),
            ("picket.result.west.7", 4),
            ("picket.result.asia.anything.else", 2),
            ("picket.result.No_Region.7", 9),
            ("picket.result", 9),
        ]);

        let more: Vec<_> =
            now.increase_since(&before).iter().map(|(region, more)| (region.to_string(), *more)).collect();

        assert_eq!(more, [("asia".to_owned(), 2), ("east".to_owned(), 3)]);
    }
}
