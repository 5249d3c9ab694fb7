//! The log file of a server: output file, rotation, and the last lines for error messages.
//!
//! The server writes to the file directly, so its output survives its owner. When the file exceeds
//! the size limit, the owner copies it aside and truncates it. The server appends, so it continues
//! at the start of the file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

use crate::{Error, private_file};

/// Size above which a log is rotated. The previous rotated log is overwritten.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// Interval between size checks of a log.
const ROTATION_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum log lines quoted in an error.
const MAX_TAIL_LINES: usize = 12;

/// A log file, with the offset at which the current start of the server begins.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    file: File,
    start_offset: Arc<AtomicU64>,
    rotation_task: Option<AbortHandle>,
}

impl LogFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let opened = private_file::open_append(&path).and_then(|file| {
            rotate_if_full(&file, &path, MAX_LOG_BYTES)?;
            let begins = file.metadata()?.len();
            Ok((file, begins))
        });
        let (file, begins) =
            opened.map_err(Error::io_context(format!("write the log {}", path.display())))?;
        Ok(Self { path, file, start_offset: Arc::new(AtomicU64::new(begins)), rotation_task: None })
    }

    /// Starts the task that rotates the log. Dropping the `LogFile` stops the task.
    pub(crate) fn start_rotation(&mut self) -> Result<(), Error> {
        let (path, begins) = (self.path.clone(), self.start_offset.clone());
        let file =
            self.file.try_clone().map_err(Error::io_context(format!("write the log {}", path.display())))?;
        let rotating = tokio::spawn(async move {
            let mut failing = false;
            loop {
                tokio::time::sleep(ROTATION_INTERVAL).await;
                match rotate_if_full(&file, &path, MAX_LOG_BYTES) {
                    Ok(true) => begins.store(0, Ordering::Relaxed),
                    Ok(false) => failing = false,
                    // A persistent failure is logged once, not at every interval.
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        tracing::warn!(log = %path.display(), %error, "could not rotate a server's log");
                    }
                    Err(_) => {}
                }
            }
        });
        self.rotation_task = Some(rotating.abort_handle());
        Ok(())
    }

    /// A handle of the file for a child's standard output or error.
    pub(crate) fn clone_stdio(&self) -> Result<Stdio, Error> {
        self.file
            .try_clone()
            .map(Stdio::from)
            .map_err(Error::io_context(format!("write the log {}", self.path.display())))
    }

    /// Last lines written since the file was opened; empty if there are none.
    pub(crate) fn tail_lines(&self) -> String {
        read_tail(&self.path, self.start_offset.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if let Some(rotation) = &self.rotation_task {
            rotation.abort();
        }
    }
}

/// Copies a log longer than `limit` aside and truncates it. Returns true if it was rotated. Lines
/// written between the copy and the truncation are lost.
///
/// # Errors
/// If a file cannot be read or written.
pub fn rotate_if_full(file: &File, path: &Path, limit: u64) -> io::Result<bool> {
    let length = file.metadata()?.len();
    if length <= limit {
        return Ok(false);
    }
    let mut source = File::open(path)?;
    // Only the last `limit` bytes are copied: the end of a log explains more than its beginning.
    source.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut rotated = private_file::create_private(&path.with_extension("log.1"))?;
    io::copy(&mut source.take(limit), &mut rotated)?;
    file.set_len(0)?;
    Ok(true)
}

fn read_tail(path: &Path, begins: u64) -> std::io::Result<String> {
    const MAX_TAIL_BYTES: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(begins.max(end.saturating_sub(MAX_TAIL_BYTES)).min(end)))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn an_oversized_log_is_truncated_while_written_and_its_tail_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.log");
        let mut server = private_file::open_append(&path).unwrap();
        let owner = private_file::open_append(&path).unwrap();
        for number in 0..100 {
            writeln!(server, "line {number:04}").unwrap();
        }

        assert!(!rotate_if_full(&owner, &path, 1_000).unwrap());
        assert!(rotate_if_full(&owner, &path, 500).unwrap());
        writeln!(server, "after").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        let aside = path.with_extension("log.1");
        let kept = fs::read_to_string(&aside).unwrap();
        assert!(kept.len() == 500 && kept.ends_with("line 0099\n"), "{kept}");
        assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
