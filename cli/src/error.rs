//! Errors of the commands, with their exit codes.

use std::process::ExitCode;

use picket_proto::ValidationError;
use picket_runtime::{ErrorChain, discovery::ConnectionLost, process};

pub(crate) use process::EXIT_NEGATIVE;

/// Reason for which a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Wrong usage or refused input.
    #[error("{0}")]
    Usage(String),
    /// A service that the command needs did not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The command ran and then failed for good. The caller should start it again.
    #[error("{0}")]
    Failed(String),
    /// The output could not be written.
    #[error("could not write the output: {0}")]
    Output(std::io::Error),
    /// The reader closed the pipe, as `head` does. Not reported as an error.
    #[error("the output is no longer read")]
    BrokenPipe,
}

impl Error {
    /// Exit code of the process, as documented in docs/reference/exit-codes.md.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => process::EXIT_USAGE,
            Self::Unreachable(_) | Self::Output(_) => process::EXIT_UNREACHABLE,
            Self::Failed(_) => process::EXIT_SOFTWARE,
            Self::BrokenPipe => 0,
        })
    }
}

impl From<ValidationError> for Error {
    fn from(why: ValidationError) -> Self {
        Self::Usage(why.to_string())
    }
}

impl From<ConnectionLost> for Error {
    fn from(lost: ConnectionLost) -> Self {
        Self::Unreachable(lost.to_string())
    }
}

/// Error for a connection to NATS lost while in use.
pub(crate) fn connection_lost(why: impl std::fmt::Display) -> Error {
    ConnectionLost::new(why).into()
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }
}

impl From<picket_store::Error> for Error {
    fn from(error: picket_store::Error) -> Self {
        use picket_store::Error as Store;
        let text = ErrorChain(&error).to_string();
        match error {
            Store::InvalidUrl { .. }
            | Store::Invalid(_)
            | Store::DuplicateSite
            | Store::SiteNotFound(_)
            | Store::SiteChanged(_)
            | Store::SettingsChanged
            | Store::RegionNotFound(_)
            | Store::DuplicateToken(_)
            | Store::TokenNotFound(_)
            | Store::SchemaIncompatible { .. }
            | Store::SharedSession => Self::Usage(text),
            Store::Database { .. }
            | Store::TimedOut { .. }
            | Store::ServerNotVerified
            | Store::ClockMismatch { .. }
            | Store::MigrationFailed(_)
            | Store::SchemaOutdated { .. } => Self::Unreachable(text),
        }
    }
}

impl From<picket_runtime::bus::Error> for Error {
    fn from(error: picket_runtime::bus::Error) -> Self {
        use picket_runtime::bus::Error as Bus;
        let text = ErrorChain(&error).to_string();
        match error {
            Bus::InvalidOptions(_) | Bus::UnreadableFile { .. } => Self::Usage(text),
            Bus::ServerTooOld { .. } => Self::Unreachable(text),
        }
    }
}

impl From<picket_runtime::connect::Error> for Error {
    fn from(error: picket_runtime::connect::Error) -> Self {
        use picket_runtime::connect::Error as Connect;
        match error {
            Connect::Bus(error) => error.into(),
            Connect::Unreachable(text) => Self::Unreachable(text),
        }
    }
}

#[cfg(feature = "local")]
impl From<picket_local::Error> for Error {
    fn from(error: picket_local::Error) -> Self {
        use picket_local::Error as Local;
        match error {
            Local::Usage(text) => Self::Usage(text),
            Local::Unreachable(text) => Self::Unreachable(text),
            Local::Failed(text) => Self::Failed(text),
            Local::Invalid(why) => why.into(),
            Local::Store(error) => error.into(),
            Local::Connect(error) => error.into(),
        }
    }
}
