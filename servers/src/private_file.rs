//! Files readable only by their owner, opened without following symbolic links.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process,
};

use rustix::fs::OFlags;

/// File mode: read and write for the owner only.
const PRIVATE_MODE: u32 = 0o600;

/// Opens a regular file with `options` and sets its mode to private.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.mode(PRIVATE_MODE).custom_flags(flags).open(path).map_err(|error| {
        // With O_NOFOLLOW, opening a symbolic link fails with ELOOP.
        match error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            true => io::Error::other(format!(
                "{} is a symbolic link, which is not followed; remove it",
                path.display()
            )),
            false => error,
        }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file; remove it", path.display())));
    }
    // A file created by an earlier release may have another mode.
    if metadata.permissions().mode() & 0o777 != PRIVATE_MODE {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE_MODE))?;
    }
    Ok(file)
}

/// Opens a private file for appending; a missing file is created.
///
/// # Errors
/// If the file cannot be opened, or is a symbolic link.
pub fn open_append(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().create(true).append(true))
}

/// Replaces a private file atomically, so that a reader sees the old or the new content. A symbolic
/// link at the path is replaced.
///
/// # Errors
/// If the file cannot be written.
pub fn replace_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", process::id()));
    let new = path.with_file_name(name);
    let written = create_private(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Creates a private file, replacing an existing file of that name.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open_private(path, OpenOptions::new().write(true).create_new(true))
}
