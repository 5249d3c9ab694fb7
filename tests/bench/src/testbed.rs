//! Test bed of the benches: a nats-server and a Postgres as started by `picket up`, and Picket's
//! processes as deployed, started from the programs beside this one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{Context, context::ContextBuilder},
};
use picket_harness::{
    builders,
    process::{self, Process},
    servers,
};
use picket_proto::Tickets;
use picket_runtime::ErrorChain;
use picket_servers::{DataDir, Nats, NatsConfig, Postgres, PostgresConfig, Tools};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions, types::time::OffsetDateTime};
use tokio::process::Command;

use crate::Error;

/// Region of all sites.
pub(crate) const REGION: &str = "bench";
/// Maximum time of a wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Servers without any Picket process. Removed with the bench.
pub(crate) struct Testbed {
    pub(crate) nats: Nats,
    pub(crate) postgres: Postgres,
    pub(crate) database: PgPool,
    dir: PathBuf,
    tools: Tools,
}

impl Testbed {
    /// Starts the servers and creates the schema and the region.
    ///
    /// # Errors
    /// Fails if a server does not start.
    pub(crate) async fn start() -> Result<Self, Error> {
        let bed = Self::start_without_region().await?;
        bed.run_picket(&["region", "add", REGION]).await?;
        Ok(bed)
    }

    /// Starts the servers and creates the schema.
    ///
    /// # Errors
    /// Fails if a server does not start.
    pub(crate) async fn start_without_region() -> Result<Self, Error> {
        let tools = servers::pinned_tools().await;
        let dir = servers::scratch_dir("bench");
        let data = DataDir::lock(&dir).map_err(with_context("data directory"))?;
        let config = NatsConfig { port: servers::non_ephemeral_port(), ..NatsConfig::default() };
        let nats = Nats::start(&tools, &data, config).await.map_err(with_context("nats-server"))?;
        let config = PostgresConfig { port: servers::non_ephemeral_port(), ..PostgresConfig::default() };
        let start = || Postgres::start(&tools, &data, config.clone());
        let postgres = start().await.map_err(with_context("Postgres"))?;
        // Stores the commit time of each row, to the microsecond. Takes effect after a restart.
        let set = "ALTER SYSTEM SET track_commit_timestamp = on";
        postgres.run_admin_sql(set).await.map_err(with_context("Postgres"))?;
        postgres.stop(WAIT_TIMEOUT).await.map_err(with_context("Postgres"))?;
        let postgres = start().await.map_err(with_context("Postgres"))?;
        let database = PgPoolOptions::new().max_connections(2).connect_lazy(&postgres.url());
        let database = database.map_err(with_context("database"))?;
        let bed = Self { nats, postgres, database, dir, tools };
        // Smoke runs are too short for longer intervals.
        bed.run_picket(&["migrate", "--min-interval", "1s"]).await?;
        Ok(bed)
    }

    /// Runs the `picket` command to its end, and returns its standard output.
    async fn run_picket(&self, arguments: &[&str]) -> Result<String, Error> {
        match process::run_to_end(self.program_command("picket").args(arguments)).await {
            (0, stdout, _) => Ok(stdout),
            (_, _, stderr) => Err(Error::Failed(stderr)),
        }
    }

    /// Creates a token of the API that reads everything, and returns its secret.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn create_token(&self, name: &str) -> Result<String, Error> {
        let created =
            self.run_picket(&["token", "create", name, "--scopes", "read", "--output", "json"]).await?;
        let created: serde_json::Value = serde_json::from_str(&created).map_err(with_context("token"))?;
        Ok(created["secret"].as_str().unwrap_or_default().to_owned())
    }

    /// Command that runs a program of this build.
    fn program_command(&self, program: &str) -> Command {
        let mut command = process::program_command(&process::built_dir(), program, &self.dir);
        command.env("DATABASE_URL", self.postgres.url()).env("NATS_URL", self.nats.url());
        command
    }

    /// Starts a process without waiting for its readiness.
    pub(crate) fn spawn_process(&self, program: &str, options: &[&str]) -> Process {
        let listen = process::free_address();
        let mut command = self.program_command(program);
        command.args(options).env("PICKET_LISTEN", listen.to_string());
        Process::spawn(program, command, listen, &self.dir)
    }

    /// Starts a coordinator without waiting for its readiness.
    pub(crate) fn spawn_coordinator(&self) -> Process {
        self.spawn_process("picket-coordinator", &[])
    }

    /// Directory for files of a run.
    pub(crate) fn scratch_dir(&self) -> &Path {
        &self.dir
    }

    /// Command that runs psql on the database.
    ///
    /// # Errors
    /// Fails if psql is not installed.
    pub(crate) fn psql_command(&self) -> Result<Command, Error> {
        let mut command = Command::new(self.tools.find_postgres().map_err(with_context("psql"))?.psql_path());
        command.args(["--no-psqlrc", "--no-password", "--quiet", "--set", "ON_ERROR_STOP=1"]);
        // Passed in the environment, because other users can see a command line.
        let url = self.postgres.url();
        let (user, rest) = url.trim_start_matches("postgres://").split_once(':').unwrap_or_default();
        let password = rest.split('@').next().unwrap_or_default();
        command.env("PGUSER", user).env("PGPASSWORD", password).env("PGDATABASE", user);
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.postgres.port().to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Adds sites with the numbers `first` to `last`, distributed over the addresses, each with the
    /// interval `interval_s`.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn add_sites(
        &self,
        first: u32,
        last: u32,
        interval_s: u32,
        addresses: &[SocketAddr],
    ) -> Result<(), Error> {
        let ports: Vec<String> = addresses.iter().map(|address| address.port().to_string()).collect();
        self.execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds)
             SELECT 'http://127.0.0.1:' || (ARRAY[{}])[1 + n % {}] || '/page/' || n, {interval_s}
             FROM generate_series({first}, {last}) AS n;",
            ports.join(","),
            ports.len(),
        ))
        .await?;
        // Vacuums here, so that autovacuum does not run during a measurement.
        self.execute_sql("VACUUM ANALYZE picket.sites").await?;
        self.execute_sql("VACUUM ANALYZE picket.schedules").await
    }

    /// Adds sites as [`add_sites`](Self::add_sites) does, for hundreds of thousands of sites.
    /// Bypasses the triggers, which take a minute for a million rows, and writes the rows of the
    /// triggers itself. The table must be empty.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn bulk_insert_sites(
        &self,
        count: u32,
        interval_s: u32,
        addresses: &[SocketAddr],
    ) -> Result<(), Error> {
        self.bulk_insert_sites_with_regex(count, interval_s, addresses, "NULL").await
    }

    /// Adds sites as [`bulk_insert_sites`](Self::bulk_insert_sites) does. The SQL expression `regex`
    /// gives the regex of site `n`, or NULL.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn bulk_insert_sites_with_regex(
        &self,
        count: u32,
        interval_s: u32,
        addresses: &[SocketAddr],
        regex: &str,
    ) -> Result<(), Error> {
        let ports: Vec<String> = addresses.iter().map(|address| address.port().to_string()).collect();
        self.execute_sql(&format!(
            "BEGIN;
             SET LOCAL session_replication_role = replica;
             SET LOCAL synchronous_commit = off;
             INSERT INTO picket.sites (id, url, regex, interval_seconds, shard, version) OVERRIDING SYSTEM VALUE
             SELECT n, 'http://127.0.0.1:' || (ARRAY[{}])[1 + n % {}] || '/page/' || n, {regex}, {interval_s},
                    picket.shard_of(n), pg_current_xact_id()
             FROM generate_series(1, {count}) AS n;
             INSERT INTO picket.schedules (site_id, region_id, interval_ms, phase_ms, shard, valid_from)
             SELECT site.id, region.id, {interval_s} * 1000, picket.phase_ms(site.id, region.id, {interval_s} * 1000),
                    site.shard, clock_timestamp()
             FROM picket.sites AS site CROSS JOIN picket.regions AS region;
             SELECT setval(pg_get_serial_sequence('picket.sites', 'id'), {count});
             SELECT pg_notify('picket_sites', '');
             COMMIT;",
            ports.join(","),
            ports.len(),
        ))
        .await?;
        self.execute_sql("VACUUM ANALYZE picket.sites").await?;
        self.execute_sql("VACUUM ANALYZE picket.schedules").await
    }

    /// Connects a client to the bus. Its publishes wait for room when too many acknowledgements are
    /// outstanding.
    ///
    /// # Errors
    /// Fails if the bus is unreachable.
    pub(crate) async fn connect_jetstream(&self) -> Result<(Client, Context), Error> {
        let client = async_nats::connect(self.nats.url()).await.map_err(with_context("NATS"))?;
        let context = ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(WAIT_TIMEOUT)
            .max_ack_inflight(65_536)
            .build(client.clone());
        Ok((client, context))
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn execute_sql(&self, sql: &str) -> Result<(), Error> {
        let run = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database).await;
        run.map(drop).map_err(|why| Error::Failed(format!("{sql}: {why}")))
    }

    /// Runs a query for a number.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn query_number(&self, sql: &str) -> Result<i64, Error> {
        let result = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database).await;
        result.map_err(|why| Error::Failed(format!("{sql}: {why}")))
    }

    /// Current time of the database's clock.
    ///
    /// # Errors
    /// Fails if the database does not answer.
    pub(crate) async fn database_now(&self) -> Result<OffsetDateTime, Error> {
        let now = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.database).await;
        now.map_err(with_context("the database's clock"))
    }

    /// Loads the ticket keys of this installation.
    ///
    /// # Errors
    /// Fails if the database does not answer.
    pub(crate) async fn load_tickets(&self) -> Result<Tickets, Error> {
        builders::load_tickets(&self.database).await.map_err(with_context("keys"))
    }

    /// Stops the servers.
    ///
    /// # Errors
    /// Fails if a server does not stop.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.database.close().await;
        self.nats.stop(WAIT_TIMEOUT).await.map_err(with_context("nats-server"))?;
        self.postgres.stop(WAIT_TIMEOUT).await.map_err(with_context("Postgres"))
    }
}

/// Converts an error to text with a context and all causes.
pub(crate) fn with_context<E: std::error::Error + 'static>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Failed(format!("{doing}: {}", ErrorChain(&error)))
}
