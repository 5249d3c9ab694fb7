//! Why a command ended without doing what it was asked, and the exit code that says so.

use std::process::ExitCode;

use picket_proto::Invalid;
use picket_runtime::{Chain, process};

pub(crate) use process::EXIT_BAD;

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Wrong usage, or input that is refused.
    #[error("{0}")]
    Usage(String),
    /// What the command needs did not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It ran and then failed for good; who runs it should start it anew.
    #[error("{0}")]
    Failed(String),
    /// Somebody else's fault, said in full: the output could not be written.
    #[error("could not write the output: {0}")]
    Output(std::io::Error),
    /// The reader of our output has gone, as `head` does: no error to speak of.
    #[error("the output is no longer read")]
    NotRead,
}

impl Error {
    /// The exit code of the contract.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => process::EXIT_USAGE,
            Self::Unreachable(_) | Self::Output(_) => process::EXIT_UNREACHABLE,
            Self::Failed(_) => process::EXIT_SOFTWARE,
            Self::NotRead => 0,
        })
    }
}

impl From<Invalid> for Error {
    fn from(why: Invalid) -> Self {
        Self::Usage(why.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::NotRead,
            _ => Self::Output(error),
        }
    }
}

impl From<picket_store::Error> for Error {
    fn from(error: picket_store::Error) -> Self {
        use picket_store::Error as Store;
        let text = Chain(&error).to_string();
        match error {
            Store::Url { .. }
            | Store::Invalid(_)
            | Store::Duplicate
            | Store::NoSite(_)
            | Store::NoRegion(_)
            | Store::SharedSession => Self::Usage(text),
            Store::Database { .. }
            | Store::TimedOut { .. }
            | Store::NotCompared
            | Store::Clock { .. }
            | Store::Migrate(_)
            | Store::Schema { .. } => Self::Unreachable(text),
        }
    }
}

impl From<picket_runtime::bus::Error> for Error {
    fn from(error: picket_runtime::bus::Error) -> Self {
        use picket_runtime::bus::Error as Bus;
        let text = Chain(&error).to_string();
        match error {
            Bus::Options(_) | Bus::File { .. } => Self::Usage(text),
            Bus::TooOld { .. } => Self::Unreachable(text),
        }
    }
}

impl From<picket_servers::Error> for Error {
    fn from(error: picket_servers::Error) -> Self {
        use picket_servers::Error as Servers;
        let text = Chain(&error).to_string();
        match error {
            Servers::DataDirInUse { .. } | Servers::PortTaken { .. } | Servers::Port { .. } => {
                Self::Usage(text)
            }
            _ => Self::Unreachable(text),
        }
    }
}
