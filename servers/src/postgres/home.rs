//! Where Postgres's programs and data are, so that the user whom it runs as can reach them.

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
    command, output,
    user::{User, run_as},
};
use crate::{DataDir, Error, PostgresTools};

/// What root keeps for Postgres's user where that user gets to neither programs nor data: a clone under a closed
/// home directory, for one.
const SHARED: &str = "/var/lib/picket";

/// The places and the user of one Postgres.
pub(super) struct Home {
    pub(super) tools: PostgresTools,
    /// The data, free of symbolic links. It may not exist yet.
    pub(super) data: PathBuf,
    /// Whom to become; nobody if we are not root.
    pub(super) user: Option<User>,
}

impl Home {
    pub(super) async fn find(tools: PostgresTools, data: &DataDir) -> Result<Self, Error> {
        let link = data.path().join("postgres");
        let existing = link.canonicalize().ok();
        let owner = match &existing {
            Some(dir) => {
                let metadata = dir.metadata().map_err(Error::io(format!("look at {}", dir.display())))?;
                Some(User { uid: metadata.uid(), gid: metadata.gid() })
            }
            None => None,
        };

        if !rustix::process::geteuid().is_root() {
            let us = rustix::process::geteuid().as_raw();
            return match (owner, existing) {
                (Some(owner), Some(dir)) if owner.uid != us => {
                    Err(Error::ForeignData { dir, owner: owner.uid })
                }
                (_, existing) => Ok(Self { tools, data: existing.unwrap_or(link), user: None }),
            };
        }

        let user = match owner {
            Some(owner) if owner.uid != 0 => owner,
            _ => User::unprivileged().await?,
        };
        let data = match existing {
            Some(dir) if user.reaches(&dir).await? => dir,
            Some(dir) => return Err(Error::DataUnreachable { dir, user: user.uid }),
            None if user.reaches(data.path()).await? => link,
            None => elsewhere(data.path(), &link)?,
        };
        Ok(Self { tools: reachable_tools(tools, user).await?, data, user: Some(user) })
    }
}

/// A place for the data of `data_dir` that anybody can reach, with a link to it where the data should be.
fn elsewhere(data_dir: &Path, link: &Path) -> Result<PathBuf, Error> {
    let dir = Path::new(SHARED).join(format!("data-{:016x}", fnv1a(data_dir.as_os_str().as_bytes())));
    let doing = || format!("put the data of Postgres into {}", dir.display());
    create_open(Path::new(SHARED))?;
    if dir.exists() {
        // Somebody removed the data directory, and with it the password to this.
        let old = dir.with_extension("old");
        tracing::warn!(from = %dir.display(), to = %old.display(), "moving the data of a removed data directory aside");
        if old.exists() {
            fs::remove_dir_all(&old).map_err(Error::io(doing()))?;
        }
        fs::rename(&dir, &old).map_err(Error::io(doing()))?;
    }
    if link.is_symlink() {
        fs::remove_file(link).map_err(Error::io(doing()))?;
    }
    symlink(&dir, link).map_err(Error::io(doing()))?;
    Ok(dir)
}

/// The programs themselves, or a copy of them, made once for each build, if the user cannot run them where they are.
async fn reachable_tools(tools: PostgresTools, user: User) -> Result<PostgresTools, Error> {
    let program = tools.postgres();
    let version = |user| {
        let mut command = command(&program);
        command.arg("--version");
        run_as(&mut command, user);
        output(command, program.clone())
    };
    if version(Some(user)).await.is_ok() {
        return Ok(tools);
    }
    let version = version(None).await?;
    let version = version.split_whitespace().nth(2).unwrap_or("unknown");
    let bytes = program.metadata().map_err(Error::io(format!("look at {}", program.display())))?.len();
    let target = Path::new(SHARED).join(format!("postgres-{version}-{bytes}"));
    let doing = || format!("copy Postgres to {}, where user {} can run it", target.display(), user.uid);

    // …/<package>/<installation>/bin; the libraries of <package> are in <package>.libs beside it.
    let source = program.canonicalize().map_err(Error::io(doing()))?;
    let parents: Vec<_> = source.ancestors().collect();
    let &[_, bin, installation, package, above, ..] = &parents[..] else {
        return Ok(tools);
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let bin = target.join(name(package)).join(name(installation)).join(name(bin));
    if !target.exists() {
        create_open(Path::new(SHARED))?;
        tracing::info!(to = %target.display(), "copying Postgres to where its user can run it");
        // Complete as soon as it has its name, whoever else copies at the same time.
        let new = target.with_extension(format!("new-{}", process::id()));
        create_open(&new)?;
        let mut libraries = name(package);
        libraries.push(".libs");
        copy(package, &new.join(name(package))).map_err(Error::io(doing()))?;
        if above.join(&libraries).exists() {
            copy(&above.join(&libraries), &new.join(&libraries)).map_err(Error::io(doing()))?;
        }
        if let Err(error) = fs::rename(&new, &target) {
            fs::remove_dir_all(&new).map_err(Error::io(doing()))?;
            if !target.exists() {
                return Err(Error::io(doing())(error));
            }
        }
    }
    Ok(PostgresTools { bin })
}

/// Copies a directory so that everybody can read it, without the headers that no server needs.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
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
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

/// Creates a directory that everybody can enter, whatever the umask.
fn create_open(dir: &Path) -> Result<(), Error> {
    let doing = || format!("create {}", dir.display());
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(Error::io(doing()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(Error::io(doing()))?;
    }
    Ok(())
}

/// A hash that is the same in every build, unlike the standard library's.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
