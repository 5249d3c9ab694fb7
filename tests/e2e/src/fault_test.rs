//! Fault tests: the whole system under a single fault, and the account of every tick due meanwhile.

mod job_recorder;
mod report_table;
mod tick_account;
mod topology;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use picket_harness::{
    eventually, ledger,
    process::built_dir,
    proxy::Proxy,
    servers::{self, scratch_dir},
    targets::Target,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

pub use job_recorder::{JobRecorder, RecordedJob};
pub use picket_harness::process::WAIT_TIMEOUT;
pub use report_table::{account_cells, build_table};
pub use tick_account::{ReportLine, TickAccount};
pub use topology::{Environment, Topology};

use crate::{BusEndpoint, NetnsLab, Process, Stack};

/// Lease time of a fault test: long enough for a machine with two cores, short enough for a test.
pub const LEASE_TIME: Duration = Duration::from_secs(6);
/// Settings of each fault test, as `picket settings set` takes them.
pub const SETTINGS: [(&str, &str); 3] =
    [("lease_time", "6s"), ("ledger_grace", "10s"), ("min_interval", "1s")];
/// Variables for these settings of coordinators that are older than settings.
const OLDER_VARIABLES: [(&str, &str); 3] =
    [("PICKET_LEASE_TIME", "6s"), ("PICKET_LEDGER_GRACE", "10s"), ("PICKET_MIN_INTERVAL", "1s")];

/// Running system of a fault test. Stops when dropped.
pub struct FaultTest {
    /// Servers of the test.
    pub stack: Stack,
    /// Website that the system checks.
    pub target: Target,
    /// Running coordinators. A test may remove some.
    pub coordinators: Vec<Process>,
    /// Running probers with their regions.
    pub probers: Vec<(&'static str, Process)>,
    /// Running sinks.
    pub sinks: Vec<Process>,
    /// Proxy between the bus and the region of [`Topology::proxied_region`].
    pub link: Proxy,
    /// Network hosts, if the processes do not all run in the test's network.
    pub hosts: Option<NetnsLab>,
    leaf_nodes: Vec<(&'static str, String)>,
    topology: Topology,
    fault_id: &'static str,
    fault_description: &'static str,
    /// Times are SQL texts of the database's clock.
    started_at: String,
    fault_started_at: Option<String>,
    fault_ended_at: Option<String>,
    began: Instant,
    _test_slot: SemaphorePermit<'static>,
}

impl FaultTest {
    /// Starts all processes of `topology` and waits until every schedule is served. `fault` is the
    /// id in the fault matrix, `description` describes the fault.
    pub async fn start(fault: &'static str, description: &'static str, topology: Topology) -> Self {
        Self::start_with(fault, description, topology, Environment::default()).await
    }

    /// Starts as [`start`](Self::start) does, on the test's own servers and hosts, which may be
    /// damaged.
    pub async fn start_with(
        fault: &'static str,
        description: &'static str,
        topology: Topology,
        environment: Environment,
    ) -> Self {
        let test_slot = acquire_test_slot().await;
        let Environment { nats, bus, credentials, leaf_nodes, database, hosts, programs } = environment;
        let nats = match nats {
            Some(nats) => nats,
            None => servers::start_nats().await,
        };
        let url = match database {
            Some(url) => url,
            None => servers::shared_postgres().await.create_database().await,
        };
        let bus = BusEndpoint { servers: bus.unwrap_or_else(|| nats.url()), credentials };
        let mut stack = Stack { bus, ..Stack::without_schema(nats, url) };
        stack.programs = programs.unwrap_or(stack.programs);
        stack.prepare_schema(topology.regions).await;
        if stack.programs == built_dir() {
            for (name, value) in SETTINGS.iter().chain(topology.settings) {
                stack.set_setting(name, value).await;
            }
        }
        let target = match &hosts {
            Some(hosts) => hosts.start_website(),
            None => Target::serve_http().await,
        };
        // Started in every test, used only by the region that the topology names.
        let link = Proxy::forward_to_port(stack.nats.port()).await;
        let mut drill = Self {
            stack,
            target,
            coordinators: vec![],
            probers: vec![],
            sinks: vec![],
            link,
            hosts,
            leaf_nodes,
            topology,
            fault_id: fault,
            fault_description: description,
            started_at: String::new(),
            fault_started_at: None,
            fault_ended_at: None,
            began: Instant::now(),
            _test_slot: test_slot,
        };
        drill.add_sites().await;
        for _ in 0..topology.coordinators {
            let coordinator = drill.spawn_coordinator().await;
            drill.coordinators.push(coordinator);
        }
        for region in topology.regions {
            for _ in 0..topology.probers {
                let prober = drill.spawn_prober(region).await;
                drill.probers.push((region, prober));
            }
        }
        for _ in 0..topology.sinks {
            let sink = drill.spawn_sink().await;
            drill.sinks.push(sink);
        }
        for process in drill.all_processes() {
            process.wait_ready().await;
        }
        // The account begins with a steady system, or start-up would count as part of the fault.
        drill.wait_balanced().await;
        drill.wait_served().await;
        drill.started_at = drill.database_now().await;
        drill
    }

    /// Adds a dozen sites to every region, most with short intervals. Two in three are up.
    async fn add_sites(&self) {
        let insert = |count: u32, seconds: u32, path: &str| {
            let url = self.target.url(path);
            format!(
                "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
                 SELECT '{url}/{seconds}/' || n, {seconds}, 2000 FROM generate_series(1, {count}) AS n;"
            )
        };
        let sites = [
            insert(4, 2, "/ok"),
            insert(2, 2, "/status/500"),
            insert(2, 5, "/ok"),
            insert(2, 5, "/status/500"),
            insert(2, 20, "/ok"),
        ];
        self.stack.execute_sql(&sites.concat()).await;
    }

    /// Starts another coordinator of the topology.
    pub async fn spawn_coordinator(&self) -> Process {
        self.spawn_coordinator_with(&[], &[]).await
    }

    /// Starts a coordinator as [`spawn_coordinator`](Self::spawn_coordinator) does, with additional
    /// options and environment variables.
    pub async fn spawn_coordinator_with(&self, options: &[&str], variables: &[(&str, &str)]) -> Process {
        let older: &[_] = if self.stack.programs == built_dir() { &[] } else { &OLDER_VARIABLES };
        self.stack.spawn_process("picket-coordinator", options, &[older, variables].concat()).await
    }

    /// Starts another prober of the topology.
    pub async fn spawn_prober(&self, region: &str) -> Process {
        self.spawn_prober_with(region, &[]).await
    }

    /// Starts a prober as [`spawn_prober`](Self::spawn_prober) does, with additional environment
    /// variables.
    pub async fn spawn_prober_with(&self, region: &str, variables: &[(&str, &str)]) -> Process {
        let allowed = "127.0.0.0/8,::1/128,10.77.0.0/16";
        let options = ["--region", region, "--allow-addresses", allowed];
        let options = [&options, self.topology.prober_options].concat();
        let leaf = self.leaf_nodes.iter().find(|(leaf, _)| *leaf == region);
        let bus = match (&self.hosts, leaf) {
            (_, Some((_, leaf))) => Some(leaf.clone()),
            (Some(hosts), _) => {
                let hub = hosts.hub().address();
                Some(self.stack.bus.servers.replace("127.0.0.1", &hub.to_string()))
            }
            _ if self.topology.proxied_region == Some(region) => {
                Some(format!("nats://{}", self.link.address()))
            }
            _ => None,
        };
        let bus = bus.as_deref().map(|bus| ("NATS_URL", bus));
        let credentials = self.stack.bus.credentials.as_ref();
        let credential =
            credentials.map(|all| all.credential_path(&format!("prober-{region}")).display().to_string());
        let credential: &[_] = match (&credential, leaf) {
            // The leaf node holds the credential.
            (_, Some(_)) => &[("NATS_NKEY", ""), ("NATS_CA", "")],
            (Some(file), _) => &[("NATS_NKEY", file)],
            _ => &[],
        };
        let variables = [bus.as_slice(), credential, variables].concat();
        match &self.hosts {
            Some(hosts) => {
                let host = hosts.region_host(region);
                self.stack.spawn_process_on(host, "picket-prober", &options, &variables).await
            }
            None => self.stack.spawn_process("picket-prober", &options, &variables).await,
        }
    }

    /// Starts another sink of the topology.
    pub async fn spawn_sink(&self) -> Process {
        self.stack.spawn_sink(self.topology.sink_options).await
    }

    /// All running processes.
    pub fn all_processes(&self) -> impl Iterator<Item = &Process> {
        self.coordinators.iter().chain(self.probers.iter().map(|(_, prober)| prober)).chain(&self.sinks)
    }

    /// Waits until the coordinators hold all shards in equal shares.
    pub async fn wait_balanced(&self) {
        // 64 is the default number of shards.
        let fair = 64 / self.coordinators.len().max(1);
        eventually(WAIT_TIMEOUT, "an even share", async || {
            let held = "SELECT count(*)::text FROM picket.leases WHERE expires_at > now() GROUP BY holder ORDER BY 1";
            let held = self.stack.query_lines(held).await;
            let is_balanced = held.len() == self.coordinators.len()
                && held.iter().all(|held| held.parse().is_ok_and(|held: usize| held.abs_diff(fair) <= 1));
            if is_balanced { Ok(()) } else { Err(held) }
        })
        .await;
    }

    /// Waits until each schedule with a short interval has a real result of a tick due from now on.
    pub async fn wait_served(&self) {
        let now = self.database_now().await;
        self.stack.wait_served_since(WAIT_TIMEOUT, &now, "interval_ms <= 5000").await;
    }

    /// Waits as [`wait_served`](Self::wait_served) does, for regions that match `condition` on
    /// `region.name`.
    pub async fn wait_served_in(&self, condition: &str) {
        let now = self.database_now().await;
        self.stack
            .wait_served_since(WAIT_TIMEOUT, &now, &format!("interval_ms <= 5000 AND {condition}"))
            .await;
    }

    /// Current time of the database's clock, as an SQL text.
    pub async fn database_now(&self) -> String {
        self.stack.query_lines("SELECT clock_timestamp()::text").await.remove(0)
    }

    /// Lets the fault last for `span`, for faults whose effect is their duration.
    pub async fn run_for(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Resident memory of each process in KiB, by name.
    pub fn memory_by_process(&self) -> BTreeMap<String, u64> {
        self.all_processes().map(|process| (process.name().to_owned(), process.memory_kib())).collect()
    }

    /// Asserts that no process in `before` has grown by more than `max_growth_kib`.
    pub fn assert_memory_flat(&self, before: &BTreeMap<String, u64>, max_growth_kib: u64) {
        let now = self.memory_by_process();
        for (name, kib) in &now {
            let before = before.get(name).copied().unwrap_or(*kib);
            assert!(*kib <= before + max_growth_kib, "{name} grew from {before} to {kib} KiB: {now:#?}");
        }
    }

    /// Sum of a metric over the coordinators.
    pub fn sum_coordinator_metric(&self, metric: &str) -> f64 {
        let metric = format!("picket_coordinator_{metric}");
        self.coordinators.iter().map(|coordinator| coordinator.read_metric(&metric)).sum()
    }

    /// Records the start of the fault. Returns the time of the database's clock.
    pub async fn mark_fault_started(&mut self) -> String {
        let now = self.database_now().await;
        self.mark_fault_started_at(&now);
        now
    }

    /// Records the start of the fault at `at`, for faults during which the database does not
    /// answer.
    pub fn mark_fault_started_at(&mut self, at: &str) {
        self.fault_started_at.get_or_insert_with(|| at.to_owned());
        // A fault that heals by itself heals from its start on.
        self.fault_ended_at = Some(at.to_owned());
    }

    /// Records the end of the fault. Returns the time of the database's clock.
    pub async fn mark_fault_ended(&mut self) -> String {
        let now = self.database_now().await;
        self.fault_ended_at = Some(now.clone());
        now
    }

    /// Waits until each tick up to `to` has a real result, for schedules that match `condition` on
    /// `schedule` and `region`. Includes results so late that the ledger had recorded the tick as missed.
    pub async fn wait_completed(&self, to: &str, condition: &str) {
        let (from, to) = (format!("'{}'::timestamptz", self.started_at), format!("'{to}'::timestamptz"));
        eventually(WAIT_TIMEOUT, "every tick to have a real result", async || {
            let undone = ledger::list_unchecked(&self.stack.database, &from, &to, condition).await;
            let undone = undone.expect("the ledger");
            if undone.is_empty() {
                Ok(())
            } else {
                Err((undone.len(), undone.into_iter().take(5).collect::<Vec<_>>()))
            }
        })
        .await;
    }

    /// Connects a separate client to the bus.
    pub async fn connect_client(&self) -> async_nats::Client {
        self.stack.connect_client().await
    }

    /// Waits until the ledger is closed up to now and asserts the invariants of every fault: each
    /// tick has a single row, and no tick is unaccounted for. Writes the row of the report table.
    pub async fn verify_account(&self) -> TickAccount {
        let to = self.database_now().await;
        let healed = self.fault_ended_at.as_ref().unwrap_or(&self.started_at);
        let account = TickAccount::for_span(&self.stack, &self.started_at, &to, healed).await;
        let row = ReportLine {
            fault: self.fault_id.to_owned(),
            description: self.fault_description.to_owned(),
            seconds: self.began.elapsed().as_secs(),
            account: account.clone(),
        };
        let file = report_lines_dir().join(format!("{}.json", self.fault_id));
        fs::write(file, serde_json::to_vec_pretty(&row).expect("a row is JSON")).expect("a file for the row");
        // Asserted after the row is written, so that the table shows failed tests as well.
        assert_eq!(account.unaccounted, 0, "ticks without a row: {account:#?}");
        assert_eq!(account.false_incidents, 0, "false incidents: {account:#?}");
        assert_eq!(account.doubled, 0, "ticks with two rows: {account:#?}");
        assert_eq!(account.ticks, account.up + account.down + account.missed + account.gap, "{account:#?}");
        assert_eq!(self.stack.run_picket(&["ledger", "--since", "15m"]).await.0, 0, "picket ledger agrees");
        account
    }

    /// Describes the missed ticks whose results match `condition`.
    pub async fn describe_missed(&self, condition: &str) -> Vec<String> {
        let missed = format!(
            "SELECT concat_ws(' ', scheduled_at, 'site', site_id, region.name, cause, prober, message)
             FROM picket.check_results AS result JOIN picket.regions AS region ON region.id = region_id
             WHERE outcome = 'missed' AND scheduled_at > '{}' AND {condition} ORDER BY scheduled_at",
            self.started_at
        );
        self.stack.query_lines(&missed).await
    }

    /// Stops all processes gracefully. Each must succeed.
    pub async fn stop(self) {
        for process in self.coordinators {
            process.stop().await;
        }
        for (_, prober) in self.probers {
            prober.stop().await;
        }
        for sink in self.sinks {
            sink.stop().await;
        }
    }

    /// Creates a scratch directory for this test.
    pub fn scratch_dir(&self) -> PathBuf {
        scratch_dir("drill")
    }
}

/// Directory of the rows of the report table.
pub fn report_lines_dir() -> PathBuf {
    let dir = built_dir().join("drill-lines");
    fs::create_dir_all(&dir).expect("a directory for the rows");
    dir
}

/// Limits concurrent fault tests to two, the capacity of two cores.
pub(crate) async fn acquire_test_slot() -> SemaphorePermit<'static> {
    static TEST_SLOTS: Semaphore = Semaphore::const_new(2);
    TEST_SLOTS.acquire().await.expect("the semaphore is never closed")
}
