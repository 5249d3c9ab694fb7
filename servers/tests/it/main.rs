//! Real servers, started, killed, left behind and found again.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests, also where clippy does not see it: in their helpers"
)]

mod leftovers;
mod root;
mod start;

use std::{path::PathBuf, process::Command, sync::OnceLock};

use picket_servers::{NatsConfig, PostgresConfig, Tools, free_port};

/// The pinned tools, installed if need be.
fn pinned_tools() -> Tools {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    Tools::in_dir(Some(DIR.get_or_init(|| {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let dir = std::env::var_os("PICKET_TOOLS_DIR").map_or_else(|| root.join(".tools"), PathBuf::from);
        let status = Command::new(root.join("tools/install")).arg(&dir).status().unwrap();
        assert!(status.success(), "tools/install failed: {status}");
        dir
    })))
}

/// A directory that an unprivileged Postgres reaches too; it has the caller's lifetime.
fn create_open_dir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn nats_config() -> NatsConfig {
    NatsConfig { port: free_port().unwrap(), ..NatsConfig::default() }
}

fn postgres_config() -> PostgresConfig {
    PostgresConfig { port: free_port().unwrap(), durable: false, ..PostgresConfig::default() }
}
