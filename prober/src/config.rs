//! Configuration of a prober.

use std::time::Duration;

use picket_proto::RegionName;

use crate::{
    check::CheckLimits,
    options::{BehaviourOptions, BodyLimit, DEFAULT_CONCURRENCY, MAX_NAME_BYTES, Options, SecretsOptions},
};

/// Configuration of a prober.
#[derive(Clone, Debug)]
pub struct Config {
    /// Region whose jobs the prober pulls.
    pub region: RegionName,
    /// Name in results.
    pub name: String,
    /// Maximum concurrent checks.
    pub concurrency: usize,
    /// Limits of checks.
    pub limits: CheckLimits,
    /// Behaviour towards sites and under overload.
    pub behaviour: BehaviourOptions,
    /// Secrets of checks.
    pub secrets: SecretsOptions,
    /// Time to finish running checks at shutdown.
    pub drain_timeout: Duration,
}

impl Config {
    /// Configuration for `region` with all options at their defaults.
    pub fn new(region: RegionName) -> Self {
        Self {
            region,
            name: default_name(),
            concurrency: DEFAULT_CONCURRENCY as usize,
            limits: CheckLimits {
                allowed_networks: Vec::new(),
                ca_file: None,
                max_body_bytes: BodyLimit::default().0,
            },
            behaviour: BehaviourOptions::default(),
            secrets: SecretsOptions::default(),
            drain_timeout: Duration::from_secs(75),
        }
    }
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            region: options.region,
            name: options.prober_name.unwrap_or_else(default_name),
            concurrency: options.concurrency as usize,
            limits: CheckLimits {
                allowed_networks: options.allow_addresses,
                ca_file: options.ca_file,
                max_body_bytes: options.body_limit.0,
            },
            behaviour: options.behaviour,
            secrets: options.secrets,
            drain_timeout: options.drain_timeout.0,
        }
    }
}

/// Host name with a random suffix: several probers may run on one host.
fn default_name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let own = uuid::Uuid::new_v4().simple().to_string();
    let host: String = host.chars().take(MAX_NAME_BYTES - 5).collect();
    format!("{host}-{}", &own[..4])
}
