//! Reading of files that only their owner may read.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Access to a file that its reader requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileAccess {
    /// No access for other users, since the content is secret.
    Private,
    /// No writing by other users.
    Public,
}

/// Identity and version of a file. A different stamp means that the file may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamp([i128; 7]);

impl FileStamp {
    /// Stamp of the file at `path`; `None` if there is no accessible file.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        let file = path.metadata().ok()?;
        Some(Self([
            file.dev().into(),
            file.ino().into(),
            file.size().into(),
            i128::from(file.mtime()) << 32 | i128::from(file.mtime_nsec()),
            // Covers the changes of mode and owner, too.
            i128::from(file.ctime()) << 32 | i128::from(file.ctime_nsec()),
            file.mode().into(),
            file.uid().into(),
        ]))
    }
}

/// Reads a text file of at most `max_bytes`.
///
/// `credentials_directory` is the directory of systemd's credentials, where the service manager may
/// grant access by an ACL, which shows as access of the group.
///
/// # Errors
/// If the file cannot be read, belongs to another user, or is accessible to other users. The error
/// does not contain the path.
pub(super) fn read_text(
    path: &Path,
    access: FileAccess,
    max_bytes: u64,
    credentials_directory: Option<&Path>,
) -> Result<Zeroizing<String>, String> {
    // Opening a FIFO would block without a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|why| why.to_string())?;
    // The open file is judged, and not the path, which may lead to another file by now.
    let metadata = file.metadata().map_err(|why| why.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let is_credential = credentials_directory.is_some_and(|directory| path.starts_with(directory));
    let (forbidden, allowed) = match (access, is_credential) {
        (FileAccess::Private, false) => (0o077, "0600 or 0400, no access for group and others"),
        (FileAccess::Private, true) => (0o037, "0600, 0400 or 0440 for a credential of the service manager"),
        (FileAccess::Public, _) => (0o022, "no writing by group and others, such as 0644"),
    };
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(format!("mode {mode:04o} is not allowed; allowed: {allowed}"));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(format!(
            "owner {} is not allowed; allowed: {own} (this process's user) or 0",
            metadata.uid()
        ));
    }
    read_bounded(file, max_bytes)
}

fn read_bounded(file: File, max_bytes: u64) -> Result<Zeroizing<String>, String> {
    // The full capacity at once: a growing buffer would leave copies in freed memory.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(max_bytes).unwrap_or(0).min(1 << 20) + 1));
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("larger than {max_bytes} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "not a UTF-8 text".to_owned())?;
    Ok(Zeroizing::new(text.to_owned()))
}
