//! Wrong wall clocks: constant for single processes, and adjustable at run time for a database.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use picket_harness::servers::{self, TestPostgres, scratch_dir};

/// Builds the library in `dir` to preload into processes with a wrong clock.
pub fn build_library(dir: &Path) -> String {
    let library = dir.join("skew.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/skew.c"))
        .arg("-ldl")
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cc, the linker of Rust, builds skew.c");
    library.display().to_string()
}

/// Variables of a process whose clock is ahead by `seconds` (behind if negative), by the library.
pub fn skew_variables<'a>(library: &'a str, seconds: &'a str) -> [(&'a str, &'a str); 2] {
    [("LD_PRELOAD", library), ("SKEW_SECONDS", seconds)]
}

/// Adjustable clock of a database.
#[derive(Debug)]
pub struct DatabaseClock {
    file: PathBuf,
}

impl DatabaseClock {
    /// Starts a Postgres with an adjustable clock, which is correct at first.
    pub async fn start() -> (TestPostgres, Self) {
        let dir = scratch_dir("skew");
        let clock = Self { file: dir.join("seconds") };
        fs::write(&clock.file, 0_i64.to_ne_bytes()).expect("a file for the clock");
        let library = build_library(&dir);
        // Postgres may run as another user.
        for path in [clock.file.as_path(), Path::new(&library)] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its permissions");
        }
        let environment = vec![
            ("LD_PRELOAD".to_owned(), library),
            ("SKEW_FILE".to_owned(), clock.file.display().to_string()),
        ];
        (servers::start_postgres_with_env(environment).await, clock)
    }

    /// Sets the clock ahead by this number of seconds (behind if negative).
    pub fn set_offset(&self, ahead_seconds: i64) {
        // Written in place, because the processes have the file mapped.
        let file: File = OpenOptions::new().write(true).open(&self.file).expect("the file of the clock");
        file.write_all_at(&ahead_seconds.to_ne_bytes(), 0).expect("the clock is set");
    }
}
