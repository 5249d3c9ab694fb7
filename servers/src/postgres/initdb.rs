//! Creation of a database cluster and its password, complete or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::Read,
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
};

use super::{PICKET, clean_command, install::PgInstall, run_as, run_command};
use crate::{DataDir, Error, private_file};

/// Returns the password of the cluster, which is created if missing.
pub(super) async fn ensure_cluster(home: &PgInstall, data: &DataDir, durable: bool) -> Result<String, Error> {
    let password_file = data.path().join("postgres.password");
    if home.cluster_dir.exists() {
        let password = fs::read_to_string(&password_file).unwrap_or_default().trim().to_owned();
        if password.is_empty() {
            return Err(Error::PasswordMissing { file: password_file, dir: home.cluster_dir.clone() });
        }
        check_cluster_version(home).await?;
        return Ok(password);
    }
    let password = generate_password()?;
    // The password is stored before the data is created, so the data never exists without it.
    write_secret(&password_file, &password)?;
    run_initdb(home, &password, durable).await?;
    Ok(password)
}

/// Rejects data of another major version, which Postgres cannot read.
async fn check_cluster_version(home: &PgInstall) -> Result<(), Error> {
    let file = home.cluster_dir.join("PG_VERSION");
    let found = fs::read_to_string(&file).map_err(Error::io_context(format!("read {}", file.display())))?;
    let found = found.trim().to_owned();
    let program = home.tools.postgres_path();
    let mut command = clean_command(&program);
    run_as::apply_user(&mut command, home.run_as);
    command.arg("--version");
    let version = run_command(command, program).await?;
    // Example: "postgres (PostgreSQL) 18.6".
    let version = version.split_whitespace().nth(2).unwrap_or_default().to_owned();
    match version.split('.').next() == Some(found.as_str()) {
        true => Ok(()),
        false => Err(Error::VersionMismatch { dir: home.cluster_dir.clone(), found, version }),
    }
}

/// Runs initdb in a temporary directory and renames the result, so a process killed midway leaves
/// no partial cluster.
async fn run_initdb(home: &PgInstall, password: &str, durable: bool) -> Result<(), Error> {
    let new = home.cluster_dir.with_extension("new");
    let password_file = home.cluster_dir.with_extension("new-password");
    let doing = || format!("create the data of Postgres in {}", home.cluster_dir.display());
    if new.exists() {
        fs::remove_dir_all(&new).map_err(Error::io_context(doing()))?;
    }
    DirBuilder::new().mode(0o700).create(&new).map_err(Error::io_context(doing()))?;
    // A file instead of standard input: standard input opened by another user cannot be reopened by
    // name.
    write_secret(&password_file, password)?;
    if let Some(user) = home.run_as {
        for path in [&new, &password_file] {
            chown(path, Some(user.uid), Some(user.gid)).map_err(Error::io_context(doing()))?;
        }
    }

    let program = home.tools.initdb_path();
    let mut command = clean_command(&program);
    run_as::apply_user(&mut command, home.run_as);
    command.arg("--pgdata").arg(&new).arg("--pwfile").arg(&password_file);
    command.args(["--username", PICKET, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
    command.arg("--no-instructions");
    if !durable {
        command.arg("--no-sync");
    } else if cfg!(target_os = "linux") {
        // One sync of the file system instead of about a thousand, one for each file. Those alone
        // take seconds on a busy disk.
        command.arg("--sync-method=syncfs");
    }
    let made = run_command(command, program).await;
    fs::remove_file(&password_file).map_err(Error::io_context(doing()))?;
    made?;
    fs::rename(&new, &home.cluster_dir).map_err(Error::io_context(doing()))
}

/// Writes a file readable only by its owner.
fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    private_file::replace_atomically(path, &format!("{secret}\n"))
        .map_err(Error::io_context(format!("write {}", path.display())))
}

/// Generates 192 random bits in hex, which need no quoting in a URL, a shell or SQL.
fn generate_password() -> Result<String, Error> {
    let mut bytes = [0; 24];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(Error::io_context("read /dev/urandom for a password"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
