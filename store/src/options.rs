//! How to reach the database.

use clap::Args;

/// How to reach the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct DatabaseOptions {
    /// The database, such as postgres://picket@127.0.0.1:5432/picket; better given by the variable, since
    /// others can see a command line
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

impl DatabaseOptions {
    /// The URL that was given, or where `picket up` listens.
    pub fn url(&self) -> &str {
        self.database_url.as_deref().unwrap_or("postgres://picket@127.0.0.1:5442/picket")
    }
}
