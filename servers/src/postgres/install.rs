//! Paths of Postgres's programs and data, reachable by Postgres's user.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process,
};

use super::{
    clean_command,
    run_as::{RunAs, apply_user},
    run_command,
};
use crate::{DataDir, Error, PostgresTools};

/// Directory for programs and data out of reach of Postgres's user elsewhere, such as a clone under
/// a closed home directory. Used only by root.
const SHARED_DIR: &str = "/var/lib/picket";

/// Paths and user of a Postgres.
pub(super) struct PgInstall {
    pub(super) tools: PostgresTools,
    /// Directory of the data, with symbolic links resolved. May not exist yet.
    pub(super) cluster_dir: PathBuf,
    /// User to change to; `None` unless this process is root.
    pub(super) run_as: Option<RunAs>,
}

impl PgInstall {
    pub(super) async fn resolve_paths(tools: PostgresTools, data: &DataDir) -> Result<Self, Error> {
        let link = data.path().join("postgres");
        let existing = link.canonicalize().ok();
        let owner = match &existing {
            Some(dir) => {
                let metadata =
                    dir.metadata().map_err(Error::io_context(format!("inspect {}", dir.display())))?;
                Some(RunAs { uid: metadata.uid(), gid: metadata.gid() })
            }
            None => None,
        };

        if !rustix::process::geteuid().is_root() {
            let us = rustix::process::geteuid().as_raw();
            return match (owner, existing) {
                (Some(owner), Some(dir)) if owner.uid != us => {
                    Err(Error::ForeignData { dir, owner: owner.uid })
                }
                (_, existing) => Ok(Self { tools, cluster_dir: existing.unwrap_or(link), run_as: None }),
            };
        }

        let user = match owner {
            Some(owner) if owner.uid != 0 => owner,
            _ => RunAs::find_unprivileged().await?,
        };
        // `nobody` may be unable to enter the data directory, for example under /root. New data
        // then goes to `SHARED_DIR`; existing data is never moved.
        let data = match existing {
            Some(dir) if user.can_enter(&dir).await? => dir,
            Some(dir) => return Err(Error::DataUnreachable { dir, user: user.uid }),
            None if user.can_enter(data.path()).await? => link,
            None => create_shared_cluster(data.path(), &link)?,
        };
        Ok(Self { tools: copy_tools_if_needed(tools, user).await?, cluster_dir: data, run_as: Some(user) })
    }
}

/// Creates a place for the data of `data_dir`, reachable by every user, and the symbolic link
/// `link` to it.
fn create_shared_cluster(data_dir: &Path, link: &Path) -> Result<PathBuf, Error> {
    let dir =
        Path::new(SHARED_DIR).join(format!("data-{:016x}", fnv1a_hash(data_dir.as_os_str().as_bytes())));
    let doing = || format!("put the data of Postgres into {}", dir.display());
    create_open_dir(Path::new(SHARED_DIR))?;
    if dir.exists() {
        // The data directory was removed, and with it the password of this data.
        let old = dir.with_extension("old");
        tracing::warn!(from = %dir.display(), to = %old.display(), "moving aside the data of a removed data directory");
        if old.exists() {
            fs::remove_dir_all(&old).map_err(Error::io_context(doing()))?;
        }
        fs::rename(&dir, &old).map_err(Error::io_context(doing()))?;
    }
    if link.is_symlink() {
        fs::remove_file(link).map_err(Error::io_context(doing()))?;
    }
    symlink(&dir, link).map_err(Error::io_context(doing()))?;
    Ok(dir)
}

/// Returns the programs, or a copy of them if the user cannot run them in place. The copy is made
/// once per build.
async fn copy_tools_if_needed(tools: PostgresTools, user: RunAs) -> Result<PostgresTools, Error> {
    let program = tools.postgres_path();
    let version = |user| {
        let mut command = clean_command(&program);
        command.arg("--version");
        apply_user(&mut command, user);
        run_command(command, program.clone())
    };
    if version(Some(user)).await.is_ok() {
        return Ok(tools);
    }
    let version = version(None).await?;
    let version = version.split_whitespace().nth(2).unwrap_or("unknown");
    let bytes =
        program.metadata().map_err(Error::io_context(format!("inspect {}", program.display())))?.len();
    let target = Path::new(SHARED_DIR).join(format!("postgres-{version}-{bytes}"));
    let doing = || format!("copy Postgres to {}, where user {} can run it", target.display(), user.uid);

    // Layout: …/<package>/<installation>/bin, with the libraries in <package>.libs beside
    // <package>.
    let source = program.canonicalize().map_err(Error::io_context(doing()))?;
    let parents: Vec<_> = source.ancestors().collect();
    let &[_, bin, installation, package, above, ..] = &parents[..] else {
        return Ok(tools);
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let bin = target.join(name(package)).join(name(installation)).join(name(bin));
    if !target.exists() {
        create_open_dir(Path::new(SHARED_DIR))?;
        tracing::info!(to = %target.display(), "copying Postgres to a directory that its user can enter");
        // The rename makes the copy complete under its final name, even if several processes copy
        // at once.
        let new = target.with_extension(format!("new-{}", process::id()));
        create_open_dir(&new)?;
        let mut libraries = name(package);
        libraries.push(".libs");
        copy_readable(package, &new.join(name(package))).map_err(Error::io_context(doing()))?;
        if above.join(&libraries).exists() {
            copy_readable(&above.join(&libraries), &new.join(&libraries))
                .map_err(Error::io_context(doing()))?;
        }
        if let Err(error) = fs::rename(&new, &target) {
            fs::remove_dir_all(&new).map_err(Error::io_context(doing()))?;
            if !target.exists() {
                return Err(Error::io_context(doing())(error));
            }
        }
    }
    Ok(PostgresTools { bin_dir: bin })
}

/// Copies a directory so that every user can read it, without the headers, which no server needs.
fn copy_readable(from: &Path, to: &Path) -> std::io::Result<()> {
    let metadata = from.symlink_metadata()?;
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if metadata.is_file() {
        fs::copy(from, to)?;
        let mode = if metadata.mode() & 0o100 != 0 { 0o755 } else { 0o644 };
        return fs::set_permissions(to, fs::Permissions::from_mode(mode));
    }
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name != "include" {
            copy_readable(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

/// Creates a directory open to every user, whatever the umask.
fn create_open_dir(dir: &Path) -> Result<(), Error> {
    let doing = || format!("create {}", dir.display());
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(Error::io_context(doing()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(Error::io_context(doing()))?;
    }
    Ok(())
}

/// FNV-1a. The same in every build, unlike the standard library's hash.
fn fnv1a_hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
