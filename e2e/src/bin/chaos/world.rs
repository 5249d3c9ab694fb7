//! The system that is injured: two coordinators, two sinks, three regions with two probers each behind a link of the
//! region's own, and the servers.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream;
use futures_util::StreamExt as _;
use picket_e2e::{
    Process, Stack,
    lies::lies,
    odd_rows::{ODD, insert_sites},
    skew::DatabaseClock,
};
use picket_proto::{CheckResult, Kind, bundle, subject};
use picket_testkit::{proxy::Proxy, servers::Postgres, target::Target};

use crate::{REGIONS, plan::What, say};

const LONG: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) stack: Stack,
    target: Target,
    postgres: Postgres,
    clock: DatabaseClock,
    coordinators: [Option<Process>; 2],
    probers: Vec<[Option<Process>; 2]>,
    sinks: [Option<Process>; 2],
    links: Vec<Proxy>,
    random: fastrand::Rng,
    added: u32,
}

impl World {
    /// Starts all and waits until each schedule is served.
    pub(crate) async fn start(seed: u64) -> Self {
        let (postgres, clock) = DatabaseClock::start().await;
        let stack = Stack::start_on(&REGIONS, postgres.database().await).await;
        let mut links = Vec::new();
        for _ in REGIONS {
            links.push(Proxy::to_port(stack.nats.port()).await);
        }
        let mut world = Self {
            stack,
            target: Target::http().await,
            postgres,
            clock,
            coordinators: [None, None],
            probers: (0..REGIONS.len()).map(|_| [None, None]).collect(),
            sinks: [None, None],
            links,
            random: fastrand::Rng::with_seed(seed),
            added: 0,
        };
        for (count, seconds, path) in
            [(6, 2, "/ok"), (3, 2, "/status/500"), (6, 5, "/ok"), (2, 5, "/slow/1500"), (3, 30, "/ok")]
        {
            let url = world.target.url(path);
            let insert = format!(
                "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
                 SELECT '{url}/{seconds}/' || n, {seconds}, 3000 FROM generate_series(1, {count}) AS n"
            );
            world.stack.execute(&insert).await;
        }
        for n in 0..2 {
            world.coordinators[n] = Some(world.coordinator().await);
            world.sinks[n] = Some(world.stack.sink(&[]).await);
            for region in 0..REGIONS.len() {
                world.probers[region][n] = Some(world.prober(region).await);
            }
        }
        world.healed().await;
        world
    }

    /// This machine's clock, which is the database's too while nobody has set that, as SQL has it.
    pub(crate) fn now(&self) -> String {
        picket_proto::Timestamp::from(time::OffsetDateTime::now_utc()).to_string()
    }

    async fn coordinator(&self) -> Process {
        self.stack.coordinator(&["--lease-time", "6s", "--ledger-grace", "20s", "--min-interval", "1s"]).await
    }

    async fn prober(&self, region: usize) -> Process {
        let bus = format!("nats://{}", self.links[region].address());
        self.stack.prober(REGIONS[region], &["--nats-url", &bus]).await
    }

    pub(crate) async fn begin(&mut self, what: What) {
        match what {
            What::KillCoordinator(n) => kill(&mut self.coordinators[n]).await,
            What::EndCoordinator(n) => end(&mut self.coordinators[n]).await,
            What::PauseCoordinator(n) => signal(&self.coordinators[n], "STOP"),
            What::KillProber(region, n) => kill(&mut self.probers[region][n]).await,
            What::EndProber(region, n) => end(&mut self.probers[region][n]).await,
            What::PauseProber(region, n) => signal(&self.probers[region][n], "STOP"),
            What::EmptyRegion(region) => {
                for prober in &mut self.probers[region] {
                    kill(prober).await;
                }
            }
            What::CutRegion(region) => self.links[region].blackhole(),
            What::ResetRegion(region) => self.links[region].cut().await,
            What::KillSink(n) => kill(&mut self.sinks[n]).await,
            What::EndSink(n) => end(&mut self.sinks[n]).await,
            What::PauseSink(n) => signal(&self.sinks[n], "STOP"),
            What::RestartPostgres => self.postgres.stop().await,
            What::KillPostgres => self.postgres.kill().await,
            What::RestartNats => self.stack.nats.stop().await,
            What::KillNats => self.stack.nats.kill().await,
            What::EditSites => self.edit().await,
            What::InsertOddRows => {
                let insert = insert_sites(&self.target.url("/ok/odd/"), ODD);
                self.stack.execute(&insert).await;
            }
            What::StepClock(seconds) => self.clock.set(seconds),
            What::PurgeJobs
            | What::PurgeResults
            | What::DeleteJobs
            | What::DeleteConsumer(_)
            | What::ReplayResults
            | What::LieFromRegion(_) => {
                if let Err(error) = self.injure_streams(what).await {
                    say(&format!("       not done: {error}"));
                }
            }
        }
    }

    pub(crate) async fn end(&mut self, what: What) {
        match what {
            What::KillCoordinator(n) | What::EndCoordinator(n) => {
                self.coordinators[n] = Some(self.coordinator().await);
            }
            What::PauseCoordinator(n) => signal(&self.coordinators[n], "CONT"),
            What::KillProber(region, n) | What::EndProber(region, n) => {
                self.probers[region][n] = Some(self.prober(region).await);
            }
            What::PauseProber(region, n) => signal(&self.probers[region][n], "CONT"),
            What::EmptyRegion(region) => {
                for n in 0..2 {
                    self.probers[region][n] = Some(self.prober(region).await);
                }
            }
            What::CutRegion(region) | What::ResetRegion(region) => self.links[region].heal().await,
            What::KillSink(n) | What::EndSink(n) => self.sinks[n] = Some(self.stack.sink(&[]).await),
            What::PauseSink(n) => signal(&self.sinks[n], "CONT"),
            What::RestartPostgres | What::KillPostgres => self.postgres.start().await,
            What::RestartNats | What::KillNats => self.stack.nats.start().await,
            What::StepClock(_) => self.clock.set(0),
            What::InsertOddRows => {
                let delete =
                    format!("DELETE FROM picket.sites WHERE url LIKE '{}%'", self.target.url("/ok/odd/"));
                self.stack.execute(&delete).await;
            }
            _ => {}
        }
    }

    /// Some sites are changed, one is paused or goes on, one is removed, one is added.
    async fn edit(&mut self) {
        self.added += 1;
        let (interval, url) = (self.random.u32(1..=7), self.target.url("/ok/added"));
        let pick = self.random.u32(..1_000);
        self.stack
            .execute(&format!(
                "UPDATE picket.sites SET interval_seconds = {interval} WHERE id % 5 = {pick} % 5;
                 UPDATE picket.sites SET enabled = NOT enabled WHERE id % 11 = {pick} % 11;
                 DELETE FROM picket.sites WHERE id = (SELECT id FROM picket.sites ORDER BY id OFFSET {pick} % 15 LIMIT 1);
                 INSERT INTO picket.sites (url, interval_seconds) VALUES ('{url}/{}', {interval}), ('{url}/more/{}', 2)",
                self.added, self.added
            ))
            .await;
    }

    async fn injure_streams(&mut self, what: What) -> Result<(), async_nats::Error> {
        let client = async_nats::connect(self.stack.nats.url()).await?;
        let jetstream = jetstream::new(client);
        match what {
            What::PurgeJobs => {
                jetstream.get_stream("PICKET_JOBS").await?.purge().await?;
            }
            What::PurgeResults => {
                jetstream.get_stream("PICKET_RESULTS").await?.purge().await?;
            }
            What::DeleteJobs => {
                jetstream.delete_stream("PICKET_JOBS").await?;
            }
            What::DeleteConsumer(region) => {
                let name = format!("prober-{}", REGIONS[region]);
                jetstream.get_stream("PICKET_JOBS").await?.delete_consumer(&name).await?;
            }
            What::LieFromRegion(region) => {
                let (liar, other) = (REGIONS[region], REGIONS[(region + 1) % REGIONS.len()].parse()?);
                let last = last_results(&jetstream).await?;
                let of_liar = last
                    .iter()
                    .flat_map(|(subject, payload)| bundle::results_in(subject, payload))
                    .filter_map(|payload| serde_json::from_slice::<CheckResult>(payload).ok())
                    .filter(|result| result.region.as_str() == liar && result.kind == Kind::Scheduled);
                for lie in of_liar.take(20).flat_map(|result| lies(&result, &other)) {
                    let subject = subject::results(&liar.parse()?);
                    jetstream.publish(subject, lie.to_string().into()).await?.await?;
                }
            }
            _ => {
                let mut some = last_results(&jetstream).await?;
                self.random.shuffle(&mut some);
                for (subject, payload) in some {
                    jetstream.publish(subject, payload.into()).await?.await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until each schedule that is often due is served again.
    pub(crate) async fn healed(&self) {
        self.stack.served_since(LONG, &self.now(), "interval_ms <= 7000").await;
    }

    /// The largest resident memory of each kind of process, in MiB.
    pub(crate) fn memory(&self) -> BTreeMap<&'static str, u64> {
        let mut memory = BTreeMap::new();
        let kinds = [
            ("coordinators", self.coordinators.iter().flatten().collect::<Vec<_>>()),
            ("probers", self.probers.iter().flatten().flatten().collect()),
            ("sinks", self.sinks.iter().flatten().collect()),
        ];
        for (kind, processes) in kinds {
            let most = processes.into_iter().map(|process| process.memory_kib() / 1_024).max();
            memory.insert(kind, most.unwrap_or(0));
        }
        memory
    }

    pub(crate) async fn stop(self) {
        let probers = self.probers.into_iter().flatten();
        for process in self.coordinators.into_iter().chain(probers).chain(self.sinks).flatten() {
            process.stop().await;
        }
    }
}

async fn kill(process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        process.kill().await;
    }
}

/// In order: it must end well, and in time.
async fn end(process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        process.stop().await;
    }
}

fn signal(process: &Option<Process>, signal: &'static str) {
    if let Some(process) = process {
        process.signal(signal);
    }
}

/// Up to 200 of the last messages of the stream of results, with their subjects.
async fn last_results(jetstream: &jetstream::Context) -> Result<Vec<(String, Vec<u8>)>, async_nats::Error> {
    let stream = jetstream.get_stream(subject::RESULTS).await?;
    let start_sequence = stream.cached_info().state.last_sequence.saturating_sub(300).max(1);
    let config = jetstream::consumer::pull::OrderedConfig {
        deliver_policy: jetstream::consumer::DeliverPolicy::ByStartSequence { start_sequence },
        ..Default::default()
    };
    let messages = stream.create_consumer(config).await?.messages().await?;
    let last = messages
        .filter_map(async |message| message.ok())
        .take(200)
        .map(|message| (message.subject.to_string(), message.payload.to_vec()))
        // The stream may hold fewer.
        .take_until(tokio::time::sleep(Duration::from_secs(5)));
    Ok(last.collect().await)
}
