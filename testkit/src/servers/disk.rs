//! A small disk of a server's own, that can be filled up.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A disk in memory. It is gone with the value.
///
/// It is mounted in a namespace of its own, so that nobody has to be root and nothing is left behind.
#[derive(Debug)]
pub struct Disk {
    mount_holder: Child,
    path: PathBuf,
}

impl Disk {
    /// Makes a disk of `mib` MiB at `path`. `None`, and why is printed, where the system does not let us.
    pub(super) fn mount_at(path: &Path, mib: u32) -> Option<Self> {
        const SCRIPT: &str =
            r#"mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo mounted && exec cat >/dev/null"#;
        fs::create_dir_all(path).expect("a directory can be made");
        let holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "disk"])
            .arg(path)
            .arg(mib.to_string())
            // Its end is the holder's end, whatever becomes of us.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = holder.inspect_err(|error| eprintln!("no disk: unshare: {error}")).ok()?;
        let mut line = String::new();
        let said = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        if said.is_err() || line.trim() != "mounted" {
            let _ = holder.wait();
            eprintln!("no disk: this system lets nobody mount one in a namespace");
            return None;
        }
        Some(Self { mount_holder: holder, path: path.to_owned() })
    }

    /// A program that runs `program` where the disk is.
    pub(super) fn wrapper_script(&self, program: &Path) -> String {
        format!(
            "#!/bin/sh\nexec nsenter --target {} --user --mount --preserve-credentials -- {:?} \"$@\"\n",
            self.mount_holder.id(),
            program
        )
    }

    /// Takes all the room that is left.
    pub fn fill_up(&self) {
        let mut file = fs::File::create(self.ballast_path()).expect("a file on the disk");
        // Ever smaller, to the last byte.
        for size in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives the room back.
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
