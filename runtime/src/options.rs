//! Options that several processes share. Each has a variable; the names are those of the `nats` command.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

/// How to reach the NATS servers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// The servers; several, separated by commas, are tried in turn
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL[,URL…]",
        hide_env_values = true
    )]
    pub nats_url: String,
    /// A credentials file (JWT and seed)
    #[arg(long, env = "NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// A file that holds an nkey seed
    #[arg(long, env = "NATS_NKEY", value_name = "FILE")]
    pub nats_nkey: Option<PathBuf>,
    /// The user, with a password
    #[arg(long, env = "NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// The user's password; better given by the variable, since others can see a command line
    #[arg(long, env = "NATS_PASSWORD", value_name = "TEXT", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,
    /// A file with the certificates of the authority that signed the servers' certificates
    #[arg(long, env = "NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// This client's certificate, where the servers ask for one
    #[arg(long, env = "NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// The key of this client's certificate
    #[arg(long, env = "NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
}

impl NatsOptions {
    /// Servers at `url`, without credentials.
    pub fn with_url(url: impl Into<String>) -> Self {
        Self {
            nats_url: url.into(),
            nats_creds: None,
            nats_nkey: None,
            nats_user: None,
            nats_password: None,
            nats_ca: None,
            nats_cert: None,
            nats_key: None,
        }
    }
}

/// What to log, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and health")]
pub struct LogOptions {
    /// What to log, in the syntax of RUST_LOG, such as `info,picket_prober=debug`
    #[arg(long, env = "PICKET_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// `pretty` for people, `json` for programs [default: pretty on a terminal, else json]
    #[arg(long, env = "PICKET_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Where health and metrics are served.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and health")]
pub struct ListenOptions {
    /// Serve /healthz, /readyz and /metrics here, such as 127.0.0.1:9100 [default: nowhere]
    #[arg(long, env = "PICKET_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Start nothing; ask the process that serves at --listen whether it is ready, say what it says, and end with 0 if it
    /// is, 1 if it is not, 3 if nobody answers: a health check for containers, which have no curl
    #[arg(long, requires = "listen")]
    pub healthcheck: bool,
}

/// A duration as people type it: `500ms`, `15s`, `1m 30s`, `2h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationArg(pub Duration);

impl FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(duration) => Ok(Self(duration)),
            Err(_) => Err(format!(
                "'{text}' is no duration; allowed: a number with ms, s, m, h or d, such as 15s or 1h30m"
            )),
        }
    }
}

impl std::fmt::Display for DurationArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes as people type it: `4096`, `512KiB`, `64MiB`, `8GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// From the largest: what is shown is the largest that fits exactly.
const BYTE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let typed = text.trim().to_ascii_lowercase();
        // `k` is `KiB`: a tenth more or less is nobody's limit.
        let unit = BYTE_UNITS.iter().find_map(|(name, bytes)| {
            let name = name.to_ascii_lowercase();
            let number = typed.strip_suffix(&name).or_else(|| typed.strip_suffix(&name[..1]))?;
            Some((number, *bytes))
        });
        let (number, bytes) = unit.unwrap_or((typed.strip_suffix('b').unwrap_or(&typed), 1));
        let number = number.trim().parse::<u64>().ok();
        number.and_then(|number| number.checked_mul(bytes)).map(Self).ok_or_else(|| {
            format!("'{text}' is no size; allowed: a whole number with KiB, MiB, GiB or TiB, such as 8GiB")
        })
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match BYTE_UNITS.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_as_people_type_it() {
        for (text, bytes) in
            [("2048", 2_048), ("512KiB", 512 << 10), ("64 MiB", 64 << 20), ("2m", 2 << 20), ("8GiB", 8 << 30)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        assert_eq!(ByteSize(8 << 30).to_string(), "8GiB");
        assert_eq!(ByteSize(1_500).to_string(), "1500");
        for bad in ["", "GiB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().unwrap_err().contains("8GiB"), "{bad}");
        }
    }

    #[test]
    fn a_duration_reads_as_people_type_it() {
        assert_eq!("1m 30s".parse::<DurationArg>().unwrap().0, Duration::from_secs(90));
        assert_eq!("15s".parse::<DurationArg>().unwrap().to_string(), "15s");
        assert!("15".parse::<DurationArg>().unwrap_err().contains("15s or 1h30m"));
    }
}
