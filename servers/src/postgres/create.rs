//! A new database cluster and its password: complete, or not there at all.

use std::{
    fs::{self, DirBuilder, File},
    io::Read,
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
};

use super::{PICKET, command, home::Home, output, user};
use crate::{DataDir, Error, private};

/// Makes the data if there is none, and gives the password to it.
pub(super) async fn data(home: &Home, data: &DataDir, durable: bool) -> Result<String, Error> {
    let password_file = data.path().join("postgres.password");
    if home.data.exists() {
        let password = fs::read_to_string(&password_file).unwrap_or_default().trim().to_owned();
        if password.is_empty() {
            return Err(Error::PasswordLost { file: password_file, dir: home.data.clone() });
        }
        check_version(home).await?;
        return Ok(password);
    }
    let password = generate()?;
    // First the password, then the data: so there are never data to which nobody has it.
    write_secret(&password_file, &password)?;
    initdb(home, &password, durable).await?;
    Ok(password)
}

/// Refuses data of another major version, which Postgres cannot read.
async fn check_version(home: &Home) -> Result<(), Error> {
    let file = home.data.join("PG_VERSION");
    let found = fs::read_to_string(&file).map_err(Error::io(format!("read {}", file.display())))?;
    let found = found.trim().to_owned();
    let program = home.tools.postgres();
    let mut command = command(&program);
    user::run_as(&mut command, home.user);
    command.arg("--version");
    let version = output(command, program).await?;
    // Such as "postgres (PostgreSQL) 18.6".
    let version = version.split_whitespace().nth(2).unwrap_or_default().to_owned();
    match version.split('.').next() == Some(found.as_str()) {
        true => Ok(()),
        false => Err(Error::OtherVersion { dir: home.data.clone(), found, version }),
    }
}

/// Beside its place until it is whole: a process killed in the midst of it leaves no half a cluster.
async fn initdb(home: &Home, password: &str, durable: bool) -> Result<(), Error> {
    let new = home.data.with_extension("new");
    let password_file = home.data.with_extension("new-password");
    let doing = || format!("create the data of Postgres in {}", home.data.display());
    if new.exists() {
        fs::remove_dir_all(&new).map_err(Error::io(doing()))?;
    }
    DirBuilder::new().mode(0o700).create(&new).map_err(Error::io(doing()))?;
    // A file, since the standard input that another user gave it may not be opened by name.
    write_secret(&password_file, password)?;
    if let Some(user) = home.user {
        for path in [&new, &password_file] {
            chown(path, Some(user.uid), Some(user.gid)).map_err(Error::io(doing()))?;
        }
    }

    let program = home.tools.initdb();
    let mut command = command(&program);
    user::run_as(&mut command, home.user);
    command.arg("--pgdata").arg(&new).arg("--pwfile").arg(&password_file);
    command.args(["--username", PICKET, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
    command.arg("--no-instructions");
    if !durable {
        command.arg("--no-sync");
    } else if cfg!(target_os = "linux") {
        // One call instead of a thousand, one for each file, which alone take seconds on a busy disk.
        command.arg("--sync-method=syncfs");
    }
    let made = output(command, program).await;
    fs::remove_file(&password_file).map_err(Error::io(doing()))?;
    made?;
    fs::rename(&new, &home.data).map_err(Error::io(doing()))
}

/// Writes a file that only this process's user can read.
fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    private::replace(path, &format!("{secret}\n")).map_err(Error::io(format!("write {}", path.display())))
}

/// 192 bits in hex, which need no quoting in a URL, a shell or SQL.
fn generate() -> Result<String, Error> {
    let mut bytes = [0; 24];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(Error::io("read /dev/urandom for a password"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
