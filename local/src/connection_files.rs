//! Files in the data directory of a running system with the addresses of its servers.

use std::path::Path;

use crate::{env_file, service_file};

/// Removes the files with the addresses of stopped servers.
pub(crate) fn remove_all(dir: &Path) {
    let _ = std::fs::remove_file(env_file::env_path(dir));
    let _ = std::fs::remove_file(service_file::service_path(dir));
}
