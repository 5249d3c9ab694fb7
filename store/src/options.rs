//! Connection options of the database.

use clap::Args;

/// Connection options of the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct DatabaseOptions {
    /// URL of the database, such as postgres://picket@127.0.0.1:5432/picket; prefer the variable,
    /// since other users can read a command line
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

impl DatabaseOptions {
    /// The configured URL, or the listen address of `picket up`.
    pub fn url(&self) -> &str {
        self.database_url.as_deref().unwrap_or("postgres://picket@127.0.0.1:5442/picket")
    }
}
