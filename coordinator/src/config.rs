//! Configuration of a coordinator.

use picket_runtime::{process, streams::StreamLimits};

use crate::options::Options;

/// Configuration of a coordinator, constant at run time. Values on which all processes must agree
/// are settings of the database.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name in leases and logs; unique among coordinators.
    pub name: String,
    /// Maximum size of the jobs stream in bytes.
    pub max_jobs_bytes: i64,
}

impl Config {
    /// The defaults, with this name.
    pub fn new(name: String) -> Self {
        Self { name, max_jobs_bytes: StreamLimits::default().max_jobs_bytes }
    }
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self::new(options.name.unwrap_or_else(process::unique_name))
    }
}
