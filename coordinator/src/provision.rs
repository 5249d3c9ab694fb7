//! Keeps what the others stand on: the streams, a consumer for each region, the days' partitions. What the consumers say
//! tells also in which regions nobody works; who holds the first shard writes that down.
//!
//! Every coordinator does this, over and over, from what it finds and not from what it is told, so that what
//! somebody deleted is made again. Bound: one round at a time. Loss: none.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    consumer::pull,
    stream::{Config, ConsumerErrorKind, Info},
};
use picket_proto::{Region, Shard, subject};
use picket_runtime::{
    Bus, Chain, Condition,
    streams::{self, Durability},
};
use picket_store::{Store, incidents, partitions, regions, tickets::Keyring, upkeep::Retention};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    clock::SharedClock,
    fence::Fence,
    metrics::{In, Metrics},
    publish::Ownership,
    silence::{Signs, Silence},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

pub enum Msg {
    /// Time to look.
    Round,
    /// Regions may have changed, at the latest then.
    Called(Instant),
}

/// See the module.
#[derive(Clone)]
pub struct Provision {
    pub bus: Bus,
    pub store: Store,
    pub fence: Fence,
    pub keyring: Keyring,
    pub ownership: Ownership,
    pub clock: SharedClock,
    pub durability: Durability,
    pub retention: Retention,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// What was found or made.
#[derive(Default)]
pub struct Found {
    rounds: u64,
    /// In which round partitions were last looked after.
    partitions_at: Option<u64>,
    /// When each was made: tells one that was deleted and made again.
    streams: HashMap<String, OffsetDateTime>,
    /// Those whose consumers were there.
    regions: HashSet<Region>,
    looked_at: Option<Instant>,
    told: bool,
    silence: Silence,
    /// Those that were spoken of in `/metrics`.
    spoken_of: Vec<Region>,
    jobs_full: bool,
}

const ROUND: Duration = Duration::from_secs(5);
/// From here on the stream of jobs counts as nearly full.
const JOBS_FULL: f64 = 0.8;
/// Partitions are made a week ahead; looking every quarter of an hour is plenty.
const PARTITION_ROUNDS: u64 = 180;
/// Incidents of sites that are not watched any more are closed with their schedules; this is for what was overlooked then.
const UNWATCHED_ROUNDS: u64 = 12;

const NO_KEY: &str = "there is no key of tickets in use: sinks that require tickets refuse the results; add one: \
                      INSERT INTO picket.ticket_keys DEFAULT VALUES";

impl Actor for Provision {
    type Msg = Msg;
    type State = Found;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Found, ActorProcessingErr> {
        myself.cast(Msg::Round)?;
        Ok(Found::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        found: &mut Found,
    ) -> Result<(), ActorProcessingErr> {
        let round = match message {
            Msg::Round => true,
            // Looked at since; calls pile up while the bus is away.
            Msg::Called(at) if found.looked_at.is_some_and(|looked_at| at < looked_at) => return Ok(()),
            Msg::Called(_) => false,
        };
        found.looked_at = Some(Instant::now());
        match self.provide(found, round).await {
            Ok(true) => {
                self.condition.holds();
                found.told = false;
            }
            Ok(false) => {
                self.condition.fails(NO_KEY);
                if !std::mem::replace(&mut found.told, true) {
                    warn!("{NO_KEY}");
                }
            }
            Err(error) => {
                found.silence.forget();
                self.condition.fails(Chain(&*error).to_string());
                if !std::mem::replace(&mut found.told, true) {
                    warn!(error = %Chain(&*error), "streams, consumers or partitions are not as they should be, trying again");
                }
            }
        }
        if round {
            myself.send_after(ROUND, || Msg::Round);
        }
        Ok(())
    }
}

impl Provision {
    /// Returns whether there is a key for tickets.
    async fn provide(&self, found: &mut Found, round: bool) -> Result<bool, Error> {
        // First: a stream in trouble must not keep this coordinator on keys that have been retired.
        let has_key = self.keyring.refresh(&self.store).await?.has_key();
        self.streams(found).await?;
        let regions = regions::in_use(&self.store).await?;
        for region in &regions {
            self.consumer(region, found).await?;
        }
        found.silence.keep(&regions);
        let silent = found.silence.silent(Instant::now());
        self.metrics.set_silent(&regions, &silent, &mut found.spoken_of);
        if round {
            // For these one coordinator is enough: the holder of the first shard.
            if self.fence.holds(Shard(0)) {
                self.note_silence(&silent, &found.silence.heard()).await?;
                if found.rounds.is_multiple_of(UNWATCHED_ROUNDS) {
                    incidents::close_unwatched(&self.store).await?;
                }
            }
            // A week of them lies ahead, which is long enough for a clock that is in doubt to heal.
            let is_due = found.partitions_at.is_none_or(|at| found.rounds >= at + PARTITION_ROUNDS);
            if is_due && let Ok(now) = self.clock.now() {
                let made = partitions::ensure(&self.store, now, self.retention).await.inspect_err(|_| {
                    self.metrics.database_errors.inc();
                })?;
                found.partitions_at = Some(found.rounds);
                if made > 0 {
                    info!(partitions = made, "made {made} partitions of results");
                }
            }
            found.rounds += 1;
        }
        // Last, so that nothing else waits for it; also when the database has just called.
        if self.fence.holds(Shard(0)) {
            let sites = regions::reconcile_pending(&self.store).await?;
            if sites > 0 {
                info!(
                    sites,
                    "compared the schedules of sites that were written beside a region, or into a shard that does not exist"
                );
            }
        }
        Ok(has_key)
    }

    /// Settings are brought up to date where a stream has not been seen before: at the start, and when somebody
    /// deleted it and it was made again, by a sink perhaps, which does not know all settings.
    async fn streams(&self, found: &mut Found) -> Result<(), Error> {
        let installation = self.keyring.tickets().installation();
        let mut trouble = None;
        for config in [
            streams::jobs(self.durability),
            streams::results(self.durability),
            streams::events(self.durability),
        ] {
            let is_jobs = config.name == subject::JOBS;
            match self.stream(streams::owned(config, installation), found).await {
                Ok(()) => {}
                Err(error @ streams::Error::Foreign { .. }) => {
                    self.ownership.set(false);
                    return Err(error.into());
                }
                // Jobs are published while only another stream is in trouble.
                Err(error) if is_jobs => return Err(error.into()),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        self.ownership.set(true);
        trouble.map_or(Ok(()), |error| Err(error.into()))
    }

    /// As [`streams`](Self::streams), for one of them.
    async fn stream(&self, config: Config, found: &mut Found) -> Result<(), streams::Error> {
        let name = config.name.clone();
        let created = match self.bus.jetstream.get_stream(&name).await {
            Ok(stream) => {
                let info = stream.cached_info();
                streams::check_owner(&config, &info.config)?;
                if name == subject::JOBS {
                    self.note_jobs_stored(info, found);
                }
                // One that an older version made gets an owner.
                Some(info.created).filter(|_| streams::owner(&info.config).is_some())
            }
            Err(error) if streams::is_absent(&error) => None,
            Err(error) => return Err(streams::Error::Stream { name, source: error.into() }),
        };
        let known = found.streams.get(&name).copied();
        if created.is_some() && created == known {
            return Ok(());
        }
        let made = streams::bring_up_to_date(&self.bus.jetstream, config).await?;
        if known.is_some_and(|known| known != made.created) {
            warn!(stream = name, "the stream {name} was gone and has been made again: what it held is lost");
        }
        found.streams.insert(name, made.created);
        Ok(())
    }

    /// The stream of jobs discards its oldest when it is full, which is the one that is worth least; its tick is missed, and the
    /// ledger sees only that no prober had it.
    fn note_jobs_stored(&self, info: &Info, found: &mut Found) {
        let bytes = u64::try_from(info.config.max_bytes).unwrap_or(0);
        let ratio = if bytes == 0 { 0.0 } else { info.state.bytes as f64 / bytes as f64 };
        self.metrics.jobs_stored_ratio.set(ratio);
        let was_full = std::mem::replace(&mut found.jobs_full, ratio >= JOBS_FULL);
        if found.jobs_full && !was_full {
            warn!(
                jobs = info.state.messages,
                bytes = info.state.bytes,
                max_bytes = bytes,
                "the stream of jobs is nearly full; when it is, the oldest jobs are discarded and their ticks are missed"
            );
        }
    }

    async fn note_silence(
        &self,
        silent: &[(Region, Duration)],
        heard: &[Region],
    ) -> Result<(), picket_store::Error> {
        let (now_silent, back) = regions::note_silence(&self.store, silent, heard).await?;
        if now_silent > 0 {
            let names: Vec<_> = silent.iter().map(|(region, _)| region.as_str()).collect();
            warn!(regions = names.join(", "), "nobody works in: {}", names.join(", "));
        }
        if back > 0 {
            info!(regions = back, "somebody works again in {back} regions that were silent");
        }
        Ok(())
    }

    async fn consumer(&self, region: &Region, found: &mut Found) -> Result<(), Error> {
        let name = subject::prober_consumer(region);
        let jetstream = &self.bus.jetstream;
        let there = match jetstream.get_consumer_from_stream::<pull::Config, _, _>(&name, subject::JOBS).await
        {
            Ok(consumer) => {
                let info = consumer.cached_info();
                let signs = Signs {
                    waiting: info.num_waiting,
                    delivered: info.delivered.consumer_sequence,
                    acknowledged: info.ack_floor.consumer_sequence,
                };
                found.silence.look(region, signs, Instant::now());
                let waiting = i64::try_from(info.num_pending).unwrap_or(i64::MAX);
                self.metrics.waiting.get_or_create(&In { region: region.to_string() }).set(waiting);
                true
            }
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(why) if why.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                    false
                }
                _ => return Err(error.into()),
            },
        };
        let known = found.regions.contains(region);
        if there && known {
            return Ok(());
        }
        streams::ensure_consumer(jetstream, subject::JOBS, streams::prober_consumer(region)).await?;
        match known {
            true => warn!(region = %region, "the consumer {name} was gone and has been made again"),
            false => info!(region = %region, "jobs of region {region} can be pulled"),
        }
        found.regions.insert(region.clone());
        Ok(())
    }
}
