//! Options for the secrets of checks.

use std::path::PathBuf;

use clap::Args;

/// Secrets of checks.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Secrets")]
pub struct SecretsOptions {
    /// TOML file that maps the names of secrets to values and to hosts, with mode 0600; reloaded
    /// when it changes [default: the systemd credential picket-secrets.toml, if there is one]
    #[arg(long, env = "PICKET_SECRETS_FILE", value_name = "FILE")]
    pub secrets_file: Option<PathBuf>,
    /// Allow ad-hoc requests to use secrets and proxies. Without it, only checks of sites can
    #[arg(long, env = "PICKET_ADHOC_SECRETS")]
    pub adhoc_secrets: bool,
}
