//! The local data directory, locked by at most one living process.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use crate::{Error, private_file};

/// A data directory locked by this process. The lock is released when the last clone is dropped or
/// the process ends in any way.
///
/// The servers hold a clone, so no other process can start in the directory while they run.
#[derive(Clone, Debug)]
pub struct DataDir(Arc<LockedDir>);

#[derive(Debug)]
struct LockedDir {
    path: PathBuf,
    /// The operating system releases the lock when the process ends.
    _lock: File,
}

impl DataDir {
    /// Locks the directory, which is created if missing.
    ///
    /// # Errors
    /// [`Error::DataDirInUse`] names the current holder of the lock.
    pub fn lock(dir: &Path) -> Result<Self, Error> {
        let doing = || format!("use the data directory {}", dir.display());
        // Mode 0755 lets an unprivileged Postgres traverse the directory. Secret files in it have a
        // mode of their own.
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(Error::io_context(doing()))?;
        let path = dir.canonicalize().map_err(Error::io_context(doing()))?;
        let mut lock = private_file::open_private(
            &path.join(LOCK_FILE_NAME),
            File::options().read(true).write(true).create(true).truncate(false),
        )
        .map_err(Error::io_context(doing()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::DataDirInUse { dir: path, pid: read_pid(&mut lock) });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io_context(doing())(error)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", process::id()))
            .map_err(Error::io_context(doing()))?;
        for name in ["logs", "nats"] {
            let dir = path.join(name);
            fs::create_dir_all(&dir)
                .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)))
                .map_err(Error::io_context(doing()))?;
        }
        Ok(Self(Arc::new(LockedDir { path, _lock: lock })))
    }

    /// Process id of the current lock holder, if the directory is locked.
    pub fn holder_pid(dir: &Path) -> Result<Option<u32>, Error> {
        let doing = || format!("read the lock of the data directory {}", dir.display());
        let mut lock = match File::open(dir.join(LOCK_FILE_NAME)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io_context(doing())(error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(read_pid(&mut lock)),
            Err(TryLockError::Error(error)) => Err(Error::io_context(doing())(error)),
        }
    }

    /// The absolute path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Path of a server's log file.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.0.path.join("logs").join(name)
    }
}

const LOCK_FILE_NAME: &str = "lock";

/// Process id in the lock file, written by its last holder, who is the current holder while the
/// file is locked.
fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().and_then(|()| lock.read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}
