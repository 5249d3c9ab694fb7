//! A Postgres for tests: a shared one, in which each test has its database, or one of a test's own to be injured.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use picket_servers::{DataDir, PostgresConfig, Signal};
use tokio::{process::Command, sync::OnceCell};

use super::{STOP, background, must, on_a_free_port, scratch_dir, tools};

/// The Postgres that all tests of this process share.
pub async fn postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_init(own_postgres).await
}

/// Starts a Postgres of the caller alone.
pub async fn own_postgres() -> Postgres {
    own_postgres_with(vec![]).await
}

/// Starts a Postgres of the caller alone, with these variables.
pub async fn own_postgres_with(environment: Vec<(String, String)>) -> Postgres {
    let tools = tools().await;
    background(async move {
        let data = must(DataDir::lock(&scratch_dir("postgres")));
        let config = |port| PostgresConfig {
            port,
            max_connections: 300,
            durable: false,
            environment: environment.clone(),
        };
        let server = on_a_free_port(|port| {
            let (tools, data, config) = (&tools, &data, config(port));
            async move { picket_servers::Postgres::start(tools, data, config).await }
        })
        .await;
        let url = server.url();
        Postgres { config: config(server.port()), data, url, server: Some(server) }
    })
    .await
}

/// Dumps a database, as docs/restore.md says, and gives the file.
pub async fn dump(url: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let file = scratch_dir("dump").join(format!("{}.dump", COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut dump = program("pg_dump").await;
    succeeds(dump.args(["--format=custom", "--file"]).arg(&file).arg(url)).await;
    file
}

/// A program of the pinned Postgres.
async fn program(name: &str) -> Command {
    let psql = must(tools().await.postgres()).psql();
    Command::new(psql.with_file_name(name))
}

async fn succeeds(command: &mut Command) {
    let status = command.status().await.expect("the program runs");
    assert!(status.success(), "{command:?} failed");
}

/// Copies a directory with owners and modes.
async fn copy_dir(from: &Path, to: &Path) {
    succeeds(Command::new("cp").arg("-a").args([from, to])).await;
}

/// A Postgres. Dropped, it is shut down at once.
#[derive(Debug)]
pub struct Postgres {
    config: PostgresConfig,
    data: DataDir,
    url: String,
    server: Option<picket_servers::Postgres>,
}

impl Postgres {
    /// The database `picket`, as its superuser; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its data are.
    pub fn home(&self) -> &Path {
        self.server().home()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// Makes an empty database, and gives its URL. It is gone with the server.
    pub async fn database(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.administer(&format!("CREATE DATABASE {name}")).await;
        self.server().url_of(&name)
    }

    /// Restores a [`dump`] into a database that is made for it, as docs/restore.md says, and gives its URL. Roles belong to a
    /// cluster and are made first.
    pub async fn restore(&self, dump: &Path) -> String {
        const ROLES: [&str; 4] = ["picket_coordinator", "picket_sink", "picket_api", "picket_report"];
        for role in ROLES {
            let missing = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'");
            if self.administer(&missing).await.trim() == "0" {
                self.administer(&format!("CREATE ROLE {role} NOLOGIN")).await;
            }
        }
        let url = self.database().await;
        let mut restore = program("pg_restore").await;
        succeeds(restore.args(["--no-owner", "--exit-on-error", "--dbname", &url]).arg(dump)).await;
        url
    }

    /// Runs statements in the database `postgres` with psql, and gives the rows as unaligned text.
    pub async fn administer(&self, sql: &str) -> String {
        // Needs no clock, so it may run on the test's own runtime.
        must(self.server().administer(sql).await)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("logs/postgres.log")).unwrap_or_default()
    }

    /// Starts it again, on its data.
    pub async fn start(&mut self) {
        assert!(self.server.is_none(), "Postgres runs already");
        let (tools, data, config) = (tools().await, self.data.clone(), self.config.clone());
        let start = async move { picket_servers::Postgres::start(&tools, &data, config).await };
        self.server = Some(must(background(start).await));
    }

    /// Stops it in order, ending its sessions.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("Postgres runs");
        must(background(server.stop(STOP)).await);
    }

    /// Kills its postmaster (-9).
    pub async fn kill(&mut self) {
        let server = self.server.take().expect("Postgres runs");
        must(background(server.kill()).await);
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Stops it in order, copies its data to `copy`, and starts it again.
    pub async fn copy_data(&mut self, copy: &Path) {
        let home = self.home().canonicalize().expect("its data are there");
        self.stop().await;
        copy_dir(&home, copy).await;
        self.start().await;
    }

    /// Stops it in order and starts it again on the data of `copy`: all commits since the copy are lost, as in a failover to a
    /// replica that lags behind.
    pub async fn set_back(&mut self, copy: &Path) {
        let home = self.home().canonicalize().expect("its data are there");
        self.stop().await;
        tokio::fs::remove_dir_all(&home).await.expect("its data can be removed");
        copy_dir(copy, &home).await;
        self.start().await;
    }

    /// Lets the postmaster do nothing until [`resume`](Self::resume): new sessions hang, those there are go on.
    pub fn pause(&self) {
        must(self.server().signal(Signal::STOP));
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        must(self.server().signal(Signal::CONT));
    }

    fn server(&self) -> &picket_servers::Postgres {
        self.server.as_ref().expect("Postgres runs")
    }
}
