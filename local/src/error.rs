//! Errors of a local system.

use picket_proto::ValidationError;
use picket_runtime::{ErrorChain, connect};

/// Reason for which a local system does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong usage: a port or a directory is in use, or a value is refused.
    #[error("{0}")]
    Usage(String),
    /// A server does not respond, or cannot be started.
    #[error("{0}")]
    Unreachable(String),
    /// The system ran and then failed for good. The caller should start it again.
    #[error("{0}")]
    Failed(String),
    /// An option has a value that is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] picket_store::Error),
    /// A server cannot be connected to.
    #[error(transparent)]
    Connect(#[from] connect::Error),
}

impl From<picket_servers::Error> for Error {
    fn from(error: picket_servers::Error) -> Self {
        use picket_servers::Error as Servers;
        let text = ErrorChain(&error).to_string();
        match error {
            Servers::DataDirInUse { .. } | Servers::PortTaken { .. } | Servers::PortUnavailable { .. } => {
                Self::Usage(text)
            }
            _ => Self::Unreachable(text),
        }
    }
}
