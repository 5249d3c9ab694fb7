//! The file `<data-dir>/env`: addresses of the running `picket up`, for shells and for Picket's
//! commands.

use std::{
    collections::BTreeMap,
    fs, io,
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

/// Reads the file written by [`write_env`].
pub(crate) fn read_env(data_dir: &Path) -> io::Result<BTreeMap<String, String>> {
    Ok(parse_env(&fs::read_to_string(env_path(data_dir))?))
}

fn parse_env(text: &str) -> BTreeMap<String, String> {
    let unquoted = |value: &str| match value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        Some(quoted) => quoted.replace(r"'\''", "'"),
        None => value.to_owned(),
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), unquoted(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_reads_back_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let url = "postgres://picket:it's&odd@127.0.0.1:1/picket";
        fs::write(env_path(dir.path()), "old").unwrap();

        write_env(dir.path(), &[("DATABASE_URL", url), ("NATS_URL", "nats://127.0.0.1:2")]).unwrap();

        let read = read_env(dir.path()).unwrap();
        assert_eq!((read["DATABASE_URL"].as_str(), read["NATS_URL"].as_str()), (url, "nats://127.0.0.1:2"));
        let mode = fs::metadata(env_path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_shell_reads_the_same() {
        let dir = tempfile::tempdir().unwrap();
        write_env(dir.path(), &[("DATABASE_URL", "a'b $c `d` & e")]).unwrap();
        let script = format!(". {}; printf %s \"$DATABASE_URL\"", env_path(dir.path()).display());

        let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();

        assert_eq!(String::from_utf8_lossy(&said.stdout), "a'b $c `d` & e");
    }
}
