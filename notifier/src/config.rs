//! Configuration of a notifier.

use std::{path::PathBuf, time::Duration};

use picket_runtime::process;

use crate::options::{DeliveryOptions, Options};

/// Configuration of a notifier.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this notifier, unique among those that run.
    pub name: String,
    /// Maximum number of messages delivered at the same time.
    pub concurrency: u16,
    /// Maximum time for attempts in progress at shutdown.
    pub drain_timeout: Duration,
    /// How messages leave.
    pub delivery: DeliveryOptions,
    /// TOML file that maps the names of secrets to values and to hosts.
    pub secrets_file: Option<PathBuf>,
    /// URL of the web UI for links in messages, unless the cluster setting `public_url` is set.
    pub default_public_url: Option<String>,
}

impl Config {
    /// A notifier with the defaults of the options.
    pub fn new() -> Self {
        Self {
            name: process::unique_name(),
            concurrency: 16,
            drain_timeout: Duration::from_secs(20),
            delivery: DeliveryOptions::default(),
            secrets_file: None,
            default_public_url: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            name: process::unique_name(),
            concurrency: options.concurrency,
            drain_timeout: options.drain_timeout.0,
            delivery: options.delivery,
            secrets_file: options.secrets_file,
            default_public_url: None,
        }
    }
}
