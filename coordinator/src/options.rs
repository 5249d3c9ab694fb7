//! Command line options of the coordinator.

use clap::Parser;
use picket_runtime::options::{ListenOptions, LogOptions, NatsOptions};
use picket_store::DatabaseOptions;

/// Schedules checks: leases shards of schedules from Postgres and publishes a job on NATS for each
/// tick.
///
/// Any number of coordinators can run; they share the shards and take over from each other. What
/// all of them must agree on is a setting of the database: picket settings list
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-coordinator", version)]
pub struct Options {
    /// Name of this coordinator in leases and logs [default: host name, process and a random part]
    #[arg(long, env = "PICKET_COORDINATOR_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Database connection.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// NATS connection.
    #[command(flatten)]
    pub nats: NatsOptions,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
    /// Listen address of health and metrics.
    #[command(flatten)]
    pub listen: ListenOptions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn cluster_settings_are_not_options_of_one_coordinator() {
        Options::command().debug_assert();
        for option in ["--lease-time", "--min-interval", "--replicas", "--retention-days"] {
            let refusal =
                Options::try_parse_from(["picket-coordinator", option, "5"]).unwrap_err().to_string();
            assert!(refusal.contains(option), "{refusal}");
        }
    }
}
