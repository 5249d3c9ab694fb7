//! Small disk for a single server, which a test can fill up.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Disk in memory. Unmounted when dropped.
///
/// The disk is mounted in its own namespace, so that tests need no root and leave nothing behind.
#[derive(Debug)]
pub struct Disk {
    mount_holder: Child,
    path: PathBuf,
}

impl Disk {
    /// Mounts a disk of `mib` MiB at `path`. Returns `None` and prints the reason if the system
    /// does not allow the mount.
    pub(super) fn mount_at(path: &Path, mib: u32) -> Option<Self> {
        const SCRIPT: &str =
            r#"mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo mounted && exec cat >/dev/null"#;
        fs::create_dir_all(path).expect("a directory can be made");
        let holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "disk"])
            .arg(path)
            .arg(mib.to_string())
            // The holder ends with this pipe, even if the test process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.inspect_err(|error| eprintln!("no disk: unshare: {error}")).ok()?;
        let mut line = String::new();
        let read = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        if read.is_err() || line.trim() != "mounted" {
            let _ = holder.wait();
            eprintln!("no disk: this system allows no mount in a namespace");
            return None;
        }
        Some(Self { mount_holder: holder, path: path.to_owned() })
    }

    /// Shell script that runs `program` inside the namespace of the disk.
    pub(super) fn wrapper_script(&self, program: &Path) -> String {
        format!(
            "#!/bin/sh\nexec nsenter --target {} --user --mount --preserve-credentials -- {:?} \"$@\"\n",
            self.mount_holder.id(),
            program
        )
    }

    /// Fills the disk.
    pub fn fill_up(&self) {
        let mut file = fs::File::create(self.ballast_path()).expect("a file on the disk");
        // Smaller and smaller writes fill the disk to the last byte.
        for size in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Frees the space again.
    pub fn remove_ballast(&self) {
        fs::remove_file(self.ballast_path()).expect("the disk was filled");
    }

    fn ballast_path(&self) -> PathBuf {
        let inside = self.path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.mount_holder.id())).join(inside).join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.mount_holder.kill();
        let _ = self.mount_holder.wait();
    }
}
