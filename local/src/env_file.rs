//! The file `<data-dir>/env`: addresses of the running `picket up`, for shells and for Picket's
//! commands.

use std::{
    io,
    path::{Path, PathBuf},
};

use picket_servers::private_file;

/// Path of the file.
pub(crate) fn env_path(data_dir: &Path) -> PathBuf {
    data_dir.join("env")
}

/// Writes the file atomically, readable only by its owner.
pub(crate) fn write_env(data_dir: &Path, variables: &[(&str, &str)]) -> io::Result<()> {
    let mut text = String::from("# Written by 'picket up'; use it with: set -a; . this-file\n");
    for (name, value) in variables {
        text.push_str(&format!("{name}='{}'\n", value.replace('\'', r"'\''")));
    }
    private_file::replace_atomically(&env_path(data_dir), &text)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_written_file_reads_back_and_is_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let url = "postgres://picket:it's&odd@127.0.0.1:1/picket";
        fs::write(env_path(dir.path()), "old").unwrap();

        write_env(dir.path(), &[("DATABASE_URL", url), ("NATS_URL", "nats://127.0.0.1:2")]).unwrap();

        // As the commands read it.
        let read: BTreeMap<String, String> =
            dotenvy::from_path_iter(env_path(dir.path())).unwrap().map(Result::unwrap).collect();
        assert_eq!((read["DATABASE_URL"].as_str(), read["NATS_URL"].as_str()), (url, "nats://127.0.0.1:2"));
        let mode = fs::metadata(env_path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_shell_reads_the_same_values() {
        let dir = tempfile::tempdir().unwrap();
        write_env(dir.path(), &[("DATABASE_URL", "a'b $c `d` & e")]).unwrap();
        let script = format!(". {}; printf %s \"$DATABASE_URL\"", env_path(dir.path()).display());

        let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();

        assert_eq!(String::from_utf8_lossy(&said.stdout), "a'b $c `d` & e");
    }
}
