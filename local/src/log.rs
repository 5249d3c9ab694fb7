//! Logs of `up`: everything as JSON lines in a file, warnings on the screen.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use picket_proto::ValidationError;
use picket_runtime::{
    console::should_colour,
    options::{LogFormat, LogOptions},
    telemetry::SanitizingWriter,
};
use picket_servers::{private_file, rotate_if_full};
use tracing_subscriber::{
    EnvFilter, Layer, fmt, fmt::time::UtcTime, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::error::Error;

/// Path of the log file in the data directory.
pub(crate) const LOG_FILE: &str = "logs/picket.log";

/// Size above which the log is rotated. The previous rotated log is overwritten.
const MAX_LOG_BYTES: u64 = 32 << 20;

/// Starts logging. `has_filter` is true if the user gave a filter, which then applies to the screen
/// too; otherwise the screen shows warnings.
#[expect(clippy::disallowed_types, reason = "the log library takes the standard library's Mutex only")]
pub(crate) fn init_logging(options: &LogOptions, has_filter: bool, data_dir: &Path) -> Result<(), Error> {
    let filter = |text: &str| {
        EnvFilter::try_new(text).map_err(|_| {
            ValidationError::new("PICKET_LOG", text, "a filter, such as 'info,picket_prober=debug'")
        })
    };
    let file = RotatingFile::open(data_dir.join(LOG_FILE), MAX_LOG_BYTES).map_err(|why| {
        Error::Usage(format!("could not write {}: {why}", data_dir.join(LOG_FILE).display()))
    })?;
    let to_file = fmt::layer()
        .json()
        .flatten_event(true)
        .with_timer(UtcTime::rfc_3339())
        .with_writer(std::sync::Mutex::new(SanitizingWriter::for_json(file)))
        .with_filter(filter(&options.log)?);
    let on_terminal = io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(match on_terminal {
        true => LogFormat::Pretty,
        false => LogFormat::Json,
    });
    let screen = filter(if has_filter { &options.log } else { "warn" })?;
    let to_screen = match format {
        LogFormat::Pretty => fmt::layer()
            .with_ansi(on_terminal && should_colour())
            .with_target(false)
            .with_timer(UtcTime::rfc_3339())
            .with_writer(|| SanitizingWriter::for_terminal(io::stderr()))
            .with_filter(screen)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_timer(UtcTime::rfc_3339())
            .with_writer(|| SanitizingWriter::for_json(io::stderr()))
            .with_filter(screen)
            .boxed(),
    };
    // The first call wins; a later call keeps its subscriber.
    let _ = tracing_subscriber::registry().with(to_file).with(to_screen).try_init();
    Ok(())
}

/// A log file with bounded size.
struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl RotatingFile {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = private_file::open_append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, limit })
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > self.limit {
            rotate_if_full(&self.file, &self.path, self.limit)?;
            self.bytes = self.file.metadata()?.len();
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_full_log_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picket.log");
        fs::write(&path, "older\nold\n").unwrap();
        let mut log = RotatingFile::open(path.clone(), "old\n".len() as u64).unwrap();

        log.write_all(b"new\n").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(dir.path().join("picket.log.1")).unwrap(), "old\n");
    }

    #[test]
    fn a_log_is_private_and_a_symbolic_link_in_its_place_is_not_followed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("picket.log"), dir.path().join("victim"));
        RotatingFile::open(path.clone(), MAX_LOG_BYTES).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, &path).unwrap();

        let refused = RotatingFile::open(path, MAX_LOG_BYTES).err().unwrap().to_string();

        assert!(refused.contains("symbolic link"), "{refused}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    }
}
