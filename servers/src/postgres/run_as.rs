//! User for Postgres: the current user, or an unprivileged user instead of root.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::Error;

/// A user to change to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RunAs {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl RunAs {
    /// Finds an unprivileged user of this machine.
    pub(super) async fn find_unprivileged() -> Result<Self, Error> {
        for name in ["postgres", "nobody"] {
            // `id` also finds users that are not in /etc/passwd.
            if let (Some(uid @ 1..), Some(gid)) = (lookup_id("-u", name).await, lookup_id("-g", name).await) {
                return Ok(Self { uid, gid });
            }
        }
        Err(Error::NoUnprivilegedUser)
    }

    /// Returns true if this user can enter the directory. Tested by changing to the user, because
    /// file modes alone do not decide.
    pub(super) async fn can_enter(self, dir: &Path) -> Result<bool, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$0\""]).arg(dir).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        apply_user(&mut command, Some(self));
        let status =
            command.status().await.map_err(Error::io_context(format!("change to user {}", self.uid)))?;
        Ok(status.success())
    }
}

/// Makes the command run as `user`, without the groups of this process; unchanged if there is none.
pub(super) fn apply_user(command: &mut Command, user: Option<RunAs>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}

async fn lookup_id(flag: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, name]).output().await.ok()?;
    // Some systems print the user id -2 as a negative number.
    let number: i64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    u32::try_from(number).or_else(|_| i32::try_from(number).map(i32::cast_unsigned)).ok()
}
