//! Options of the API.

use std::net::SocketAddr;

use clap::{Args, Parser};
use ipnet::IpNet;
use picket_runtime::options::{DurationArg, ListenOptions, LogOptions, NatsOptions};
use picket_store::DatabaseOptions;
use url::Url;

use crate::oidc::OidcOptions;

/// Where the API is served, and how people reach it.
#[derive(Args, Clone, Debug)]
pub struct AddressOptions {
    /// Address to serve the API and the web UI on
    #[arg(long, env = "PICKET_API_LISTEN", default_value = "127.0.0.1:8088", value_name = "ADDRESS:PORT")]
    pub api_listen: SocketAddr,
    /// Networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, separated
    /// by commas
    #[arg(long, env = "PICKET_TRUSTED_PROXIES", value_name = "NETWORK[,NETWORK…]", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
}

/// Serves the REST API, the web UI and live results; any number of them share the work
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-api", version)]
pub struct Options {
    /// Where the API is served and reached.
    #[command(flatten)]
    pub address: AddressOptions,
    /// URL under which people reach this process, such as `https://picket.example.com`; without it, the
    /// cluster setting public_url, or the address of --api-listen
    #[arg(long, env = "PICKET_PUBLIC_URL", value_name = "URL", value_parser = parse_public_url)]
    pub public_url: Option<Url>,
    /// Number of sites whose state is among the metrics, for Prometheus; the first by id
    #[arg(long, env = "PICKET_SITE_METRICS", default_value_t = 0, value_name = "NUMBER",
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub site_metrics: u32,
    /// Maximum time for open requests to finish at shutdown
    #[arg(long, env = "PICKET_DRAIN_TIMEOUT", default_value = "15s", value_name = "DURATION")]
    pub drain_timeout: DurationArg,
    /// Sign-in by OpenID Connect.
    #[command(flatten)]
    pub oidc: OidcOptions,
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

/// Parses a public URL: http or https, a host, and neither path, query nor credentials.
fn parse_public_url(text: &str) -> Result<Url, String> {
    let refuse = || format!("'{text}' is no public URL; allowed: such as https://picket.example.com");
    let url = Url::parse(text).map_err(|_| refuse())?;
    let plain = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    match matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        true => Ok(url),
        false => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn absent_options_have_the_defaults_of_the_help() {
        let options = Options::try_parse_from(["picket-api"]).unwrap();

        assert_eq!(Config::from(options), Config::default());
    }

    #[test]
    fn a_public_url_with_a_path_is_refused_with_an_example() {
        for bad in ["picket.example.com", "ftp://a", "https://a/b", "https://u:p@a", "https://a/?q=1"] {
            let refusal = Options::try_parse_from(["picket-api", "--public-url", bad]).unwrap_err();
            assert!(refusal.to_string().contains("https://picket.example.com"), "{refusal}");
        }
    }
}
