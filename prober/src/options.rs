//! Command-line options and environment variables of the prober.

mod behaviour;
mod secrets;

use std::{num::NonZeroU16, path::PathBuf, str::FromStr};

use clap::Parser;
use ipnet::IpNet;
use picket_proto::RegionName;
use picket_runtime::options::{ByteSize, DurationArg, ListenOptions, LogOptions, NatsOptions};

pub use self::{behaviour::BehaviourOptions, secrets::SecretsOptions};

/// Default of `--concurrency`.
pub(crate) const DEFAULT_CONCURRENCY: u32 = 1_000;
/// Maximum length of a prober's name.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// Checks websites: pulls the jobs of its region from NATS, performs the checks, publishes the
/// results.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "picket-prober",
    version,
    max_term_width = 110,
    after_help = "picket-prober secrets check prints the names and hosts of the secrets file, without values"
)]
pub struct Options {
    /// Region whose jobs to pull: lower-case letters, digits and '-', such as eu-west
    #[arg(long, env = "PICKET_REGION", value_name = "NAME")]
    pub region: RegionName,
    /// Maximum concurrent checks
    #[arg(long, env = "PICKET_CONCURRENCY", value_name = "N", default_value_t = DEFAULT_CONCURRENCY,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Private addresses that checks may connect to, such as 10.0.0.0/8,192.168.1.7
    #[arg(long, env = "PICKET_ALLOW_ADDRESSES", value_name = "CIDR[,CIDR…]", value_delimiter = ',',
        value_parser = parse_network)]
    pub allow_addresses: Vec<IpNet>,
    /// File of root certificates (PEM) to trust in addition to the system's; SSL_CERT_FILE replaces
    /// the system's
    #[arg(long, env = "PICKET_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Maximum body size that is read, from 1KiB to 64MiB
    #[arg(long, env = "PICKET_BODY_LIMIT", value_name = "SIZE", default_value = "1MiB")]
    pub body_limit: BodyLimit,
    /// Name in results and in `picket probers` [default: host name and 4 hex digits]
    #[arg(long, env = "PICKET_PROBER_NAME", value_name = "NAME", value_parser = parse_prober_name)]
    pub prober_name: Option<String>,
    /// Time to finish running checks at shutdown; a check may take 60s
    #[arg(long, env = "PICKET_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "75s")]
    pub drain_timeout: DurationArg,
    /// Threads for checks; more than one costs a fifth more CPU per check
    #[arg(long, env = "PICKET_THREADS", value_name = "N", default_value = "1")]
    pub threads: NonZeroU16,
    /// Behaviour towards sites and under overload.
    #[command(flatten)]
    pub behaviour: BehaviourOptions,
    /// Secrets of checks.
    #[command(flatten)]
    pub secrets: SecretsOptions,
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

fn parse_prober_name(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("allowed: 1 to 64 ASCII letters, digits and signs, without spaces".to_owned()),
    }
}

/// Parses a network, or an address as the network of that address alone.
///
/// # Errors
/// If the text is neither; the error names what is allowed.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let single = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
        "allowed: an address or a network, such as 192.168.1.7 or 10.0.0.0/8 or fd00::/8".to_owned()
    })
}

/// Maximum body size that is read, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit(pub usize);

impl Default for BodyLimit {
    fn default() -> Self {
        Self(1 << 20)
    }
}

impl FromStr for BodyLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ByteSize(bytes) = text.parse()?;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| (1 << 10..=64 << 20).contains(bytes))
            .map(Self)
            .ok_or_else(|| "allowed: from 1KiB to 64MiB, such as 512KiB".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Config;

    fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["picket-prober"], flags].concat())
    }

    #[test]
    fn a_region_is_the_only_required_option() {
        let config = Config::from(parse(&["--region", "eu-west"]).unwrap());

        assert_eq!(config.region.as_str(), "eu-west");
        assert_eq!(config.concurrency, 1_000);
        assert_eq!(config.limits.max_body_bytes, 1 << 20);
        assert_eq!(config.drain_timeout, Duration::from_secs(75));
        assert_eq!(config.behaviour, BehaviourOptions::default());
        assert!(config.name.rsplit_once('-').is_some_and(|(_, own)| own.len() == 4), "{}", config.name);
    }

    #[test]
    fn an_invalid_option_is_refused_by_name() {
        for (flag, value) in [
            ("--region", "EU"),
            ("--concurrency", "0"),
            ("--concurrency", "100001"),
            ("--allow-addresses", "10.0.0.0/8,ten"),
            ("--body-limit", "1"),
            ("--body-limit", "65MiB"),
            ("--prober-name", "a b"),
            ("--drain-timeout", "75"),
            ("--threads", "0"),
            ("--per-host", "0"),
            ("--canary", "example.com"),
            ("--canary", "https://a.example,ftp://b.example"),
            ("--max-drift", "1ms"),
            ("--user-agent", "a\nb"),
        ] {
            let message = parse(&["--region", "eu", flag, value]).unwrap_err().to_string();
            assert!(message.contains(flag), "{message}");
        }
        assert!(parse(&[]).unwrap_err().to_string().contains("--region"));
    }

    #[test]
    fn addresses_and_sizes_parse_in_their_usual_notations() {
        let options = parse(&["--region", "eu", "--allow-addresses", "10.0.0.0/8, ::1,127.0.0.1"]).unwrap();

        assert_eq!(options.allow_addresses.len(), 3);
        for (text, bytes) in [("2048", 2_048), ("512KiB", 512 << 10), ("64 MiB", 64 << 20), ("2m", 2 << 20)] {
            assert_eq!(text.parse::<BodyLimit>().unwrap().0, bytes);
        }
    }
}
