//! What can go wrong with a server of ours, said so that its user knows what to type next.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why a server could not be started, or not be stopped in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program is not where it should be.
    #[error("{program} is not installed: looked in {looked_in}; `./justw tools` installs it into .tools/")]
    ToolMissing {
        /// The program's file name.
        program: &'static str,
        /// The places, for people.
        looked_in: String,
    },

    /// A program of the tools directory does not do what it must.
    #[error("{program} failed ({status}){}", indent_lines(.output))]
    ToolFailed {
        /// The program's path.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },

    /// Another living process has the data directory.
    #[error(
        "{} is in use by {}; stop that one first (`picket down`), or take another --data-dir",
        .dir.display(),
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    DataDirInUse {
        /// The data directory.
        dir: PathBuf,
        /// Who has it, where that is known.
        pid: Option<u32>,
    },

    /// Somebody else listens on the port.
    #[error(
        "port {port} of 127.0.0.1, which {server} is to listen on, is taken; choose another with {option}"
    )]
    PortTaken {
        /// The server's name.
        server: &'static str,
        /// The port.
        port: u16,
        /// The option of `picket up` that changes it.
        option: &'static str,
    },

    /// The port cannot be listened on, for another reason than that it is taken.
    #[error("cannot listen on port {port} of 127.0.0.1 for {server}; {option} chooses another")]
    PortUnavailable {
        /// The server's name.
        server: &'static str,
        /// The port.
        port: u16,
        /// The option of `picket up` that changes it.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A server that an earlier process left behind does not die.
    #[error("{server} of an earlier run (process {pid}) does not end; kill it, then start again")]
    OrphanSurvived {
        /// The server's name.
        server: &'static str,
        /// Its process.
        pid: u32,
    },

    /// The server ended instead of becoming ready.
    #[error("{server} ended while starting ({status}); the end of {}:{}", .log.display(), indent_lines(.tail))]
    ExitedAtStart {
        /// The server's name.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of this start in it.
        tail: String,
    },

    /// The server runs but was not ready in time; it was stopped.
    #[error(
        "{server} was not ready within {} s; the end of {}:{}", .limit.as_secs(), .log.display(), indent_lines(.tail)
    )]
    NotReady {
        /// The server's name.
        server: &'static str,
        /// The time it had.
        limit: Duration,
        /// Its log file.
        log: PathBuf,
        /// The last lines of this start in it.
        tail: String,
    },

    /// The server ended while it was in use.
    #[error("{server} ended ({status}); the end of {}:{}", .log.display(), indent_lines(.tail))]
    Exited {
        /// The server's name.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of this start in it.
        tail: String,
    },

    /// The server did not stop when asked and was killed.
    #[error("{server} did not stop within {} s and was killed", .limit.as_secs())]
    StopTimeout {
        /// The server's name.
        server: &'static str,
        /// The time it had.
        limit: Duration,
    },

    /// Started by root, and there is no other user to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor a user `nobody` to run it as"
    )]
    NoUnprivilegedUser,

    /// The database's files belong to a user that this process can neither be nor become.
    #[error(
        "{} belongs to user {owner}: start as that user, or as root, or move the directory away",
        .dir.display()
    )]
    ForeignData {
        /// The database's files.
        dir: PathBuf,
        /// The user's number.
        owner: u32,
    },

    /// The database's files exist and the user that has to run Postgres cannot get at them.
    #[error(
        "{} cannot be reached by user {user}, whom Postgres runs as: a directory above it is closed to others",
        .dir.display()
    )]
    DataUnreachable {
        /// The database's files.
        dir: PathBuf,
        /// The user's number.
        user: u32,
    },

    /// There are database files, and the file with their password is gone.
    #[error(
        "{} is missing, and without it nobody gets into the database of {}: restore it, or move the database away",
        .file.display(),
        .dir.display()
    )]
    PasswordMissing {
        /// Where the password should be.
        file: PathBuf,
        /// The database's files.
        dir: PathBuf,
    },

    /// The database's files are those of another major version of Postgres.
    #[error(
        "{} holds data of Postgres {found}, which Postgres {version} cannot read. To keep them: start once with --tools-dir \
         naming the tools of a release with Postgres {found}, save the data with pg_dump, stop, move the directory away, \
         start again, and restore them with psql. To begin without them: take another --data-dir",
        .dir.display()
    )]
    VersionMismatch {
        /// The database's files.
        dir: PathBuf,
        /// The major version that wrote them.
        found: String,
        /// The version of the Postgres that was to be started.
        version: String,
    },

    /// A step of the operating system's.
    #[error("cannot {doing}")]
    Io {
        /// What was being done, as it follows "cannot".
        doing: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was being done, as it follows "cannot".
    pub(crate) fn io_context(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// The lines of `text`, each on a line of its own under the message; nothing if there are none.
fn indent_lines(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}
