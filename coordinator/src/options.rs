//! What the operator of a coordinator may set.

use std::time::Duration;

use clap::{Args, Parser};
use picket_proto::site::IntervalRange;
use picket_runtime::options::{ByteSize, DurationArg, ListenOptions, LogOptions, NatsOptions};
use picket_runtime::streams::StreamLimits;
use picket_store::{DatabaseOptions, housekeeping::Retention};

/// Schedules checks: leases shards of schedules from Postgres and publishes a job on NATS for each tick.
///
/// Run as many as you like: they share the shards, and take over from each other.
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-coordinator", version)]
pub struct Options {
    /// How long a shard stays leased without being renewed: the time it takes to replace a dead coordinator. All coordinators need
    /// the same
    #[arg(long, env = "PICKET_LEASE_TIME", default_value = "15s", value_name = "DURATION", value_parser = parse_lease_time)]
    pub lease_time: DurationArg,
    /// The shortest interval that a site may have
    #[arg(long, env = "PICKET_MIN_INTERVAL", default_value = "5s", value_name = "DURATION", value_parser = parse_interval)]
    pub min_interval: DurationArg,
    /// The longest interval that a site may have
    #[arg(long, env = "PICKET_MAX_INTERVAL", default_value = "1d", value_name = "DURATION", value_parser = parse_interval)]
    pub max_interval: DurationArg,
    /// How long after a tick its ledger is closed: what has no row by then is written down as missed
    ///
    /// A result that comes later still takes its place. Twice the longest timeout and half a minute is enough for
    /// every result that is not held up.
    #[arg(long, env = "PICKET_LEDGER_GRACE", default_value = "150s", value_name = "DURATION", value_parser = parse_ledger_grace)]
    pub ledger_grace: DurationArg,
    /// For how long jobs may wait for others, so as to be published together: the most that it makes a check late
    ///
    /// Where little is due each wake-up carries little, and is most of what a check costs. Where much is due it is
    /// less: jobs go as soon as 64 are together. In whole hundredths of a second.
    #[arg(long, env = "PICKET_GATHER", default_value = "250ms", value_name = "DURATION", value_parser = parse_batch_delay)]
    pub gather: DurationArg,
    #[command(flatten)]
    pub retention: RetentionOptions,
    /// Copies of each stream that the NATS servers keep: 1 on a single server, 3 on a cluster
    #[arg(long, env = "PICKET_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
    /// The most that the stream of results may hold, on each server that keeps it, such as 8GiB
    ///
    /// It keeps three days of results, or as many as fit. When what no sink has stored comes to four fifths of it, no
    /// jobs are published until sinks have caught up. All coordinators need the same.
    #[arg(long, env = "PICKET_RESULTS_MAX_BYTES", default_value = "8GiB", value_name = "SIZE", value_parser = parse_results_max_bytes)]
    pub results_max_bytes: ByteSize,
    /// What this coordinator is called in leases and logs [default: host name, process and a random part]
    #[arg(long, env = "PICKET_COORDINATOR_NAME", value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub database: DatabaseOptions,
    #[command(flatten)]
    pub nats: NatsOptions,
    #[command(flatten)]
    pub log: LogOptions,
    #[command(flatten)]
    pub listen: ListenOptions,
}

/// How long things are kept.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetentionOptions {
    /// How many days results are kept, and whatever else is not a report; the same for every coordinator and sink
    #[arg(long, env = "PICKET_RETENTION_DAYS", value_name = "DAYS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub retention_days: u32,
    /// How many days hourly and daily rollups are kept, from which reports are made; hours go by the month
    #[arg(long, env = "PICKET_ROLLUP_DAYS", value_name = "DAYS", default_value_t = 730,
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub rollup_days: u32,
}

impl RetentionOptions {
    /// What these say.
    pub fn to_retention(self) -> Retention {
        Retention { result_days: self.retention_days, rollup_days: self.rollup_days }
    }
}

/// A lease time: 3 s to 5 minutes.
///
/// # Errors
/// What is allowed.
pub fn parse_lease_time(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(3), Duration::from_secs(300))
}

fn parse_interval(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(1), Duration::from_secs(86_400))
}

/// A grace of the ledger: 10 s to an hour.
///
/// # Errors
/// What is allowed.
pub fn parse_ledger_grace(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(10), Duration::from_secs(3_600))
}

/// For how long jobs may gather: 10 ms, what is due within which goes together anyway, to half of the shortest interval.
///
/// # Errors
/// What is allowed.
pub fn parse_batch_delay(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_millis(10), Duration::from_millis(500))
}

/// A size of the stream of results: 1 MiB to 64 TiB.
fn parse_results_max_bytes(text: &str) -> Result<ByteSize, String> {
    let (min, max) = (ByteSize(1 << 20), ByteSize(64 << 40));
    let size: ByteSize = text.parse()?;
    match (min..=max).contains(&size) {
        true => Ok(size),
        false => Err(format!("'{text}' is out of range; allowed: {min} to {max}")),
    }
}

fn parse_duration_within(text: &str, min: Duration, max: Duration) -> Result<DurationArg, String> {
    let span: DurationArg = text.parse()?;
    match (min..=max).contains(&span.0) {
        true => Ok(span),
        false => {
            Err(format!("'{text}' is out of range; allowed: {} to {}", DurationArg(min), DurationArg(max)))
        }
    }
}

impl Options {
    /// How the streams are kept.
    pub fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            replicas: self.replicas.into(),
            max_results_bytes: i64::try_from(self.results_max_bytes.0).unwrap_or(i64::MAX),
            ..StreamLimits::default()
        }
    }

    /// The intervals that are taken.
    pub fn interval_range(&self) -> IntervalRange {
        IntervalRange { min: self.min_interval.0, max: self.max_interval.0 }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_nonsense_option_is_refused_with_what_is_allowed() {
        Options::command().debug_assert();
        for bad in [
            ["--lease-time", "1s"],
            ["--lease-time", "x"],
            ["--min-interval", "2d"],
            ["--replicas", "9"],
            ["--ledger-grace", "1s"],
            ["--gather", "1s"],
            ["--gather", "0s"],
            ["--results-max-bytes", "1KiB"],
            ["--results-max-bytes", "much"],
            ["--retention-days", "0"],
            ["--rollup-days", "x"],
        ] {
            let refusal =
                Options::try_parse_from(["picket-coordinator", bad[0], bad[1]]).unwrap_err().to_string();
            assert!(refusal.contains(bad[0]) && refusal.contains(bad[1]), "{refusal}");
        }
    }
}
