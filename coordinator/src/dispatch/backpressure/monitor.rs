//! The rule by which publishing pauses and resumes, and the count of lost results: pure, from one
//! sample of the results stream to the next.

use time::OffsetDateTime;

/// Sample of the results stream and its consumer.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamSample {
    /// Creation time of the stream.
    pub(super) created: OffsetDateTime,
    /// Last sequence number before the consumer was queried.
    pub(super) last_seq_before: u64,
    /// Last sequence number after the consumer was queried.
    pub(super) last_seq: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// 0: unlimited.
    pub(super) max_bytes: u64,
    /// The sinks' consumer, if it exists.
    pub(super) consumer: Option<ConsumerSample>,
}

/// Progress of the sinks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerSample {
    pub(super) created: OffsetDateTime,
    pub(super) undelivered: u64,
    /// Messages delivered and not acknowledged.
    pub(super) unacked: u64,
    /// Total deliveries, including redeliveries.
    pub(super) deliveries: u64,
    /// All messages up to this sequence number are acknowledged.
    pub(super) ack_floor: u64,
}

/// Conclusions from a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Assessment {
    pub(super) waiting: u64,
    /// Share of the stream's capacity between the oldest waiting result and the newest.
    pub(super) ratio: f64,
    /// Messages lost since the previous sample, at least.
    pub(super) lost: u64,
    pub(super) transition: Option<Transition>,
}

/// Change of state to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    BacklogHigh,
    Paused,
    Resumed,
}

/// State carried from sample to sample.
#[derive(Debug, Default)]
pub(super) struct BacklogMonitor {
    previous: Option<StreamSample>,
    /// All messages up to here are known to be stored, even if the consumer was recreated since.
    ack_floor: u64,
    pub(super) is_paused: bool,
    is_warned: bool,
}

impl BacklogMonitor {
    const WARN_ABOVE: f64 = 0.5;
    pub(super) const PAUSE_ABOVE: f64 = 0.8;
    const RESUME_BELOW: f64 = 0.7;

    /// Updates the state with a sample.
    pub(super) fn assess_sample(&mut self, sample: StreamSample) -> Assessment {
        let lost = self.previous.map_or(0, |before| sample.lost_since(&before));
        if self.previous.is_some_and(|before| before.created != sample.created) {
            // A recreated stream numbers its messages from 1 again.
            self.ack_floor = 0;
        }
        self.ack_floor = self.ack_floor.max(sample.consumer.map_or(0, |taken| taken.ack_floor));
        self.previous = Some(sample);
        // The oldest waiting result is discarded first, however many later ones are stored.
        let behind = sample.last_seq.saturating_sub(self.ack_floor).min(sample.messages);
        let ratio = sample.share_of_limit(behind);
        // A recreated consumer redelivers everything, most of which is already stored.
        let waiting = sample.unacked_messages().min(behind);
        let transition = match () {
            () if !self.is_paused && ratio >= Self::PAUSE_ABOVE => Some(Transition::Paused),
            () if self.is_paused && ratio < Self::RESUME_BELOW => Some(Transition::Resumed),
            () if !self.is_paused && !self.is_warned && ratio >= Self::WARN_ABOVE => {
                Some(Transition::BacklogHigh)
            }
            () => None,
        };
        self.is_paused = match transition {
            Some(Transition::Paused) => true,
            Some(Transition::Resumed) => false,
            _ => self.is_paused,
        };
        self.is_warned = ratio >= Self::WARN_ABOVE;
        Assessment { waiting, ratio, lost, transition }
    }
}

impl StreamSample {
    /// Number of results not known to be acknowledged.
    fn unacked_messages(&self) -> u64 {
        let unacknowledged = self.consumer.map(|taken| taken.undelivered.saturating_add(taken.unacked));
        unacknowledged.unwrap_or(self.messages).min(self.messages)
    }

    /// Share of the stream's capacity taken by this number of results.
    fn share_of_limit(&self, results: u64) -> f64 {
        if self.messages == 0 || self.max_bytes == 0 {
            return 0.0;
        }
        (results as f64 / self.messages as f64) * (self.bytes as f64 / self.max_bytes as f64)
    }

    /// Number of results that waited at `before`, or arrived since, and left the stream without a
    /// possible acknowledgement.
    ///
    /// The server moves the consumer's ack floor past discarded messages, so losses must be
    /// computed: each message that waited or arrived either still waits, was delivered, or is lost.
    fn lost_since(&self, before: &Self) -> u64 {
        let is_same = self.created == before.created;
        let came =
            if is_same { self.last_seq_before.saturating_sub(before.last_seq) } else { self.last_seq_before };
        let may_be_stored = match (before.consumer, self.consumer) {
            (Some(then), Some(now)) if then.created == now.created => {
                then.unacked + now.deliveries.saturating_sub(then.deliveries)
            }
            // The consumer was deleted, and with it the number of its last deliveries.
            (Some(_), _) if is_same => return 0,
            (Some(then), now) => then.unacked + now.map_or(0, |now| now.deliveries),
            (None, now) => now.map_or(0, |now| now.deliveries),
        };
        (before.unacked_messages() + came).saturating_sub(self.unacked_messages() + may_be_stored)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A stream with room for a thousand results, the last `waiting` of which are undelivered.
    fn sample(last: u64, messages: u64, waiting: u64, under_way: u64) -> StreamSample {
        let created = OffsetDateTime::UNIX_EPOCH;
        StreamSample {
            created,
            last_seq_before: last,
            last_seq: last,
            messages,
            bytes: messages * 500,
            max_bytes: 500_000,
            consumer: Some(ConsumerSample {
                created,
                undelivered: waiting,
                unacked: under_way,
                deliveries: last - waiting,
                ack_floor: last - waiting - under_way,
            }),
        }
    }

    #[test]
    fn publishing_pauses_above_80_percent_and_resumes_below_70_percent() {
        let mut monitor = BacklogMonitor::default();
        let mut last = 0;
        let mut transition = |waiting| {
            last += 1_000;
            monitor.assess_sample(sample(last, 1_000, waiting, 0)).transition
        };

        assert_eq!(transition(499), None);
        assert_eq!((transition(500), transition(700)), (Some(Transition::BacklogHigh), None));
        assert_eq!((transition(800), transition(750)), (Some(Transition::Paused), None));
        assert_eq!((transition(699), transition(800)), (Some(Transition::Resumed), Some(Transition::Paused)));
    }

    #[test]
    fn stored_results_do_not_count_however_full_the_stream_is() {
        let assessment = BacklogMonitor::default().assess_sample(sample(5_000, 1_000, 10, 20));

        assert_eq!((assessment.waiting, assessment.transition), (30, None));
        assert!((assessment.ratio - 0.03).abs() < 1e-9, "{assessment:?}");
    }

    #[test]
    fn an_old_unread_result_is_at_risk_however_many_later_ones_are_stored() {
        // One message is stuck in a sleeping sink, while another sink stores all others.
        let assessment = BacklogMonitor::default().assess_sample(StreamSample {
            consumer: sample(900, 900, 0, 1).consumer.map(|taken| ConsumerSample { ack_floor: 5, ..taken }),
            ..sample(900, 900, 0, 1)
        });

        assert_eq!((assessment.waiting, assessment.transition), (1, Some(Transition::Paused)));
    }

    #[test]
    fn before_the_first_sink_all_results_count_as_unread() {
        let never = StreamSample { consumer: None, ..sample(900, 900, 0, 0) };

        assert_eq!(BacklogMonitor::default().assess_sample(never).transition, Some(Transition::Paused));
    }

    #[test]
    fn a_recreated_consumer_does_not_pause_publishing_for_stored_results() {
        let mut monitor = BacklogMonitor::default();
        monitor.assess_sample(sample(900, 900, 0, 0));
        let later = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
        let mut anew = sample(905, 905, 905, 0);
        anew.consumer = anew.consumer.map(|taken| ConsumerSample { created: later, ack_floor: 0, ..taken });

        let assessment = monitor.assess_sample(anew);

        assert_eq!((assessment.waiting, assessment.lost, assessment.transition), (5, 0, None));
    }

    #[test]
    fn results_discarded_unread_are_counted_and_results_discarded_after_reading_are_not() {
        let before = sample(1_000, 1_000, 900, 50);
        // 100 arrived and 30 were delivered; the oldest 200 undelivered ones were discarded.
        let mut after = sample(1_100, 900, 900 + 100 - 30 - 200, 50);
        after.consumer = after.consumer.map(|taken| ConsumerSample { deliveries: 100 + 30, ..taken });

        assert_eq!(after.lost_since(&before), 200 - 50);
        assert_eq!(sample(1_100, 1_000, 0, 0).lost_since(&before), 0);
    }

    #[test]
    fn deleting_the_stream_counts_its_unread_results_as_discarded() {
        let before = sample(1_000, 1_000, 300, 20);
        let anew = StreamSample {
            created: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9),
            consumer: None,
            ..sample(0, 0, 0, 0)
        };

        assert_eq!(anew.lost_since(&before), 300);
    }
}
