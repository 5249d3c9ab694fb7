//! The user whom Postgres runs as: ourselves, or somebody with fewer rights when we are root.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::Error;

/// A user to become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RunAs {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl RunAs {
    /// Who is there for it on this machine.
    pub(super) async fn find_unprivileged() -> Result<Self, Error> {
        for name in ["postgres", "nobody"] {
            // `id` also knows the users who are not in /etc/passwd.
            if let (Some(uid @ 1..), Some(gid)) = (lookup_id("-u", name).await, lookup_id("-g", name).await) {
                return Ok(Self { uid, gid });
            }
        }
        Err(Error::NoUnprivilegedUser)
    }

    /// Whether this user can enter the directory. Asked of the system itself: modes do not say all.
    pub(super) async fn can_enter(self, dir: &Path) -> Result<bool, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cd -- \"$0\""]).arg(dir).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        apply_user(&mut command, Some(self));
        let status =
            command.status().await.map_err(Error::io_context(format!("become user {}", self.uid)))?;
        Ok(status.success())
    }
}

/// Makes the command run as the user, without the groups of this process; as ourselves if there is none.
pub(super) fn apply_user(command: &mut Command, user: Option<RunAs>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}

async fn lookup_id(what: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([what, name]).output().await.ok()?;
    // Some systems print the user -2 as such.
    let number: i64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    u32::try_from(number).or_else(|_| i32::try_from(number).map(i32::cast_unsigned)).ok()
}
