//! Watches how many results wait for a sink, and holds the planner back before the stream would throw any away.
//!
//! The stream of results discards its oldest when it is full. That is right for what is stored already, and it would
//! be a silent loss for what no sink has had yet. It cannot be told to refuse new ones instead, since it always fills
//! up: it keeps three days for a restore. So nobody is given new work while too much of it waits.
//!
//! That stops probers that work, and not one that publishes what nobody asked it for: while sinks are behind, what comes is
//! counted by region (`backlog/arrivals.rs`), so that an operator sees whose credential to revoke.
//!
//! Bound: one look at a time. Loss: none; the next look sees all that this one saw.

mod arrivals;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{context::ConsumerInfoErrorKind, stream::Info};
use picket_proto::{RegionName, subject};
use picket_runtime::{Bus, ReadinessCheck};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use self::arrivals::RegionMessageCounts;
use crate::metrics::Metrics;

/// Whether the planner is held back. Cheap to clone; all clones are one brake.
#[derive(Clone, Debug, Default)]
pub struct PublishPause(Arc<AtomicBool>);

impl PublishPause {
    /// Whether no jobs may be published now.
    pub fn is_paused(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_paused(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

pub enum Msg {
    /// Time to look.
    Sample,
}

/// See the module.
#[derive(Clone)]
pub struct BackpressureActor {
    pub bus: Bus,
    pub publish_pause: PublishPause,
    pub metrics: Metrics,
    pub readiness: ReadinessCheck,
}

/// Between looks: a full fifth of the stream must not be filled meanwhile.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// For all questions of a look.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Actor for BackpressureActor {
    type Msg = Msg;
    type State = BacklogMonitor;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<BacklogMonitor, ActorProcessingErr> {
        myself.cast(Msg::Sample)?;
        Ok(BacklogMonitor::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Sample: Msg,
        watch: &mut BacklogMonitor,
    ) -> Result<(), ActorProcessingErr> {
        match timeout(SAMPLE_TIMEOUT, self.sample_stream()).await {
            Ok(Ok(look)) => {
                let seen = watch.assess_sample(look);
                self.count_arrivals(&seen, watch).await;
                self.report_assessment(seen, &look, watch);
            }
            // Who keeps the streams says what is wrong with them; the brake stays as it is.
            Ok(Err(why)) => debug!(error = why, "the stream of results could not be looked at"),
            Err(_) => debug!("NATS does not say how the stream of results is"),
        }
        myself.send_after(SAMPLE_INTERVAL, || Msg::Sample);
        Ok(())
    }
}

impl BackpressureActor {
    async fn sample_stream(&self) -> Result<StreamSample, Error> {
        let jetstream = &self.bus.jetstream;
        // Before and after: what comes while the consumer is asked must not look like a loss.
        let mut stream = jetstream.get_stream(subject::RESULTS_STREAM).await?;
        let last_before = stream.cached_info().state.last_sequence;
        let consumer = match stream.consumer_info(subject::SINK_CONSUMER).await {
            Ok(consumer) => Some(consumer),
            Err(why) if why.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(why) => return Err(why.into()),
        };
        let Info { config, created, state, .. } = stream.info().await?.clone();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(StreamSample {
            created,
            last_seq_before: last_before,
            last_seq: state.last_sequence,
            messages: state.messages,
            bytes: state.bytes,
            max_bytes: u64::try_from(config.max_bytes).unwrap_or(0),
            consumer: consumer.map(|consumer| ConsumerSample {
                created: consumer.created,
                undelivered: consumer.num_pending,
                unacked: count(consumer.num_ack_pending),
                deliveries: consumer.delivered.consumer_sequence,
                ack_floor: consumer.ack_floor.stream_sequence,
            }),
        })
    }

    fn report_assessment(&self, seen: Assessment, look: &StreamSample, watch: &BacklogMonitor) {
        let Assessment { waiting, ratio, lost, transition: news } = seen;
        self.metrics.results_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.results_waiting_ratio.set(ratio);
        self.metrics.publishing_paused.set(i64::from(watch.is_paused));
        self.publish_pause.set_paused(watch.is_paused);
        let (percent, most_mib) = ((ratio * 100.0).round(), look.max_bytes >> 20);
        if lost > 0 {
            self.metrics.results_discarded.inc_by(lost);
            error!(
                messages = lost,
                "{lost} messages with results left the stream before a sink had stored them: these are lost, and the ledger will say missed"
            );
        }
        match news {
            Some(Transition::Paused) => error!(
                waiting,
                "publishing no jobs: {waiting} messages with results wait for a sink, the oldest behind {percent} % of the {most_mib} MiB \
                 that the stream may hold; are sinks running, and is the database well?"
            ),
            Some(Transition::Resumed) => {
                info!(waiting, "publishing jobs again: sinks have caught up to {percent} %")
            }
            Some(Transition::BacklogHigh) => warn!(
                waiting,
                "{waiting} messages with results wait for a sink, the oldest behind {percent} % of the {most_mib} MiB that the stream \
                 may hold; above {} % no jobs are published",
                BacklogMonitor::PAUSE_ABOVE * 100.0
            ),
            None => {}
        }
        match watch.is_paused {
            true => self.readiness.set_unready(format!(
                "no jobs are published: {waiting} messages with results wait for a sink, {percent} % of what the stream may hold"
            )),
            false => self.readiness.set_ready(),
        }
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub struct StreamSample {
    /// When the stream was made.
    created: OffsetDateTime,
    /// The number of its last message before the consumer was asked.
    last_seq_before: u64,
    /// The number of its last message after the consumer was asked.
    last_seq: u64,
    messages: u64,
    bytes: u64,
    /// 0: without limit.
    max_bytes: u64,
    /// The sinks' consumer, if there is one.
    consumer: Option<ConsumerSample>,
}

/// How far the sinks are.
#[derive(Clone, Copy, Debug)]
struct ConsumerSample {
    created: OffsetDateTime,
    undelivered: u64,
    /// Delivered and not acknowledged.
    unacked: u64,
    /// How many there have been, with those that were repeated.
    deliveries: u64,
    /// All messages up to this one are acknowledged.
    ack_floor: u64,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessment {
    waiting: u64,
    /// How much of what the stream may hold is taken from the oldest result that waits to the newest.
    ratio: f64,
    /// What has been lost since the look before, at least.
    lost: u64,
    transition: Option<Transition>,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    BacklogHigh,
    Paused,
    Resumed,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct BacklogMonitor {
    previous: Option<StreamSample>,
    /// Up to here all are known to be stored, whatever became of the consumer since.
    ack_floor: u64,
    is_paused: bool,
    is_warned: bool,
    /// While sinks are behind, what the stream had at the look before.
    region_counts: Option<RegionMessageCounts>,
    /// The region that most came from at the look before, while jobs are held back.
    reported_region: Option<RegionName>,
}

impl BacklogMonitor {
    /// From here on arrivals are counted by region, which costs a question more.
    const COUNT_ABOVE: f64 = 0.25;
    const WARN_ABOVE: f64 = 0.5;
    const PAUSE_ABOVE: f64 = 0.8;
    const RESUME_BELOW: f64 = 0.7;

    /// Takes a look into account.
    fn assess_sample(&mut self, look: StreamSample) -> Assessment {
        let lost = self.previous.map_or(0, |before| look.lost_since(&before));
        if self.previous.is_some_and(|before| before.created != look.created) {
            self.ack_floor = 0;
        }
        self.ack_floor = self.ack_floor.max(look.consumer.map_or(0, |taken| taken.ack_floor));
        self.previous = Some(look);
        // The oldest that waits is what is thrown away first, however much of what came after it is stored.
        let behind = look.last_seq.saturating_sub(self.ack_floor).min(look.messages);
        let ratio = look.share_of_limit(behind);
        // A consumer that was made anew is given all again, of which the most is stored.
        let waiting = look.unacked_messages().min(behind);
        let news = match () {
            () if !self.is_paused && ratio >= Self::PAUSE_ABOVE => Some(Transition::Paused),
            () if self.is_paused && ratio < Self::RESUME_BELOW => Some(Transition::Resumed),
            () if !self.is_paused && !self.is_warned && ratio >= Self::WARN_ABOVE => {
                Some(Transition::BacklogHigh)
            }
            () => None,
        };
        self.is_paused = match news {
            Some(Transition::Paused) => true,
            Some(Transition::Resumed) => false,
            _ => self.is_paused,
        };
        self.is_warned = ratio >= Self::WARN_ABOVE;
        Assessment { waiting, ratio, lost, transition: news }
    }
}

impl StreamSample {
    /// How many results are not known to be acknowledged.
    fn unacked_messages(&self) -> u64 {
        let unacknowledged = self.consumer.map(|taken| taken.undelivered.saturating_add(taken.unacked));
        unacknowledged.unwrap_or(self.messages).min(self.messages)
    }

    /// How much of what the stream may hold so many results take.
    fn share_of_limit(&self, results: u64) -> f64 {
        if self.messages == 0 || self.max_bytes == 0 {
            return 0.0;
        }
        (results as f64 / self.messages as f64) * (self.bytes as f64 / self.max_bytes as f64)
    }

    /// How many results that waited at `before`, or came since, have gone and cannot have been acknowledged.
    ///
    /// The server moves the consumer's floor over what it discards, so it must be counted: what waited and what came
    /// either waits still, or was delivered, or is lost.
    fn lost_since(&self, before: &Self) -> u64 {
        let is_same = self.created == before.created;
        let came =
            if is_same { self.last_seq_before.saturating_sub(before.last_seq) } else { self.last_seq_before };
        let may_be_stored = match (before.consumer, self.consumer) {
            (Some(then), Some(now)) if then.created == now.created => {
                then.unacked + now.deliveries.saturating_sub(then.deliveries)
            }
            // It has gone, and with it how much it delivered at the last.
            (Some(_), _) if is_same => return 0,
            (Some(then), now) => then.unacked + now.map_or(0, |now| now.deliveries),
            (None, now) => now.map_or(0, |now| now.deliveries),
        };
        (before.unacked_messages() + came).saturating_sub(self.unacked_messages() + may_be_stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that may hold a thousand results, of which the last `waiting` are undelivered.
    fn look(last: u64, messages: u64, waiting: u64, under_way: u64) -> StreamSample {
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
    fn the_planner_is_held_back_above_four_fifths_and_let_go_below_seven_tenths() {
        let mut watch = BacklogMonitor::default();
        let mut last = 0;
        let mut news = |waiting| {
            last += 1_000;
            watch.assess_sample(look(last, 1_000, waiting, 0)).transition
        };

        assert_eq!(news(499), None);
        assert_eq!((news(500), news(700)), (Some(Transition::BacklogHigh), None));
        assert_eq!((news(800), news(750)), (Some(Transition::Paused), None));
        assert_eq!((news(699), news(800)), (Some(Transition::Resumed), Some(Transition::Paused)));
    }

    #[test]
    fn what_is_stored_takes_no_room_however_full_the_stream_is() {
        let seen = BacklogMonitor::default().assess_sample(look(5_000, 1_000, 10, 20));

        assert_eq!((seen.waiting, seen.transition), (30, None));
        assert!((seen.ratio - 0.03).abs() < 1e-9, "{seen:?}");
    }

    #[test]
    fn one_old_result_that_waits_is_in_danger_however_much_after_it_is_stored() {
        // Given to a sink that sleeps, while another stores all the rest.
        let seen = BacklogMonitor::default().assess_sample(StreamSample {
            consumer: look(900, 900, 0, 1).consumer.map(|taken| ConsumerSample { ack_floor: 5, ..taken }),
            ..look(900, 900, 0, 1)
        });

        assert_eq!((seen.waiting, seen.transition), (1, Some(Transition::Paused)));
    }

    #[test]
    fn without_a_sink_ever_all_results_wait() {
        let never = StreamSample { consumer: None, ..look(900, 900, 0, 0) };

        assert_eq!(BacklogMonitor::default().assess_sample(never).transition, Some(Transition::Paused));
    }

    #[test]
    fn a_consumer_that_was_made_anew_does_not_hold_the_planner_back_for_what_is_stored() {
        let mut watch = BacklogMonitor::default();
        watch.assess_sample(look(900, 900, 0, 0));
        let later = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
        let mut anew = look(905, 905, 905, 0);
        anew.consumer = anew.consumer.map(|taken| ConsumerSample { created: later, ack_floor: 0, ..taken });

        let seen = watch.assess_sample(anew);

        assert_eq!((seen.waiting, seen.lost, seen.transition), (5, 0, None));
    }

    #[test]
    fn results_that_were_thrown_away_unread_are_counted_and_those_that_were_read_are_not() {
        let before = look(1_000, 1_000, 900, 50);
        // 100 came, 30 were delivered; and the oldest 200 that had not been are gone.
        let mut after = look(1_100, 900, 900 + 100 - 30 - 200, 50);
        after.consumer = after.consumer.map(|taken| ConsumerSample { deliveries: 100 + 30, ..taken });

        assert_eq!(after.lost_since(&before), 200 - 50);
        assert_eq!(look(1_100, 1_000, 0, 0).lost_since(&before), 0);
    }

    #[test]
    fn a_stream_that_was_deleted_takes_with_it_what_waited() {
        let before = look(1_000, 1_000, 300, 20);
        let anew = StreamSample {
            created: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9),
            consumer: None,
            ..look(0, 0, 0, 0)
        };

        assert_eq!(anew.lost_since(&before), 300);
    }
}
