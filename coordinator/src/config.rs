//! Configuration of a coordinator.

use std::time::Duration;

use picket_proto::site::IntervalRange;
use picket_runtime::{process, streams::StreamLimits};
use picket_store::housekeeping::Retention;

use crate::options::Options;

/// Configuration of a coordinator, constant at run time.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name in leases and logs; unique among coordinators.
    pub name: String,
    /// Time after which an unrenewed lease expires.
    pub lease_time: Duration,
    /// Intervals allowed for a site.
    pub intervals: IntervalRange,
    /// Limits of the streams.
    pub stream_limits: StreamLimits,
    /// Time from a tick until its ledger is closed.
    pub ledger_grace: Duration,
    /// Maximum time a due job waits to be published together with others.
    pub batch_delay: Duration,
    /// Retention of results and rollups.
    pub retention: Retention,
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            name: options.name.unwrap_or_else(process::unique_name),
            lease_time: options.lease_time.0,
            intervals: IntervalRange { min: options.min_interval.0, max: options.max_interval.0 },
            stream_limits: StreamLimits {
                replicas: options.replicas.into(),
                max_results_bytes: i64::try_from(options.results_max_bytes.0).unwrap_or(i64::MAX),
                ..StreamLimits::default()
            },
            ledger_grace: options.ledger_grace.0,
            batch_delay: options.gather.0,
            retention: options.retention.to_retention(),
        }
    }
}
