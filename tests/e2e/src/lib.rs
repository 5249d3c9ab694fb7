//! End-to-end tests: a stack of real processes on real servers, which tests start, signal and
//! query.
//!
//! No Picket process is linked into this crate. Processes are started by the path of their program,
//! as an operator would start them.
#![warn(missing_docs)]

pub mod clock_skew;
mod credentials;
pub mod fault_test;
pub mod forged_results;
pub mod invalid_rows;
mod netns;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use picket_harness::{
    builders, eventually,
    ledger::{self, TickCounts},
    network::NetworkNamespace,
    process,
    servers::{self, TestNats},
};
use picket_proto::Tickets;
use sqlx::{AssertSqlSafe, PgPool};

pub use credentials::Credentials;
pub use netns::{LabHost, NetnsLab};
pub use picket_harness::process::{Process, program_path};

/// Servers of a single test, and the processes started on them.
pub struct Stack {
    /// The NATS server.
    pub nats: TestNats,
    /// Direct connection to the database.
    pub database: PgPool,
    /// Bus endpoint of the processes.
    pub bus: BusEndpoint,
    /// Directory of the programs started from now on.
    pub programs: PathBuf,
    database_url: String,
    dir: PathBuf,
}

/// Bus endpoint of the processes in a stack.
#[derive(Clone, Debug)]
pub struct BusEndpoint {
    /// Server URLs, separated by commas.
    pub servers: String,
    /// Credentials written by `picket nats init`, if the servers require them.
    pub credentials: Option<Credentials>,
}

impl Stack {
    /// Starts the servers and creates the schema with these regions.
    pub async fn start(regions: &[&str]) -> Self {
        let url = servers::shared_postgres().await.create_database().await;
        Self::start_on(regions, url).await
    }

    /// Starts as [`start`](Self::start) does, on an existing database.
    pub async fn start_on(regions: &[&str], url: String) -> Self {
        let stack = Self::without_schema(servers::start_nats().await, url);
        stack.prepare_schema(regions).await;
        stack
    }

    /// Creates the schema with these regions.
    pub async fn prepare_schema(&self, regions: &[&str]) {
        assert_eq!(self.run_picket(&["migrate"]).await.0, 0);
        for region in regions {
            assert_eq!(self.run_picket(&["region", "add", region]).await.0, 0);
        }
    }

    /// Creates a stack without a schema. The servers need not be running.
    pub fn without_schema(nats: TestNats, database_url: String) -> Self {
        Self {
            bus: BusEndpoint { servers: nats.url(), credentials: None },
            nats,
            programs: process::built_dir(),
            database: PgPool::connect_lazy(&database_url).expect("the URL of a test's database"),
            database_url,
            dir: servers::scratch_dir("stack"),
        }
    }

    /// Starts a program with additional environment variables.
    pub async fn spawn_process(
        &self,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        self.spawn_process_in(None, program, options, variables)
    }

    /// Starts a program as [`spawn_process`](Self::spawn_process) does, on a host other than the
    /// hub.
    pub async fn spawn_process_on(
        &self,
        host: &LabHost,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        self.spawn_process_in(Some(host.network()), program, options, variables)
    }

    fn spawn_process_in(
        &self,
        network: Option<NetworkNamespace>,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        let listen = process::free_address();
        let mut command = self.program_command(program, options);
        command.env("PICKET_LISTEN", listen.to_string());
        for (name, value) in variables {
            // An empty value removes a variable set for all processes.
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        Process::spawn_in(network, program, command, listen, &self.dir)
    }

    /// Connects processes started from now on to another database.
    pub fn switch_database(&mut self, url: String) {
        self.database = PgPool::connect_lazy(&url).expect("the URL of a test's database");
        self.database_url = url;
    }

    /// URL of the database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Connects a separate client to the bus, with the administrator's credential if the bus
    /// requires one.
    pub async fn connect_client(&self) -> async_nats::Client {
        let options = match &self.bus.credentials {
            Some(credentials) => credentials.client_options("admin"),
            None => async_nats::ConnectOptions::new(),
        };
        let servers: Vec<String> = self.bus.servers.split(',').map(str::to_owned).collect();
        options.connect(servers).await.expect("the bus is there")
    }

    /// Connects a separate client with JetStream.
    pub async fn connect_jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.connect_client().await)
    }

    /// Changes a setting of the cluster.
    pub async fn set_setting(&self, name: &str, value: &str) {
        let (code, _, error) = self.run_picket(&["settings", "set", name, value]).await;
        assert_eq!(code, 0, "{name} = {value}: {error}");
    }

    /// Starts a coordinator.
    pub async fn spawn_coordinator(&self, options: &[&str]) -> Process {
        self.spawn_process("picket-coordinator", options, &[]).await
    }

    /// Starts a prober that may check sites on this machine.
    pub async fn spawn_prober(&self, region: &str, options: &[&str]) -> Process {
        let local = ["--region", region, "--allow-addresses", "127.0.0.0/8,::1/128"];
        self.spawn_process("picket-prober", &[&local, options].concat(), &[]).await
    }

    /// Starts a sink.
    pub async fn spawn_sink(&self, options: &[&str]) -> Process {
        self.spawn_process("picket-sink", options, &[]).await
    }

    /// Starts a notifier that may send to this machine.
    pub async fn spawn_notifier(&self, options: &[&str]) -> Process {
        let local = ["--notify-allow-addresses", "127.0.0.0/8,::1/128"];
        self.spawn_process("picket-notifier", &[&local, options].concat(), &[]).await
    }

    /// Starts an API. Returns it with the address of the API itself.
    pub async fn spawn_api(&self, options: &[&str]) -> (Process, SocketAddr) {
        let address = process::free_address();
        let listen = [("PICKET_API_LISTEN", address.to_string())];
        let variables = listen.each_ref().map(|(name, value)| (*name, value.as_str()));
        (self.spawn_process("picket-api", options, &variables).await, address)
    }

    /// Loads the ticket keys of this installation, as coordinators do.
    pub async fn load_tickets(&self) -> Tickets {
        builders::load_tickets(&self.database).await.expect("the keys")
    }

    /// Runs the `picket` command to its end. Returns exit code, standard output and standard error.
    pub async fn run_picket(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_picket_with(arguments, &[]).await
    }

    /// Runs the command as [`run_picket`](Self::run_picket) does, with additional environment
    /// variables.
    pub async fn run_picket_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (i32, String, String) {
        let mut command = self.program_command("picket", arguments);
        process::run_to_end(command.envs(variables.iter().copied())).await
    }

    /// Runs a statement and returns the number of affected rows.
    pub async fn execute_sql(&self, sql: &str) -> u64 {
        let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    /// Runs a query for a number.
    pub async fn query_number(&self, sql: &str) -> i64 {
        let result = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs a query for texts.
    pub async fn query_lines(&self, sql: &str) -> Vec<String> {
        let result = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.database).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Waits until the number selected by `sql` is at least `min`.
    pub async fn wait_at_least(&self, limit: Duration, min: i64, sql: &str) -> i64 {
        eventually(limit, &format!("at least {min} of: {sql}"), async || {
            let value = self.query_number(sql).await;
            if value >= min { Ok(value) } else { Err(value) }
        })
        .await
    }

    /// Waits until each current schedule that matches `condition` has a real result of a tick after
    /// `since`, an SQL text of the database's clock.
    pub async fn wait_served_since(&self, limit: Duration, since: &str, condition: &str) {
        let unserved = format!(
            "SELECT schedule.site_id || ' in ' || region.name FROM picket.schedules AS schedule
             JOIN picket.regions AS region ON region.id = schedule.region_id
             WHERE valid_to IS NULL AND {condition} AND NOT EXISTS (
                 SELECT FROM picket.check_results AS result
                 WHERE result.site_id = schedule.site_id AND result.region_id = schedule.region_id
                   AND scheduled_at > '{since}' AND outcome <> 'missed')"
        );
        eventually(limit, "every schedule to be served", async || {
            let unserved = self.query_lines(&unserved).await;
            if unserved.is_empty() { Ok(()) } else { Err(unserved) }
        })
        .await;
    }

    /// Waits until the ledger of all shards is closed up to `to`, an SQL text of the database's
    /// clock.
    pub async fn wait_ledger_closed(&self, to: &str) {
        let open = format!("SELECT count(*) FROM picket.leases WHERE accounted_through < '{to}'");
        eventually(fault_test::WAIT_TIMEOUT, "the ledger to be closed", async || {
            match self.query_number(&open).await {
                0 => Ok(()),
                open => Err(format!("{open} shards are not closed")),
            }
        })
        .await;
    }

    /// Counts the ticks of a past span and the ticks without a row, as by [`ledger::count_ticks`].
    pub async fn count_ticks(&self, from: &str, to: &str) -> TickCounts {
        ledger::count_ticks(&self.database, from, to).await.expect("the ledger")
    }

    fn program_command(&self, program: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut command = process::program_command(&self.programs, program, &self.dir);
        command
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .env("NATS_URL", &self.bus.servers)
            .env("PICKET_LOG", "info")
            // Test machines may be slow, and all sites share a host; few tests are about these
            // limits.
            .env("PICKET_MAX_DRIFT", "30s")
            .env("PICKET_PER_HOST", "1000")
            .current_dir(&self.dir);
        let user = program.strip_prefix("picket-").unwrap_or("operator");
        if let Some(credentials) = &self.bus.credentials {
            command.env("NATS_NKEY", credentials.credential_path(user));
            if let Some(authority) = credentials.authority_path() {
                command.env("NATS_CA", authority);
            }
        }
        command
    }
}
