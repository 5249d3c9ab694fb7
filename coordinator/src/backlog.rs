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
use picket_proto::{Region, subject};
use picket_runtime::{Bus, Condition};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use self::arrivals::Stored;
use crate::metrics::Metrics;

/// Whether the planner is held back. Cheap to clone; all clones are one brake.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// Whether no jobs may be published now.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

pub enum Msg {
    /// Time to look.
    Look,
}

/// See the module.
#[derive(Clone)]
pub struct Backlog {
    pub bus: Bus,
    pub brake: Brake,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// Between looks: a full fifth of the stream must not be filled meanwhile.
const ROUND: Duration = Duration::from_secs(2);
/// For all questions of a look.
const PATIENCE: Duration = Duration::from_secs(5);

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Actor for Backlog {
    type Msg = Msg;
    type State = Watch;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Watch, ActorProcessingErr> {
        myself.cast(Msg::Look)?;
        Ok(Watch::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        Msg::Look: Msg,
        watch: &mut Watch,
    ) -> Result<(), ActorProcessingErr> {
        match timeout(PATIENCE, self.look()).await {
            Ok(Ok(look)) => {
                let seen = watch.see(look);
                self.count_arrivals(&seen, watch).await;
                self.say(seen, &look, watch);
            }
            // Who keeps the streams says what is wrong with them; the brake stays as it is.
            Ok(Err(why)) => debug!(error = why, "the stream of results could not be looked at"),
            Err(_) => debug!("NATS does not say how the stream of results is"),
        }
        myself.send_after(ROUND, || Msg::Look);
        Ok(())
    }
}

impl Backlog {
    async fn look(&self) -> Result<Look, Error> {
        let jetstream = &self.bus.jetstream;
        // Before and after: what comes while the consumer is asked must not look like a loss.
        let mut stream = jetstream.get_stream(subject::RESULTS).await?;
        let last_before = stream.cached_info().state.last_sequence;
        let consumer = match stream.consumer_info(subject::SINK).await {
            Ok(consumer) => Some(consumer),
            Err(why) if why.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(why) => return Err(why.into()),
        };
        let Info { config, created, state, .. } = stream.info().await?.clone();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(Look {
            created,
            last_before,
            last: state.last_sequence,
            messages: state.messages,
            bytes: state.bytes,
            max_bytes: u64::try_from(config.max_bytes).unwrap_or(0),
            taken: consumer.map(|consumer| Taken {
                created: consumer.created,
                undelivered: consumer.num_pending,
                under_way: count(consumer.num_ack_pending),
                deliveries: consumer.delivered.consumer_sequence,
                floor: consumer.ack_floor.stream_sequence,
            }),
        })
    }

    fn say(&self, seen: Seen, look: &Look, watch: &Watch) {
        let Seen { waiting, ratio, lost, news } = seen;
        self.metrics.results_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.results_waiting_ratio.set(ratio);
        self.metrics.planner_held_back.set(i64::from(watch.held));
        self.brake.set(watch.held);
        let (percent, most_mib) = ((ratio * 100.0).round(), look.max_bytes >> 20);
        if lost > 0 {
            self.metrics.results_discarded.inc_by(lost);
            error!(
                messages = lost,
                "{lost} messages with results left the stream before a sink had stored them: these are lost, and the ledger will say missed"
            );
        }
        match news {
            Some(News::Held) => error!(
                waiting,
                "publishing no jobs: {waiting} messages with results wait for a sink, the oldest behind {percent} % of the {most_mib} MiB \
                 that the stream may hold; are sinks running, and is the database well?"
            ),
            Some(News::LetGo) => info!(waiting, "publishing jobs again: sinks have caught up to {percent} %"),
            Some(News::Much) => warn!(
                waiting,
                "{waiting} messages with results wait for a sink, the oldest behind {percent} % of the {most_mib} MiB that the stream \
                 may hold; above {} % no jobs are published",
                Watch::HOLD * 100.0
            ),
            None => {}
        }
        match watch.held {
            true => self.condition.fails(format!(
                "no jobs are published: {waiting} messages with results wait for a sink, {percent} % of what the stream may hold"
            )),
            false => self.condition.holds(),
        }
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When the stream was made.
    created: OffsetDateTime,
    /// The number of its last message before the consumer was asked.
    last_before: u64,
    /// The number of its last message after the consumer was asked.
    last: u64,
    messages: u64,
    bytes: u64,
    /// 0: without limit.
    max_bytes: u64,
    /// The sinks' consumer, if there is one.
    taken: Option<Taken>,
}

/// How far the sinks are.
#[derive(Clone, Copy, Debug)]
struct Taken {
    created: OffsetDateTime,
    undelivered: u64,
    /// Delivered and not acknowledged.
    under_way: u64,
    /// How many there have been, with those that were repeated.
    deliveries: u64,
    /// All messages up to this one are acknowledged.
    floor: u64,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    waiting: u64,
    /// How much of what the stream may hold is taken from the oldest result that waits to the newest.
    ratio: f64,
    /// What has been lost since the look before, at least.
    lost: u64,
    news: Option<News>,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Much,
    Held,
    LetGo,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watch {
    before: Option<Look>,
    /// Up to here all are known to be stored, whatever became of the consumer since.
    floor: u64,
    held: bool,
    warned: bool,
    /// While sinks are behind, what the stream had at the look before.
    stored: Option<Stored>,
    /// The region that most came from at the look before, while jobs are held back.
    named: Option<Region>,
}

impl Watch {
    /// From here on arrivals are counted by region, which costs a question more.
    const COUNT: f64 = 0.25;
    const WARN: f64 = 0.5;
    const HOLD: f64 = 0.8;
    const LET_GO: f64 = 0.7;

    /// Takes a look into account.
    fn see(&mut self, look: Look) -> Seen {
        let lost = self.before.map_or(0, |before| look.lost_since(&before));
        if self.before.is_some_and(|before| before.created != look.created) {
            self.floor = 0;
        }
        self.floor = self.floor.max(look.taken.map_or(0, |taken| taken.floor));
        self.before = Some(look);
        // The oldest that waits is what is thrown away first, however much of what came after it is stored.
        let behind = look.last.saturating_sub(self.floor).min(look.messages);
        let ratio = look.share(behind);
        // A consumer that was made anew is given all again, of which the most is stored.
        let waiting = look.waiting().min(behind);
        let news = match () {
            () if !self.held && ratio >= Self::HOLD => Some(News::Held),
            () if self.held && ratio < Self::LET_GO => Some(News::LetGo),
            () if !self.held && !self.warned && ratio >= Self::WARN => Some(News::Much),
            () => None,
        };
        self.held = match news {
            Some(News::Held) => true,
            Some(News::LetGo) => false,
            _ => self.held,
        };
        self.warned = ratio >= Self::WARN;
        Seen { waiting, ratio, lost, news }
    }
}

impl Look {
    /// How many results are not known to be acknowledged.
    fn waiting(&self) -> u64 {
        let unacknowledged = self.taken.map(|taken| taken.undelivered.saturating_add(taken.under_way));
        unacknowledged.unwrap_or(self.messages).min(self.messages)
    }

    /// How much of what the stream may hold so many results take.
    fn share(&self, results: u64) -> f64 {
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
        let came = if is_same { self.last_before.saturating_sub(before.last) } else { self.last_before };
        let may_be_stored = match (before.taken, self.taken) {
            (Some(then), Some(now)) if then.created == now.created => {
                then.under_way + now.deliveries.saturating_sub(then.deliveries)
            }
            // It has gone, and with it how much it delivered at the last.
            (Some(_), _) if is_same => return 0,
            (Some(then), now) => then.under_way + now.map_or(0, |now| now.deliveries),
            (None, now) => now.map_or(0, |now| now.deliveries),
        };
        (before.waiting() + came).saturating_sub(self.waiting() + may_be_stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that may hold a thousand results, of which the last `waiting` are undelivered.
    fn look(last: u64, messages: u64, waiting: u64, under_way: u64) -> Look {
        let created = OffsetDateTime::UNIX_EPOCH;
        Look {
            created,
            last_before: last,
            last,
            messages,
            bytes: messages * 500,
            max_bytes: 500_000,
            taken: Some(Taken {
                created,
                undelivered: waiting,
                under_way,
                deliveries: last - waiting,
                floor: last - waiting - under_way,
            }),
        }
    }

    #[test]
    fn the_planner_is_held_back_above_four_fifths_and_let_go_below_seven_tenths() {
        let mut watch = Watch::default();
        let mut last = 0;
        let mut news = |waiting| {
            last += 1_000;
            watch.see(look(last, 1_000, waiting, 0)).news
        };

        assert_eq!(news(499), None);
        assert_eq!((news(500), news(700)), (Some(News::Much), None));
        assert_eq!((news(800), news(750)), (Some(News::Held), None));
        assert_eq!((news(699), news(800)), (Some(News::LetGo), Some(News::Held)));
    }

    #[test]
    fn what_is_stored_takes_no_room_however_full_the_stream_is() {
        let seen = Watch::default().see(look(5_000, 1_000, 10, 20));

        assert_eq!((seen.waiting, seen.news), (30, None));
        assert!((seen.ratio - 0.03).abs() < 1e-9, "{seen:?}");
    }

    #[test]
    fn one_old_result_that_waits_is_in_danger_however_much_after_it_is_stored() {
        // Given to a sink that sleeps, while another stores all the rest.
        let seen = Watch::default().see(Look {
            taken: look(900, 900, 0, 1).taken.map(|taken| Taken { floor: 5, ..taken }),
            ..look(900, 900, 0, 1)
        });

        assert_eq!((seen.waiting, seen.news), (1, Some(News::Held)));
    }

    #[test]
    fn without_a_sink_ever_all_results_wait() {
        let never = Look { taken: None, ..look(900, 900, 0, 0) };

        assert_eq!(Watch::default().see(never).news, Some(News::Held));
    }

    #[test]
    fn a_consumer_that_was_made_anew_does_not_hold_the_planner_back_for_what_is_stored() {
        let mut watch = Watch::default();
        watch.see(look(900, 900, 0, 0));
        let later = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
        let mut anew = look(905, 905, 905, 0);
        anew.taken = anew.taken.map(|taken| Taken { created: later, floor: 0, ..taken });

        let seen = watch.see(anew);

        assert_eq!((seen.waiting, seen.lost, seen.news), (5, 0, None));
    }

    #[test]
    fn results_that_were_thrown_away_unread_are_counted_and_those_that_were_read_are_not() {
        let before = look(1_000, 1_000, 900, 50);
        // 100 came, 30 were delivered; and the oldest 200 that had not been are gone.
        let mut after = look(1_100, 900, 900 + 100 - 30 - 200, 50);
        after.taken = after.taken.map(|taken| Taken { deliveries: 100 + 30, ..taken });

        assert_eq!(after.lost_since(&before), 200 - 50);
        assert_eq!(look(1_100, 1_000, 0, 0).lost_since(&before), 0);
    }

    #[test]
    fn a_stream_that_was_deleted_takes_with_it_what_waited() {
        let before = look(1_000, 1_000, 300, 20);
        let anew = Look {
            created: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9),
            taken: None,
            ..look(0, 0, 0, 0)
        };

        assert_eq!(anew.lost_since(&before), 300);
    }
}
