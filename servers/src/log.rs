//! A server's log file: where its output goes, and its last lines, which say why it did not start.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::Error;

/// A log that has grown beyond this moves aside at the next start, over the one that moved before.
const ROTATE_BYTES: u64 = 16 << 20;

/// How much of a log an error quotes.
const TAIL_LINES: usize = 12;

/// A log file, and where in it this start begins.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
    begins: u64,
}

impl Log {
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let doing = || format!("write the log {}", path.display());
        if path.metadata().is_ok_and(|metadata| metadata.len() > ROTATE_BYTES) {
            fs::rename(&path, path.with_extension("log.1")).map_err(Error::io(doing()))?;
        }
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io(doing()))?;
        let begins = file.metadata().map_err(Error::io(doing()))?.len();
        Ok(Self { path, file, begins })
    }

    /// The file as a child's output.
    pub(crate) fn stdio(&self) -> Result<Stdio, Error> {
        self.file
            .try_clone()
            .map(Stdio::from)
            .map_err(Error::io(format!("write the log {}", self.path.display())))
    }

    /// The last lines since this was opened; empty if there are none.
    pub(crate) fn tail(&self) -> String {
        tail(&self.path, self.begins).unwrap_or_default()
    }
}

fn tail(path: &Path, begins: u64) -> std::io::Result<String> {
    const LONGEST: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(begins.max(end.saturating_sub(LONGEST)).min(end)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
