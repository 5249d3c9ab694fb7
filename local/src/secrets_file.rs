//! The file `<data-dir>/secrets.toml`: secrets of checks and of channels, unless the user names
//! another file.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use picket_runtime::SecretValue;
use picket_servers::private_file;

use crate::config::Config;

/// Content of a new file.
const FILE_HEAD: &str = "\
# Secrets of 'picket up'. Sites and channels name them (secret:NAME); a change takes effect within a second.
#
# [secret.slack]
# value = 'https://hooks.slack.com/services/...'
# hosts = ['hooks.slack.com']
";
/// Directory of the service manager's credentials, which has a secrets file of its own.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A secret written by `picket up` itself.
#[derive(Clone, Debug)]
pub struct OwnSecret {
    /// Name of the secret.
    pub name: String,
    /// The value.
    pub value: SecretValue,
    /// Host allowed to receive the value.
    pub host: String,
}

/// Path of the file.
pub fn secrets_path(data_dir: &Path) -> PathBuf {
    data_dir.join("secrets.toml")
}

/// Makes the services read the file, where the user names none. A missing file is created.
pub(crate) fn adopt_secrets_file(config: &mut Config, data_dir: &Path) -> io::Result<()> {
    if std::env::var_os(CREDENTIALS_VARIABLE).is_some() {
        return Ok(());
    }
    let of_probers = config.probers.iter_mut().map(|prober| &mut prober.secrets.secrets_file);
    let of_notifier = config.notifier.iter_mut().map(|notifier| &mut notifier.secrets_file);
    let path = secrets_path(data_dir);
    for file in of_probers.chain(of_notifier).filter(|file| file.is_none()) {
        if !path.exists() {
            private_file::open_append(&path)?.write_all(FILE_HEAD.as_bytes())?;
        }
        *file = Some(path.clone());
    }
    Ok(())
}

/// Writes `secret` into the file, in place of an earlier value of its name. Returns true if the file
/// has changed.
///
/// # Errors
/// If the file cannot be read or written.
pub fn write_own_secret(data_dir: &Path, secret: &OwnSecret) -> io::Result<bool> {
    let path = secrets_path(data_dir);
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => FILE_HEAD.to_owned(),
        Err(error) => return Err(error),
    };
    let after = replace_section(&before, secret);
    if after == before {
        return Ok(false);
    }
    private_file::replace_atomically(&path, &after)?;
    Ok(true)
}

/// `text` with the entry of `secret` between marking comments.
fn replace_section(text: &str, secret: &OwnSecret) -> String {
    let OwnSecret { name, value, host } = secret;
    let mark = |word: &str| format!("# secret.{name}, written by 'picket up': {word}\n");
    let (begin, end) = (mark("begin"), mark("end"));
    // Every text in quotation marks of JSON is one of TOML.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let section = format!(
        "{begin}[secret.{name}]\nvalue = {}\nhosts = [{}]\n{end}",
        quoted(value.expose_text()),
        quoted(host)
    );
    let place = text.find(&begin).zip(text.find(&end)).filter(|(begin, end)| begin < end);
    match place {
        Some((start, last)) => format!("{}{section}{}", &text[..start], &text[last + end.len()..]),
        None => format!("{}\n\n{section}", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use picket_runtime::Secrets;

    use super::*;

    fn secret(name: &str, value: &str) -> OwnSecret {
        let value = SecretValue::new(value.to_owned());
        OwnSecret { name: name.to_owned(), value, host: "hooks.slack.com".to_owned() }
    }

    #[test]
    fn a_secret_is_written_beside_those_of_the_user_and_replaced_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = secrets_path(dir.path());
        let url = "https://hooks.slack.com/services/T/B/it's-\"quoted\"\\";
        let own = "[secret.mine]\nvalue = 'hunter2hunter2'\nhosts = ['a.example']\n";

        assert!(
            write_own_secret(dir.path(), &secret("notify-slack", "https://hooks.slack.com/services/old"))
                .unwrap()
        );
        fs::write(&path, fs::read_to_string(&path).unwrap() + own).unwrap();
        assert!(write_own_secret(dir.path(), &secret("notify-slack", url)).unwrap());
        assert!(!write_own_secret(dir.path(), &secret("notify-slack", url)).unwrap());
        assert!(
            write_own_secret(dir.path(), &secret("notify-discord", "https://discord.com/api/1/2")).unwrap()
        );

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = Secrets::load(&path).unwrap();
        let names: Vec<_> = loaded.summaries().into_iter().map(|summary| summary.name).collect();
        assert_eq!(names, ["mine", "notify-discord", "notify-slack"]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(own) && !text.contains("services/old"), "{text}");
        let at = "https://hooks.slack.com/".parse().unwrap();
        assert_eq!(loaded.value_for("notify-slack", &at, true).unwrap().expose_text(), url);
    }

    #[test]
    fn a_new_file_is_empty_but_for_its_explanation_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = secrets_path(dir.path());
        private_file::open_append(&path).unwrap().write_all(FILE_HEAD.as_bytes()).unwrap();

        assert!(Secrets::load(&path).unwrap().summaries().is_empty());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
