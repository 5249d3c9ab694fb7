//! Command line options of the coordinator.

use std::time::Duration;

use clap::{Args, Parser};
use picket_proto::site::IntervalRange;
use picket_runtime::options::{ByteSize, DurationArg, ListenOptions, LogOptions, NatsOptions};
use picket_runtime::streams::StreamLimits;
use picket_store::{DatabaseOptions, housekeeping::Retention};

/// Schedules checks: leases shards of schedules from Postgres and publishes a job on NATS for each
/// tick.
///
/// Any number of coordinators can run; they share the shards and take over from each other.
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-coordinator", version)]
pub struct Options {
    /// Time after which a shard's lease expires unless renewed, i.e. the time to replace a dead
    /// coordinator; must be the same for all coordinators
    #[arg(long, env = "PICKET_LEASE_TIME", default_value = "15s", value_name = "DURATION", value_parser = parse_lease_time)]
    pub lease_time: DurationArg,
    /// Minimum interval of a site
    #[arg(long, env = "PICKET_MIN_INTERVAL", default_value = "5s", value_name = "DURATION", value_parser = parse_interval)]
    pub min_interval: DurationArg,
    /// Maximum interval of a site
    #[arg(long, env = "PICKET_MAX_INTERVAL", default_value = "1d", value_name = "DURATION", value_parser = parse_interval)]
    pub max_interval: DurationArg,
    /// Time after a tick until its ledger is closed; a tick without a result is then recorded as
    /// missed
    ///
    /// A late result still replaces the missed one. Twice the longest timeout plus 30 s is enough
    /// for every result that is not held up.
    #[arg(long, env = "PICKET_LEDGER_GRACE", default_value = "150s", value_name = "DURATION", value_parser = parse_ledger_grace)]
    pub ledger_grace: DurationArg,
    /// Batch window: maximum time a due job waits to be published together with others
    ///
    /// Under light load a wake-up carries few jobs and is most of the cost of a check. Under heavy
    /// load a batch is published as soon as it has 64 jobs. Rounded to multiples of 10 ms.
    #[arg(long, env = "PICKET_GATHER", default_value = "250ms", value_name = "DURATION", value_parser = parse_batch_delay)]
    pub gather: DurationArg,
    #[command(flatten)]
    pub retention: RetentionOptions,
    /// Replicas of each stream: 1 on a single NATS server, 3 on a cluster
    #[arg(long, env = "PICKET_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
    /// Maximum size of the results stream on each server that stores it, such as 8GiB
    ///
    /// The stream keeps three days of results, or as many as fit. When results not yet stored by a
    /// sink reach 80 % of the size, no jobs are published until sinks have caught up. Must be the
    /// same for all coordinators.
    #[arg(long, env = "PICKET_RESULTS_MAX_BYTES", default_value = "8GiB", value_name = "SIZE", value_parser = parse_results_max_bytes)]
    pub results_max_bytes: ByteSize,
    /// Name of this coordinator in leases and logs [default: host name, process and a random part]
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

/// Retention periods.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetentionOptions {
    /// Days to keep results and all other data except rollups; must be the same for all
    /// coordinators and sinks
    #[arg(long, env = "PICKET_RETENTION_DAYS", value_name = "DAYS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub retention_days: u32,
    /// Days to keep hourly and daily rollups, the source of reports; hourly rollups are dropped by
    /// the month
    #[arg(long, env = "PICKET_ROLLUP_DAYS", value_name = "DAYS", default_value_t = 730,
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub rollup_days: u32,
}

impl RetentionOptions {
    /// Converts the options to retention periods.
    pub fn to_retention(self) -> Retention {
        Retention { result_days: self.retention_days, rollup_days: self.rollup_days }
    }
}

/// Parses a lease time from 3 s to 5 minutes.
///
/// # Errors
/// If the value is not a duration or out of range; the text names the allowed range.
pub fn parse_lease_time(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(3), Duration::from_secs(300))
}

fn parse_interval(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(1), Duration::from_secs(86_400))
}

/// Parses a ledger grace from 10 s to 1 hour.
///
/// # Errors
/// If the value is not a duration or out of range; the text names the allowed range.
pub fn parse_ledger_grace(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_secs(10), Duration::from_secs(3_600))
}

/// Parses a batch window: from 10 ms, the bucket width of the timer wheel, to 500 ms, half of the
/// shortest possible interval.
///
/// # Errors
/// If the value is not a duration or out of range; the text names the allowed range.
pub fn parse_batch_delay(text: &str) -> Result<DurationArg, String> {
    parse_duration_within(text, Duration::from_millis(10), Duration::from_millis(500))
}

/// Parses a maximum size of the results stream from 1 MiB to 64 TiB.
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
    /// Limits of the streams.
    pub fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            replicas: self.replicas.into(),
            max_results_bytes: i64::try_from(self.results_max_bytes.0).unwrap_or(i64::MAX),
            ..StreamLimits::default()
        }
    }

    /// Range of allowed intervals.
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
