//! Options for the behaviour towards sites and under overload.

use std::time::Duration;

use clap::Args;
use picket_runtime::options::DurationArg;
use url::Url;

/// Behaviour towards sites and under overload.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Behaviour")]
pub struct BehaviourOptions {
    /// Maximum concurrent checks per host (name and port); further checks wait until they expire
    #[arg(long, env = "PICKET_PER_HOST", value_name = "N", default_value_t = Self::DEFAULT_PER_HOST,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub per_host: u32,
    /// URL known to be reachable, probed when checks fail: if no canary responds, the prober itself
    /// is offline. Use two or more, with https, of different owners; may be repeated. Without
    /// canaries only missing routes, a silent gateway and silent name servers show that
    #[arg(long = "canary", env = "PICKET_CANARIES", value_name = "URL[,URL…]", value_delimiter = ',',
        value_parser = parse_canary)]
    pub canaries: Vec<Url>,
    /// Maximum delay of a check by this prober itself; beyond it the check is missed/overloaded,
    /// and not a slow site
    #[arg(long, env = "PICKET_MAX_DRIFT", value_name = "DURATION", default_value_t = Self::DEFAULT_MAX_DRIFT, value_parser = parse_max_drift)]
    pub max_drift: DurationArg,
    /// User-Agent of checks whose site sets none; include a contact address [default:
    /// Picket/VERSION (website availability check)]
    #[arg(long, env = "PICKET_USER_AGENT", value_name = "TEXT", value_parser = parse_user_agent)]
    pub user_agent: Option<String>,
}

impl BehaviourOptions {
    /// Slightly more than a browser opens to one host.
    const DEFAULT_PER_HOST: u32 = 8;
    /// A delay that a person would mistake for a slower site, and far more than a busy machine
    /// causes.
    const DEFAULT_MAX_DRIFT: DurationArg = DurationArg(Duration::from_millis(100));
}

impl Default for BehaviourOptions {
    fn default() -> Self {
        Self {
            per_host: Self::DEFAULT_PER_HOST,
            canaries: Vec::new(),
            max_drift: Self::DEFAULT_MAX_DRIFT,
            user_agent: None,
        }
    }
}

fn parse_canary(text: &str) -> Result<Url, String> {
    picket_proto::check::parse_url(text.trim()).map_err(|why| format!("allowed: {}", why.expected))
}

fn parse_max_drift(text: &str) -> Result<DurationArg, String> {
    const ALLOWED: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
    let span: DurationArg = text.parse()?;
    match ALLOWED.contains(&span.0) {
        true => Ok(span),
        false => Err("allowed: from 10ms to 60s".to_owned()),
    }
}

fn parse_user_agent(text: &str) -> Result<String, String> {
    let is_sendable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    match !text.trim().is_empty() && text.len() <= 256 && text.bytes().all(is_sendable) {
        true => Ok(text.trim().to_owned()),
        false => Err("allowed: 1 to 256 ASCII letters, digits, signs and spaces".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        manners: BehaviourOptions,
    }

    #[test]
    fn absent_options_have_their_defaults() {
        assert_eq!(Command::try_parse_from(["x"]).unwrap().manners, BehaviourOptions::default());
    }

    #[test]
    fn canaries_are_given_by_repetition_or_as_a_list() {
        let flags =
            ["x", "--canary", "https://a.example", "--canary", "https://b.example,https://c.example/x"];
        let manners = Command::try_parse_from(flags).unwrap().manners;

        let hosts: Vec<_> = manners.canaries.iter().filter_map(Url::host_str).collect();
        assert_eq!(hosts, ["a.example", "b.example", "c.example"]);
    }
}
