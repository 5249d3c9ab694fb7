//! Entries of the secrets file that `picket site secrets move` proposes and writes.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use super::findings::PlannedMove;
use crate::{error::Error, site::credentials};

/// Entry of the secrets file to write.
pub(super) struct SecretEntry {
    pub(super) name: String,
    value: String,
    pub(super) hosts: Vec<String>,
    pub(super) insecure: bool,
}

/// One entry for each value. Equal values of several sites share an entry, but never one of a site
/// with https and one without: its value could be sent to each of the hosts without encryption.
pub(super) fn plan_entries(moves: &[PlannedMove]) -> Vec<SecretEntry> {
    let mut entries: Vec<SecretEntry> = Vec::new();
    for planned in moves {
        let index = entries.iter().position(|entry| entry.is_for(planned)).unwrap_or_else(|| {
            let suggested = credentials::suggest_name(&planned.url, &planned.header.header);
            let is_taken = |name: &str| entries.iter().any(|entry| entry.name == name);
            let numbered = (2..).map(|number| format!("{suggested}-{number}"));
            let name = std::iter::once(suggested.clone()).chain(numbered).find(|name| !is_taken(name));
            entries.push(SecretEntry {
                name: name.unwrap_or(suggested),
                value: planned.header.value.clone(),
                hosts: Vec::new(),
                insecure: !planned.is_secure(),
            });
            entries.len() - 1
        });
        let entry = &mut entries[index];
        let host = planned.host_rule();
        if !entry.hosts.contains(&host) {
            entry.hosts.push(host);
        }
    }
    entries
}

impl SecretEntry {
    pub(super) fn is_for(&self, planned: &PlannedMove) -> bool {
        self.value == planned.header.value && self.insecure != planned.is_secure()
    }

    /// The entry as TOML, with `value_line` for its value.
    fn format_toml(&self, value_line: &str) -> String {
        let hosts = self.hosts.iter().map(|host| quote(host)).collect::<Vec<_>>().join(", ");
        let insecure = match self.insecure {
            true => {
                "# The sites with this secret have no https or no verified certificate.\ninsecure = true\n"
            }
            false => "",
        };
        format!("[secret.{}]\n{value_line}\nhosts = [{hosts}]\n{insecure}\n", self.name)
    }

    /// The entry with a file as the place of the value.
    pub(super) fn format_without_value(&self) -> String {
        self.format_toml(&format!("value_file = {}", quote(&self.name)))
    }

    /// The entry with the value.
    pub(super) fn format_with_value(&self) -> String {
        self.format_toml(&format!("value = {}", quote(&self.value)))
    }
}

/// Writes the file of `--write`, if one is given. Returns the next step.
pub(super) fn write_entries(path: Option<&Path>, entries: &[SecretEntry]) -> Result<String, Error> {
    let Some(path) = path else {
        return Ok("nothing was written or changed; next: picket site secrets move --write secrets.toml\n"
            .to_owned());
    };
    let text: String = entries.iter().map(SecretEntry::format_with_value).collect();
    // A new file, so that no other user has it open already and no older one is overwritten.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|why| Error::Usage(format!("--write: could not create '{}': {why}", path.display())))?;
    Ok(format!(
        "wrote {count} values to {path}; no site was changed\n\
         next: append it to PICKET_SECRETS_FILE of each prober, then: picket site secrets move --apply {path}\n",
        count = entries.len(),
        path = path.display()
    ))
}

/// `text` as a basic string of TOML.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control.is_control() => quoted += &format!("\\u{:04X}", u32::from(control)),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}
