//! `picket man`: manual pages of all programs, for the archives of `just dist`.

use std::path::PathBuf;

use clap::Args;

use crate::{error::Error, reference::programs};

#[derive(Args, Debug)]
pub(crate) struct ManualOptions {
    /// Directory for the pages, one for each program and command
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes a page for each program and for each command of `picket`.
pub(crate) fn run(options: &ManualOptions) -> Result<(), Error> {
    let write = || {
        std::fs::create_dir_all(&options.dir)?;
        programs().into_iter().try_for_each(|program| clap_mangen::generate_to(program, &options.dir))
    };
    write().map_err(|why| Error::Usage(format!("could not write to {}: {why}", options.dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_and_each_command_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        run(&ManualOptions { dir: dir.path().to_owned() }).unwrap();

        for page in [
            "picket",
            "picket-site-add",
            "picket-ledger",
            "picket-coordinator",
            "picket-prober",
            "picket-sink",
            "picket-notifier",
            "picket-api",
        ] {
            let text = std::fs::read_to_string(dir.path().join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        assert!(!dir.path().join("picket-reference.1").exists(), "a hidden command has no page");
    }
}
