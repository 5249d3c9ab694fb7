//! Postgres for tests: a shared one with a database per test, or one per test for fault injection.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use picket_servers::{DataDir, PostgresConfig, Signal};
use tokio::{process::Command, sync::OnceCell};

use super::{STOP_TIMEOUT, expect_ok, pinned_tools, run_in_background, scratch_dir, start_on_free_port};

/// The Postgres shared by all tests of this process.
pub async fn shared_postgres() -> &'static TestPostgres {
    static SHARED: OnceCell<TestPostgres> = OnceCell::const_new();
    SHARED.get_or_init(start_postgres).await
}

/// Starts a Postgres for the caller alone.
pub async fn start_postgres() -> TestPostgres {
    start_postgres_with_env(vec![]).await
}

/// Starts a Postgres for the caller alone, with these environment variables.
pub async fn start_postgres_with_env(environment: Vec<(String, String)>) -> TestPostgres {
    let tools = pinned_tools().await;
    run_in_background(async move {
        let data = expect_ok(DataDir::lock(&scratch_dir("postgres")));
        let config = |port| PostgresConfig {
            port,
            max_connections: 300,
            durable: false,
            environment: environment.clone(),
        };
        let server = start_on_free_port(|port| {
            let (tools, data, config) = (&tools, &data, config(port));
            async move { picket_servers::Postgres::start(tools, data, config).await }
        })
        .await;
        let url = server.url();
        TestPostgres { config: config(server.port()), data, url, server: Some(server) }
    })
    .await
}

/// Dumps a database as in docs/how-to/restore.md, and returns the file.
pub async fn dump_database(url: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let file = scratch_dir("dump").join(format!("{}.dump", COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut dump = postgres_program("pg_dump").await;
    run_checked(dump.args(["--format=custom", "--file"]).arg(&file).arg(url)).await;
    file
}

/// Command that runs a program of the pinned Postgres.
async fn postgres_program(name: &str) -> Command {
    let psql = expect_ok(pinned_tools().await.find_postgres()).psql_path();
    Command::new(psql.with_file_name(name))
}

async fn run_checked(command: &mut Command) {
    let status = command.status().await.expect("the program runs");
    assert!(status.success(), "{command:?} failed");
}

/// Copies a directory with owners and modes.
async fn copy_dir(from: &Path, to: &Path) {
    run_checked(Command::new("cp").arg("-a").args([from, to])).await;
}

/// Handle of a Postgres. Shuts the server down immediately when dropped.
#[derive(Debug)]
pub struct TestPostgres {
    config: PostgresConfig,
    data: DataDir,
    url: String,
    server: Option<picket_servers::Postgres>,
}

impl TestPostgres {
    /// URL of the database `picket` as superuser. Stays the same across restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Data directory.
    pub fn cluster_dir(&self) -> &Path {
        self.running_server().cluster_dir()
    }

    /// Listen port.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// Creates an empty database and returns its URL. The database lives as long as the server.
    pub async fn create_database(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.run_admin_sql(&format!("CREATE DATABASE {name}")).await;
        self.running_server().url_for_database(&name)
    }

    /// Restores a [`dump_database`] file into a new database as in docs/how-to/restore.md, and
    /// returns the URL of the database. Roles belong to a cluster and are created first.
    pub async fn restore_dump(&self, dump: &Path) -> String {
        const ROLES: [&str; 5] =
            ["picket_coordinator", "picket_sink", "picket_notifier", "picket_api", "picket_report"];
        for role in ROLES {
            let missing = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'");
            if self.run_admin_sql(&missing).await.trim() == "0" {
                self.run_admin_sql(&format!("CREATE ROLE {role} NOLOGIN")).await;
            }
        }
        let url = self.create_database().await;
        let mut restore = postgres_program("pg_restore").await;
        run_checked(restore.args(["--no-owner", "--exit-on-error", "--dbname", &url]).arg(dump)).await;
        url
    }

    /// Runs statements in the database `postgres` with psql, and returns the rows as unaligned
    /// text.
    pub async fn run_admin_sql(&self, sql: &str) -> String {
        // Needs no clock, and can therefore run on the test's own runtime.
        expect_ok(self.running_server().run_admin_sql(sql).await)
    }

    /// Log of the server so far.
    pub fn read_log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("logs/postgres.log")).unwrap_or_default()
    }

    /// Starts the server again on its data.
    pub async fn start(&mut self) {
        assert!(self.server.is_none(), "Postgres runs already");
        let (tools, data, config) = (pinned_tools().await, self.data.clone(), self.config.clone());
        let start = async move { picket_servers::Postgres::start(&tools, &data, config).await };
        self.server = Some(expect_ok(run_in_background(start).await));
    }

    /// Stops the server gracefully, ending its sessions.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("Postgres runs");
        expect_ok(run_in_background(server.stop(STOP_TIMEOUT)).await);
    }

    /// Kills the postmaster (-9).
    pub async fn kill(&mut self) {
        let server = self.server.take().expect("Postgres runs");
        expect_ok(run_in_background(server.kill()).await);
    }

    /// Stops the server gracefully and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Stops the server gracefully, copies its data to `copy`, and starts it again.
    pub async fn copy_data(&mut self, copy: &Path) {
        let data_dir = self.cluster_dir().canonicalize().expect("its data are there");
        self.stop().await;
        copy_dir(&data_dir, copy).await;
        self.start().await;
    }

    /// Stops the server gracefully and starts it again on the data of `copy`. All commits since the
    /// copy are lost, as in a failover to a lagging replica.
    pub async fn roll_back_to(&mut self, copy: &Path) {
        let data_dir = self.cluster_dir().canonicalize().expect("its data are there");
        self.stop().await;
        tokio::fs::remove_dir_all(&data_dir).await.expect("its data can be removed");
        copy_dir(copy, &data_dir).await;
        self.start().await;
    }

    /// Suspends the postmaster until [`resume`](Self::resume). New sessions hang, existing ones
    /// continue.
    pub fn pause(&self) {
        expect_ok(self.running_server().send_signal(Signal::STOP));
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        expect_ok(self.running_server().send_signal(Signal::CONT));
    }

    fn running_server(&self) -> &picket_servers::Postgres {
        self.server.as_ref().expect("Postgres runs")
    }
}
