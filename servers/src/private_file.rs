//! Files that only this process's user can read, opened without following a symbolic link that somebody put in their place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process,
};

use rustix::fs::OFlags;

/// Only for its owner.
const PRIVATE_MODE: u32 = 0o600;

/// Opens a regular file as `options` say, and makes it private.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.mode(PRIVATE_MODE).custom_flags(flags).open(path).map_err(|error| {
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
    // One that an earlier release created may have another mode.
    if metadata.permissions().mode() & 0o777 != PRIVATE_MODE {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE_MODE))?;
    }
    Ok(file)
}

/// Opens a private file to append to it, and creates it if it is not there.
///
/// # Errors
/// When it cannot be opened, or is a symbolic link.
pub fn open_append(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().create(true).append(true))
}

/// Writes a private file so that a reader sees the old one or the new one. A symbolic link in its place is replaced.
///
/// # Errors
/// When it cannot be written.
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

/// Creates a private file in place of whatever has its name.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open_private(path, OpenOptions::new().write(true).create_new(true))
}
