//! Errors of the local servers. Each message tells the user the next step.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Reason for which a server did not start, ended, or did not stop in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A required program is not installed.
    #[error("{program} is not installed: searched {looked_in}; `./justw tools` installs it into .tools/")]
    ToolMissing {
        /// The program's file name.
        program: &'static str,
        /// The searched places, as text for the user.
        looked_in: String,
    },

    /// A program of the tools directory failed.
    #[error("{program} failed ({status}){}", indent_lines(.output))]
    ToolFailed {
        /// The program's path.
        program: PathBuf,
        /// Exit status of the program.
        status: ExitStatus,
        /// Standard output and standard error of the program.
        output: String,
    },

    /// Another living process holds the data directory.
    #[error(
        "{} is in use by {}; stop that one first (`picket down`), or use another --data-dir",
        .dir.display(),
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    DataDirInUse {
        /// The data directory.
        dir: PathBuf,
        /// Process id of the holder, if known.
        pid: Option<u32>,
    },

    /// Another process listens on the port.
    #[error(
        "port {port} of 127.0.0.1, which {server} is to listen on, is taken; choose another with {option}"
    )]
    PortTaken {
        /// The server's name.
        server: &'static str,
        /// The port.
        port: u16,
        /// Option of `picket up` for this port.
        option: &'static str,
    },

    /// Listening on the port failed, for another reason than a conflict.
    #[error("cannot listen on port {port} of 127.0.0.1 for {server}; {option} chooses another")]
    PortUnavailable {
        /// The server's name.
        server: &'static str,
        /// The port.
        port: u16,
        /// Option of `picket up` for this port.
        option: &'static str,
        /// Cause reported by the operating system.
        #[source]
        source: io::Error,
    },

    /// A server left by an earlier process survived SIGKILL.
    #[error("{server} of an earlier run (process {pid}) did not end; kill it, then start again")]
    OrphanSurvived {
        /// The server's name.
        server: &'static str,
        /// Process id of the server.
        pid: u32,
    },

    /// The server ended instead of becoming ready.
    #[error("{server} ended while starting ({status}); the end of {}:{}", .log.display(), indent_lines(.tail))]
    ExitedAtStart {
        /// The server's name.
        server: &'static str,
        /// Exit status of the server.
        status: ExitStatus,
        /// Path of the log file.
        log: PathBuf,
        /// Last lines of the log since this start.
        tail: String,
    },

    /// The server was not ready in time and was stopped.
    #[error(
        "{server} was not ready within {} s; the end of {}:{}", .limit.as_secs(), .log.display(), indent_lines(.tail)
    )]
    NotReady {
        /// The server's name.
        server: &'static str,
        /// Time limit for the start.
        limit: Duration,
        /// Path of the log file.
        log: PathBuf,
        /// Last lines of the log since this start.
        tail: String,
    },

    /// The server ended while in use.
    #[error("{server} ended ({status}); the end of {}:{}", .log.display(), indent_lines(.tail))]
    Exited {
        /// The server's name.
        server: &'static str,
        /// Exit status of the server.
        status: ExitStatus,
        /// Path of the log file.
        log: PathBuf,
        /// Last lines of the log since this start.
        tail: String,
    },

    /// The server did not stop in time and was killed.
    #[error("{server} did not stop within {} s and was killed", .limit.as_secs())]
    StopTimeout {
        /// The server's name.
        server: &'static str,
        /// Time limit for the stop.
        limit: Duration,
    },

    /// Started by root, and no unprivileged user exists to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor a user `nobody` to run it as"
    )]
    NoUnprivilegedUser,

    /// The database's files belong to another user, and this process cannot change users.
    #[error(
        "{} belongs to user {owner}: start as that user, or as root, or move the directory away",
        .dir.display()
    )]
    ForeignData {
        /// The database's files.
        dir: PathBuf,
        /// User id of the owner.
        owner: u32,
    },

    /// The database's files exist, but Postgres's user cannot reach them.
    #[error(
        "{} cannot be reached by user {user}, which runs Postgres: a parent directory denies access",
        .dir.display()
    )]
    DataUnreachable {
        /// The database's files.
        dir: PathBuf,
        /// User id of Postgres.
        user: u32,
    },

    /// The database's files exist, but the file with their password is missing.
    #[error(
        "{} is missing; without it the database in {} cannot be opened: restore the file, or move the database away",
        .file.display(),
        .dir.display()
    )]
    PasswordMissing {
        /// Expected path of the password file.
        file: PathBuf,
        /// The database's files.
        dir: PathBuf,
    },

    /// The database's files belong to another major version of Postgres.
    #[error(
        "{} holds data of Postgres {found}, which Postgres {version} cannot read. To keep them: start once with --tools-dir \
         naming the tools of a release with Postgres {found}, save the data with pg_dump, stop, move the directory away, \
         start again, and restore them with psql. To begin without them: use another --data-dir",
        .dir.display()
    )]
    VersionMismatch {
        /// The database's files.
        dir: PathBuf,
        /// Major version of the files.
        found: String,
        /// Version of the installed Postgres.
        version: String,
    },

    /// An operation of the operating system failed.
    #[error("cannot {doing}")]
    Io {
        /// Description of the operation, as the continuation of "cannot".
        doing: String,
        /// Cause reported by the operating system.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Adapter for `map_err`. `doing` describes the operation, as the continuation of "cannot".
    pub(crate) fn io_context(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Puts each line of `text` on an indented line of its own; empty if `text` is empty.
fn indent_lines(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}
