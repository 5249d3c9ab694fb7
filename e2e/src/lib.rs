//! The system from outside: a stack of real processes on real servers, which tests start, signal and question.
//!
//! None of our processes is linked here: they are found by their path, as an operator's would be.

pub mod clock_skew;
mod credentials;
pub mod fault_test;
pub mod forged_results;
pub mod invalid_rows;
mod netns;
mod process;

use std::{path::PathBuf, time::Duration};

use picket_proto::{Tickets, ticket::TicketKey};
use picket_testkit::{
    eventually,
    servers::{self, TestNats},
};
use sqlx::{AssertSqlSafe, PgPool};

pub use credentials::Credentials;
pub use netns::{LabHost, NetnsLab};
pub use process::{Process, program_path};

/// Servers of a test's own, and the processes that it starts on them.
pub struct Stack {
    /// The bus.
    pub nats: TestNats,
    /// The database, around all processes.
    pub database: PgPool,
    /// How processes find the bus.
    pub bus: BusEndpoint,
    /// Where the programs are of what is started from now on.
    pub programs: PathBuf,
    database_url: String,
    dir: PathBuf,
}

/// How the processes of a stack find the bus.
#[derive(Clone, Debug)]
pub struct BusEndpoint {
    /// Its servers, separated by commas.
    pub servers: String,
    /// Where 'picket nats init' has written a credential for each, if they need one.
    pub credentials: Option<Credentials>,
}

impl Stack {
    /// Starts the servers and makes the schema, with regions of these names.
    pub async fn start(regions: &[&str]) -> Self {
        let url = servers::shared_postgres().await.create_database().await;
        Self::start_on(regions, url).await
    }

    /// As [`start`](Self::start), on a database that is there.
    pub async fn start_on(regions: &[&str], url: String) -> Self {
        let stack = Self::without_schema(servers::start_nats().await, url);
        stack.prepare_schema(regions).await;
        stack
    }

    /// Makes the schema, with regions of these names.
    pub async fn prepare_schema(&self, regions: &[&str]) {
        assert_eq!(self.run_picket(&["migrate"]).await.0, 0);
        for region in regions {
            assert_eq!(self.run_picket(&["region", "add", region]).await.0, 0);
        }
    }

    /// On servers that may be there or not, without a schema.
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

    /// Starts one of our programs with variables of its own.
    pub async fn spawn_process(
        &self,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        Process::start(self, None, program, options, variables).await
    }

    /// As [`process`](Self::process), on a host that is not the hub.
    pub async fn spawn_process_on(
        &self,
        host: &LabHost,
        program: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        Process::start(self, Some(host), program, options, variables).await
    }

    /// Leads what is started from now on to another database.
    pub fn switch_database(&mut self, url: String) {
        self.database = PgPool::connect_lazy(&url).expect("the URL of a test's database");
        self.database_url = url;
    }

    /// The URL of the database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// A client of the bus, as another program would be one; where the bus wants a credential, the administrator's.
    pub async fn connect_client(&self) -> async_nats::Client {
        let options = match &self.bus.credentials {
            Some(credentials) => credentials.client_options("admin"),
            None => async_nats::ConnectOptions::new(),
        };
        let servers: Vec<String> = self.bus.servers.split(',').map(str::to_owned).collect();
        options.connect(servers).await.expect("the bus is there")
    }

    /// The same, for its streams.
    pub async fn connect_jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.connect_client().await)
    }

    /// Starts a coordinator.
    pub async fn spawn_coordinator(&self, options: &[&str]) -> Process {
        self.spawn_process("picket-coordinator", options, &[]).await
    }

    /// Starts a prober, which may check sites on this machine.
    pub async fn spawn_prober(&self, region: &str, options: &[&str]) -> Process {
        let local = ["--region", region, "--allow-addresses", "127.0.0.0/8,::1/128"];
        self.spawn_process("picket-prober", &[&local, options].concat(), &[]).await
    }

    /// Starts a sink.
    pub async fn spawn_sink(&self, options: &[&str]) -> Process {
        self.spawn_process("picket-sink", options, &[]).await
    }

    /// Makes the tickets of this installation, as its coordinators do.
    pub async fn load_tickets(&self) -> Tickets {
        let keys: Vec<(String, i16, Vec<u8>)> = sqlx::query_as(
            "SELECT installation_id::text, key_id, key FROM picket.settings CROSS JOIN picket.ticket_keys",
        )
        .fetch_all(&self.database)
        .await
        .expect("the keys");
        let installation = keys[0].0.parse().expect("a UUID");
        let key = |(_, id, secret)| TicketKey { id, secret, retired_at: None, is_usable: true };
        Tickets::new(installation, true, &keys.into_iter().map(key).collect::<Vec<_>>())
    }

    /// Runs the operator's command to its end: exit code, standard output, standard error.
    pub async fn run_picket(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_picket_with(arguments, &[]).await
    }

    /// As [`picket`](Self::picket), with variables of its own.
    pub async fn run_picket_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (i32, String, String) {
        let output = self.program_command("picket", arguments).envs(variables.iter().copied()).output();
        let limit = Duration::from_secs(60);
        let output = tokio::time::timeout(limit, output).await.expect("picket ends").expect("picket runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs a statement.
    pub async fn execute_sql(&self, sql: &str) -> u64 {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    /// Asks for one number.
    pub async fn query_number(&self, sql: &str) -> i64 {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database).await;
        found.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Asks for some texts, and shows them as lines.
    pub async fn query_lines(&self, sql: &str) -> Vec<String> {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.database).await;
        found.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Waits until the number that `sql` asks for is at least `least`.
    pub async fn wait_at_least(&self, limit: Duration, least: i64, sql: &str) -> i64 {
        eventually(limit, &format!("{least} of: {sql}"), async || {
            let found = self.query_number(sql).await;
            if found >= least { Ok(found) } else { Err(found) }
        })
        .await
    }

    /// Waits until each schedule in force for which `condition` holds has a real result of a tick that is due after
    /// `since`, by the database's clock, as SQL has it.
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

    /// Waits until the ledger of all shards is closed up to `to`, by the database's clock, as SQL has it.
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

    /// The ticks that should have been in a span that is over, and which of them have no row: computed from the
    /// history of schedules alone.
    pub async fn count_ticks(&self, from: &str, to: &str) -> TickCounts {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE result.site_id IS NULL),
                    count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                    count(*) FILTER (WHERE outcome = 'missed')
             FROM picket.schedules AS schedule
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, coalesce(valid_to, 'infinity'), {from}, {to}) AS tick
             LEFT JOIN picket.check_results AS result
               ON result.scheduled_at = tick AND result.site_id = schedule.site_id
              AND result.region_id = schedule.region_id AND kind = 'scheduled'"
        );
        let row: (i64, i64, i64, i64, i64) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&self.database).await.expect("the ledger");
        TickCounts { ticks: row.0, unaccounted: row.1, up: row.2, down: row.3, missed: row.4 }
    }

    pub(crate) fn program_command(&self, program: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(process::find_program(&self.programs, program));
        command
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .env("NATS_URL", &self.bus.servers)
            .env("PICKET_LOG", "info")
            // The machine of a test may be slow, and all its sites are on one host; few tests are about that.
            .env("PICKET_MAX_DRIFT", "30s")
            .env("PICKET_PER_HOST", "1000")
            // The guardian of the directory ends whatever names it, should the test be killed.
            .arg0(self.dir.join(program))
            .current_dir(&self.dir)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let user = program.strip_prefix("picket-").unwrap_or("operator");
        if let Some(credentials) = &self.bus.credentials {
            command.env("NATS_NKEY", credentials.credential_path(user));
            if let Some(authority) = credentials.authority_path() {
                command.env("NATS_CA", authority);
            }
        }
        command
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// What became of the ticks of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickCounts {
    /// Those that should have been.
    pub ticks: i64,
    /// Those without a row.
    pub unaccounted: i64,
    /// Rows by outcome.
    pub up: i64,
    /// Rows by outcome.
    pub down: i64,
    /// Rows by outcome.
    pub missed: i64,
}
