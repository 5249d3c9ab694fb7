//! The command as its user runs it: the program itself, against a real Postgres.
#![expect(
    clippy::unwrap_used,
    reason = "as in any test; clippy.toml allows it only within functions marked as tests"
)]

mod apply;
mod assertions;
mod notifications;
mod reports;
mod restore;
mod routes;
mod settings;
mod site_secrets;
mod sites;
mod snapshots;
mod tokens;
mod unreachable;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use picket_harness::servers::shared_postgres;

/// A migrated database with the region `eu`, and the command that uses it.
struct Picket {
    database_url: String,
    dir: tempfile::TempDir,
}

impl Picket {
    async fn new() -> Self {
        let picket = Self {
            database_url: shared_postgres().await.create_database().await,
            dir: tempfile::tempdir().unwrap(),
        };
        picket.run_ok(&["migrate", "--shards", "4"]);
        picket.run_ok(&["region", "add", "eu"]);
        picket
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        picket_command(self.dir()).env("DATABASE_URL", &self.database_url).args(arguments).output().unwrap()
    }

    /// Output of a successful run.
    #[track_caller]
    fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Error output of a run with wrong usage.
    #[track_caller]
    fn run_rejected(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Applies `yaml` from standard input.
    fn apply_yaml(&self, yaml: &str, arguments: &[&str]) -> Output {
        let mut child = picket_command(self.dir())
            .env("DATABASE_URL", &self.database_url)
            .args([&["apply", "-f", "-"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

/// The program in `dir`, without Picket's environment variables.
fn picket_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picket"));
    command.current_dir(dir);
    for (name, _) in std::env::vars() {
        if name.starts_with("PICKET_") || name.starts_with("NATS_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command
}
