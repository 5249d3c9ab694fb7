//! System under test of the chaos run: two coordinators, two sinks, two notifiers with a receiver, the servers, and three regions
//! with two probers each. Each region has its own link to the bus.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream;
use futures_util::StreamExt as _;
use picket_e2e::{
    Process, Stack,
    clock_skew::DatabaseClock,
    forged_results::forge_results,
    invalid_rows::{INVALID_VALUES, build_insert_sql},
};
use picket_harness::{
    Receiver, eventually,
    proxy::Proxy,
    receiver::Answer,
    servers::{Signal, TestPostgres},
    targets::Target,
};
use picket_proto::{CheckKind, CheckResult, bundle, subject};

use crate::{REGIONS, fault_plan::Fault, print_line};

const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct ChaosStack {
    pub(crate) stack: Stack,
    target: Target,
    postgres: TestPostgres,
    clock: DatabaseClock,
    coordinators: [Option<Process>; 2],
    probers: Vec<[Option<Process>; 2]>,
    sinks: [Option<Process>; 2],
    notifiers: [Option<Process>; 2],
    receiver: Receiver,
    links: Vec<Proxy>,
    random: fastrand::Rng,
    added_sites: u32,
}

impl ChaosStack {
    /// Starts all processes and waits until each schedule is served.
    pub(crate) async fn start(seed: u64) -> Self {
        let (postgres, clock) = DatabaseClock::start().await;
        let stack = Stack::start_on(&REGIONS, postgres.create_database().await).await;
        let mut links = Vec::new();
        for _ in REGIONS {
            links.push(Proxy::forward_to_port(stack.nats.port()).await);
        }
        for (name, value) in [("lease_time", "6s"), ("ledger_grace", "20s"), ("min_interval", "1s")] {
            stack.set_setting(name, value).await;
        }
        let mut world = Self {
            stack,
            target: Target::serve_http().await,
            postgres,
            clock,
            coordinators: [None, None],
            probers: (0..REGIONS.len()).map(|_| [None, None]).collect(),
            sinks: [None, None],
            notifiers: [None, None],
            receiver: Receiver::start().await,
            links,
            random: fastrand::Rng::with_seed(seed),
            added_sites: 0,
        };
        // Sites that are up, down or slow, at short and long intervals.
        for (count, seconds, path) in
            [(6, 2, "/ok"), (3, 2, "/status/500"), (6, 5, "/ok"), (2, 5, "/slow/1500"), (3, 30, "/ok")]
        {
            let url = world.target.url(path);
            let insert = format!(
                "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
                 SELECT '{url}/{seconds}/' || n, {seconds}, 3000 FROM generate_series(1, {count}) AS n"
            );
            world.stack.execute_sql(&insert).await;
        }
        // Every incident is told to a program, and people are told by another channel.
        let (hook, phone) = (world.receiver.url("/hook"), world.receiver.url(""));
        world
            .stack
            .execute_sql(&format!(
                "INSERT INTO picket.channels (name, kind, settings) VALUES
                     ('hook', 'webhook', '{{\"url\": \"{hook}\"}}'),
                     ('phone', 'ntfy', '{{\"api_url\": \"{phone}\", \"topic\": \"phone\"}}');
                 INSERT INTO picket.routes (name, channels, wait_ms) VALUES ('programs', '{{hook}}', NULL), ('people', '{{phone}}', 1000)"
            ))
            .await;
        for n in 0..2 {
            world.notifiers[n] = Some(world.spawn_notifier().await);
            world.coordinators[n] = Some(world.spawn_coordinator().await);
            world.sinks[n] = Some(world.stack.spawn_sink(&[]).await);
            for region in 0..REGIONS.len() {
                world.probers[region][n] = Some(world.spawn_prober(region).await);
            }
        }
        world.wait_served().await;
        world
    }

    /// Current time of this machine's clock as an SQL text. The database's clock agrees unless a
    /// fault has set it.
    pub(crate) fn now_sql(&self) -> String {
        picket_proto::Timestamp::from(time::OffsetDateTime::now_utc()).to_string()
    }

    async fn spawn_notifier(&self) -> Process {
        let options = ["--notify-allow-addresses", "127.0.0.0/8"];
        self.stack.spawn_process("picket-notifier", &options, &[]).await
    }

    async fn spawn_coordinator(&self) -> Process {
        self.stack.spawn_coordinator(&[]).await
    }

    async fn spawn_prober(&self, region: usize) -> Process {
        let bus = format!("nats://{}", self.links[region].address());
        self.stack.spawn_prober(REGIONS[region], &["--nats-url", &bus]).await
    }

    pub(crate) async fn begin_fault(&mut self, fault: Fault) {
        match fault {
            Fault::KillCoordinator(n) => kill_process(&mut self.coordinators[n]).await,
            Fault::StopCoordinator(n) => stop_process(&mut self.coordinators[n]).await,
            Fault::PauseCoordinator(n) => signal_process(&self.coordinators[n], Signal::STOP),
            Fault::KillProber(region, n) => kill_process(&mut self.probers[region][n]).await,
            Fault::StopProber(region, n) => stop_process(&mut self.probers[region][n]).await,
            Fault::PauseProber(region, n) => signal_process(&self.probers[region][n], Signal::STOP),
            Fault::EmptyRegion(region) => {
                for prober in &mut self.probers[region] {
                    kill_process(prober).await;
                }
            }
            Fault::CutRegion(region) => self.links[region].blackhole(),
            Fault::ResetRegion(region) => self.links[region].cut().await,
            Fault::KillSink(n) => kill_process(&mut self.sinks[n]).await,
            Fault::StopSink(n) => stop_process(&mut self.sinks[n]).await,
            Fault::PauseSink(n) => signal_process(&self.sinks[n], Signal::STOP),
            Fault::KillNotifier(n) => kill_process(&mut self.notifiers[n]).await,
            Fault::StopNotifier(n) => stop_process(&mut self.notifiers[n]).await,
            Fault::PauseNotifier(n) => signal_process(&self.notifiers[n], Signal::STOP),
            Fault::FailReceiver => self.receiver.answer(Answer::status(500)),
            Fault::BreakSites => {
                self.stack.execute_sql("UPDATE picket.sites SET status = '418' WHERE id % 2 = 0").await;
            }
            Fault::RestartPostgres => self.postgres.stop().await,
            Fault::KillPostgres => self.postgres.kill().await,
            Fault::RestartNats => self.stack.nats.stop().await,
            Fault::KillNats => self.stack.nats.kill().await,
            Fault::EditSites => self.edit_sites().await,
            Fault::InsertInvalidRows => {
                let insert = build_insert_sql(&self.target.url("/ok/odd/"), INVALID_VALUES);
                self.stack.execute_sql(&insert).await;
            }
            Fault::StepClock(seconds) => self.clock.set_offset(seconds),
            Fault::PurgeJobs
            | Fault::PurgeResults
            | Fault::DeleteJobs
            | Fault::DeleteConsumer(_)
            | Fault::ReplayResults
            | Fault::ForgeFromRegion(_) => {
                // A stream may be gone by an earlier fault: reported, not fatal.
                if let Err(error) = self.disrupt_streams(fault).await {
                    print_line(&format!("       not injected: {error}"));
                }
            }
        }
    }

    pub(crate) async fn end_fault(&mut self, fault: Fault) {
        match fault {
            Fault::KillCoordinator(n) | Fault::StopCoordinator(n) => {
                self.coordinators[n] = Some(self.spawn_coordinator().await);
            }
            Fault::PauseCoordinator(n) => signal_process(&self.coordinators[n], Signal::CONT),
            Fault::KillProber(region, n) | Fault::StopProber(region, n) => {
                self.probers[region][n] = Some(self.spawn_prober(region).await);
            }
            Fault::PauseProber(region, n) => signal_process(&self.probers[region][n], Signal::CONT),
            Fault::EmptyRegion(region) => {
                for n in 0..2 {
                    self.probers[region][n] = Some(self.spawn_prober(region).await);
                }
            }
            Fault::CutRegion(region) | Fault::ResetRegion(region) => self.links[region].heal().await,
            Fault::KillSink(n) | Fault::StopSink(n) => self.sinks[n] = Some(self.stack.spawn_sink(&[]).await),
            Fault::PauseSink(n) => signal_process(&self.sinks[n], Signal::CONT),
            Fault::KillNotifier(n) | Fault::StopNotifier(n) => {
                self.notifiers[n] = Some(self.spawn_notifier().await);
            }
            Fault::PauseNotifier(n) => signal_process(&self.notifiers[n], Signal::CONT),
            Fault::FailReceiver => self.receiver.answer(Answer::status(200)),
            Fault::BreakSites => {
                self.stack.execute_sql("UPDATE picket.sites SET status = DEFAULT WHERE status = '418'").await;
            }
            Fault::RestartPostgres | Fault::KillPostgres => self.postgres.start().await,
            Fault::RestartNats | Fault::KillNats => self.stack.nats.start().await,
            Fault::StepClock(_) => self.clock.set_offset(0),
            Fault::InsertInvalidRows => {
                let delete =
                    format!("DELETE FROM picket.sites WHERE url LIKE '{}%'", self.target.url("/ok/odd/"));
                self.stack.execute_sql(&delete).await;
            }
            _ => {}
        }
    }

    /// Changes some sites, toggles and deletes others, and adds two.
    async fn edit_sites(&mut self) {
        self.added_sites += 1;
        let (interval, url) = (self.random.u32(1..=7), self.target.url("/ok/added"));
        let pick = self.random.u32(..1_000);
        self.stack
            .execute_sql(&format!(
                "UPDATE picket.sites SET interval_seconds = {interval} WHERE id % 5 = {pick} % 5;
                 UPDATE picket.sites SET enabled = NOT enabled WHERE id % 11 = {pick} % 11;
                 DELETE FROM picket.sites WHERE id = (SELECT id FROM picket.sites ORDER BY id OFFSET {pick} % 15 LIMIT 1);
                 INSERT INTO picket.sites (url, interval_seconds) VALUES ('{url}/{}', {interval}), ('{url}/more/{}', 2)",
                self.added_sites, self.added_sites
            ))
            .await;
    }

    async fn disrupt_streams(&mut self, fault: Fault) -> Result<(), async_nats::Error> {
        let client = async_nats::connect(self.stack.nats.url()).await?;
        let jetstream = jetstream::new(client);
        match fault {
            Fault::PurgeJobs => {
                jetstream.get_stream("PICKET_JOBS").await?.purge().await?;
            }
            Fault::PurgeResults => {
                jetstream.get_stream("PICKET_RESULTS").await?.purge().await?;
            }
            Fault::DeleteJobs => {
                jetstream.delete_stream("PICKET_JOBS").await?;
            }
            Fault::DeleteConsumer(region) => {
                let name = format!("prober-{}", REGIONS[region]);
                jetstream.get_stream("PICKET_JOBS").await?.delete_consumer(&name).await?;
            }
            Fault::ForgeFromRegion(region) => {
                let (forger, other) = (REGIONS[region], REGIONS[(region + 1) % REGIONS.len()].parse()?);
                let last_results = read_last_results(&jetstream).await?;
                let own_results = last_results
                    .iter()
                    .flat_map(|(subject, payload)| bundle::result_payloads(subject, payload))
                    .filter_map(|payload| serde_json::from_slice::<CheckResult>(payload).ok())
                    .filter(|result| result.region.as_str() == forger && result.kind == CheckKind::Scheduled);
                for forged in own_results.take(20).flat_map(|result| forge_results(&result, &other)) {
                    let subject = subject::result_bundle(&forger.parse()?);
                    jetstream.publish(subject, forged.to_string().into()).await?.await?;
                }
            }
            _ => {
                // Replays results that sinks may have stored already.
                let mut messages = read_last_results(&jetstream).await?;
                self.random.shuffle(&mut messages);
                for (subject, payload) in messages {
                    jetstream.publish(subject, payload.into()).await?.await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until each schedule with a short interval is served again.
    pub(crate) async fn wait_served(&self) {
        self.stack.wait_served_since(WAIT_TIMEOUT, &self.now_sql(), "interval_ms <= 7000").await;
    }

    /// Largest resident memory of each kind of process, in MiB.
    pub(crate) fn memory_by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut memory = BTreeMap::new();
        let kinds = [
            ("coordinators", self.coordinators.iter().flatten().collect::<Vec<_>>()),
            ("probers", self.probers.iter().flatten().flatten().collect()),
            ("sinks", self.sinks.iter().flatten().collect()),
            ("notifiers", self.notifiers.iter().flatten().collect()),
        ];
        for (kind, processes) in kinds {
            let max = processes.into_iter().map(|process| process.memory_kib() / 1_024).max();
            memory.insert(kind, max.unwrap_or(0));
        }
        memory
    }

    /// Waits until everything is told, and counts what was: requests of programs by their ids.
    pub(crate) async fn account_notifications(&self) -> NotificationAccount {
        let waiting = "SELECT (SELECT count(*) FROM picket.transitions WHERE planned_at IS NULL)
                            + (SELECT count(*) FROM picket.notices WHERE channel = 'hook' AND state = 'waiting')";
        // A receiver that failed is asked again after minutes.
        self.stack
            .execute_sql(
                "UPDATE picket.notices SET due_at = now() WHERE state = 'waiting' AND channel = 'hook';
                 UPDATE picket.channel_states SET next_send_at = now();
                 UPDATE picket.channel_lanes SET due_at = now()",
            )
            .await;
        eventually(WAIT_TIMEOUT, "no notice that waits", async || {
            match self.stack.query_number(waiting).await {
                0 => Ok(()),
                waiting => Err(waiting),
            }
        })
        .await;
        let mut requests = BTreeMap::new();
        for request in self.receiver.requests().iter().filter(|request| request.path == "/hook") {
            *requests.entry(request.header("webhook-id").to_owned()).or_insert(0_i64) += 1;
        }
        let number = async |sql: &str| self.stack.query_number(sql).await;
        NotificationAccount {
            events: number("SELECT count(*) FROM picket.notices WHERE channel = 'hook' AND step = 'event'").await,
            suppressed: number("SELECT count(*) FROM picket.notices WHERE channel = 'hook' AND state = 'suppressed'").await,
            received: i64::try_from(requests.len()).unwrap_or(i64::MAX),
            people: self.receiver.requests().iter().filter(|request| request.path == "/").count(),
            unaccounted: number(
                "SELECT coalesce(sum(unaccounted), 0)::bigint FROM report.notification_ledger('-infinity', 'infinity')",
            )
            .await,
        }
    }

    pub(crate) async fn stop(self) {
        let probers = self.probers.into_iter().flatten();
        let others = self.sinks.into_iter().chain(self.notifiers);
        for process in self.coordinators.into_iter().chain(probers).chain(others).flatten() {
            process.stop().await;
        }
    }
}

/// What was told in a run.
pub(crate) struct NotificationAccount {
    /// Events that the program's channel was to be told.
    pub(crate) events: i64,
    /// Events of these that were not told, with a reason.
    pub(crate) suppressed: i64,
    /// Different events that the program received.
    pub(crate) received: i64,
    /// Messages that people received.
    pub(crate) people: usize,
    /// Rows of the ledger of notifications that are unaccounted for.
    pub(crate) unaccounted: i64,
}

async fn kill_process(process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        process.kill().await;
    }
}

/// Stops gracefully. The process must succeed and end in time.
async fn stop_process(process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        process.stop().await;
    }
}

fn signal_process(process: &Option<Process>, signal: Signal) {
    if let Some(process) = process {
        process.send_signal(signal);
    }
}

/// Reads up to 200 of the last messages of the results stream, with their subjects.
async fn read_last_results(
    jetstream: &jetstream::Context,
) -> Result<Vec<(String, Vec<u8>)>, async_nats::Error> {
    let stream = jetstream.get_stream(subject::RESULTS_STREAM).await?;
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
        // The stream may hold fewer messages.
        .take_until(tokio::time::sleep(Duration::from_secs(5)));
    Ok(last.collect().await)
}
