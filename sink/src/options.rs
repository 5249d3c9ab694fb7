//! Options of the sink.

use std::time::Duration;

use clap::Parser;
use picket_runtime::options::{DurationArg, ListenOptions, LogOptions, NatsOptions};
use picket_store::DatabaseOptions;

const MAX_BATCH_SIZE: i64 = 10_000;

/// Writes check results from NATS to Postgres; any number of sinks share the work
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-sink", version)]
pub struct Options {
    /// Approximate maximum results per transaction; bundles are not split
    #[arg(long, env = "PICKET_BATCH_SIZE", default_value_t = 8_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub batch_size: u32,
    /// Maximum time that a result waits for a batch to fill, such as 250ms; at most 10s
    #[arg(long, env = "PICKET_BATCH_AGE", default_value = "250ms", value_name = "DURATION", value_parser = parse_batch_age)]
    pub batch_age: DurationArg,
    /// Maximum time to write fetched results at shutdown
    #[arg(long, env = "PICKET_DRAIN_TIMEOUT", default_value = "15s", value_name = "DURATION")]
    pub drain_timeout: DurationArg,
    /// NATS connection.
    #[command(flatten)]
    pub nats: NatsOptions,
    /// Database connection.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
    /// Listen address of health and metrics.
    #[command(flatten)]
    pub listen: ListenOptions,
}

/// Parses the batch age. The maximum is well below the time after which NATS redelivers a result to
/// another sink.
fn parse_batch_age(text: &str) -> Result<DurationArg, String> {
    const MAX: DurationArg = DurationArg(Duration::from_secs(10));
    match text.parse()? {
        age if age <= MAX => Ok(age),
        _ => Err(format!("'{text}' is too long; allowed: at most {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn absent_options_have_the_defaults_of_the_help() {
        let options = Options::try_parse_from(["picket-sink"]).unwrap();

        assert_eq!(Config::from(options), Config::default());
    }

    #[test]
    fn an_empty_or_oversized_batch_size_is_refused_with_the_allowed_range() {
        for size in ["0", "10001", "x"] {
            let refusal = Options::try_parse_from(["picket-sink", "--batch-size", size]).unwrap_err();
            assert!(refusal.to_string().contains("--batch-size"), "{refusal}");
        }
        let refusal = Options::try_parse_from(["picket-sink", "--batch-age", "soon"]).unwrap_err();
        assert!(refusal.to_string().contains("15s or 1h30m"), "{refusal}");
        let refusal = Options::try_parse_from(["picket-sink", "--batch-age", "1m"]).unwrap_err();
        assert!(refusal.to_string().contains("at most 10s"), "{refusal}");
    }
}
