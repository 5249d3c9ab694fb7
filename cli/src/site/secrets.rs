//! `picket site secrets move`: replaces credentials in headers of sites by names of secrets.
//!
//! The values move in two steps, so that no step loses a value and no check lacks one: `--write`
//! writes the values to a file for the probers, and `--apply` changes the sites once each value is
//! found in that file.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{SiteId, credentials::find_credential_parameters, site::SiteSpec};
use picket_runtime::Secrets;
use picket_store::{
    settings::read_settings,
    sites::{self, Site, SiteChanges},
};
use url::Url;

use super::{
    credentials::{self, CredentialHeader},
    find_one_site,
};
use crate::{connect::DatabaseArgs, error::Error, output::print_text};

/// Commands of `picket site secrets`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SiteSecretsCommand {
    /// Replace headers that look like credentials by names of secrets
    #[command(after_help = "\
Steps:
  picket site secrets move                            what would be moved; no value is shown
  picket site secrets move --write secrets.toml       the values for the probers, mode 0600
  (append the file to PICKET_SECRETS_FILE of each prober)
  picket site secrets move --apply secrets.toml       change the sites")]
    Move(MoveSecretsOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MoveSecretsOptions {
    /// Site id or URL; may be repeated [default: all sites]
    #[arg(value_name = "SITE")]
    sites: Vec<String>,
    /// Write the values to this new file, with mode 0600; no site is changed
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    write: Option<PathBuf>,
    /// Change the sites, if each value is in this secrets file
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
    /// Print what would be done, and neither write nor change anything
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Header of a site that will be replaced.
struct PlannedMove {
    site: SiteId,
    spec: SiteSpec,
    url: Url,
    header: CredentialHeader,
}

/// Entry of the secrets file to write.
struct SecretEntry {
    name: String,
    value: String,
    hosts: Vec<String>,
    insecure: bool,
}

/// What was found in the sites.
#[derive(Default)]
struct Findings {
    moves: Vec<PlannedMove>,
    /// Lines about credentials that cannot be moved.
    remarks: Vec<String>,
}

pub(super) async fn run(command: SiteSecretsCommand, matches: &ArgMatches) -> Result<(), Error> {
    let SiteSecretsCommand::Move(options) = command;
    let store = options.database.clone().connect(matches).await?;
    let mut chosen = Vec::new();
    for word in &options.sites {
        chosen.push(find_one_site(&store, word).await?);
    }
    if options.sites.is_empty() {
        chosen = sites::list_sites(&store).await?;
    }
    let findings = Findings::of_sites(&chosen);
    if findings.moves.is_empty() {
        return print_text(&(findings.remarks.concat() + "no header looks like a credential\n"));
    }
    match &options.apply {
        None => {
            let entries = plan_entries(&findings.moves);
            print_text(&(describe_plan(&findings, &entries) + &write_entries(&options, &entries)?))
        }
        Some(file) => {
            let secrets = Secrets::load(file).map_err(|why| Error::Usage(why.to_string()))?;
            let intervals = read_settings(&store).await?.intervals;
            let (changes, mut text) = plan_changes(&findings.moves, &secrets, file)?;
            for (_, spec) in &changes.updates {
                spec.validate(intervals)?;
            }
            text += &findings.remarks.concat();
            let count = changes.updates.len();
            if options.dry_run {
                return print_text(&format!("{text}would change {count} sites; nothing was changed\n"));
            }
            sites::apply_changes(&store, &changes).await?;
            print_text(&format!("{text}changed {count} sites; effective within 2 s\n"))
        }
    }
}

impl Findings {
    fn of_sites(sites: &[Site]) -> Self {
        let mut findings = Self::default();
        for site in sites {
            match &site.spec {
                Ok(spec) => findings.add_site(site.id, spec),
                Err(why) => findings.remarks.push(format!("site {}: cannot be read: {why}\n", site.id)),
            }
        }
        findings
    }

    fn add_site(&mut self, site: SiteId, spec: &SiteSpec) {
        for name in find_credential_parameters(&spec.check) {
            let name = picket_proto::validation::sanitize_text(&name, 64);
            self.remarks.push(format!(
                "site {site}: parameter '{name}' of the URL looks like a credential; no option replaces it, \
                 so send it in a header if the site accepts one\n"
            ));
        }
        let Ok(url) = Url::parse(&spec.check.url) else { return };
        for header in credentials::find_headers(&spec.check) {
            if leads_elsewhere(spec, &url) {
                self.remarks.push(format!(
                    "site {site}: header {} stays, because options.connect_to or options.host_header names a place \
                     that the secret has to list among its hosts as well; move it by hand\n",
                    header.header
                ));
                continue;
            }
            if header.value.len() < Secrets::MIN_VALUE_BYTES {
                self.remarks.push(format!(
                    "site {site}: header {} has a value of less than {} bytes, which no secret may have\n",
                    header.header,
                    Secrets::MIN_VALUE_BYTES
                ));
                continue;
            }
            self.moves.push(PlannedMove { site, spec: spec.clone(), url: url.clone(), header });
        }
    }
}

/// Returns true if a secret of the site must be allowed at another place than its URL.
fn leads_elsewhere(spec: &SiteSpec, url: &Url) -> bool {
    let options = &spec.check.options;
    // The certificate proves the name of the URL, wherever the connection leads.
    let is_proven = url.scheme() == "https" && spec.check.tls_verify;
    options.host_header.is_some() || (options.connect_to.is_some() && !is_proven)
}

impl PlannedMove {
    fn host_rule(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    fn is_secure(&self) -> bool {
        self.url.scheme() == "https" && self.spec.check.tls_verify
    }
}

/// One entry for each value. Equal values of several sites share an entry.
fn plan_entries(moves: &[PlannedMove]) -> Vec<SecretEntry> {
    let mut entries: Vec<SecretEntry> = Vec::new();
    for planned in moves {
        let index =
            entries.iter().position(|entry| entry.value == planned.header.value).unwrap_or_else(|| {
                let suggested = credentials::suggest_name(&planned.url, &planned.header.header);
                let is_taken = |name: &str| entries.iter().any(|entry| entry.name == name);
                let numbered = (2..).map(|number| format!("{suggested}-{number}"));
                let name = std::iter::once(suggested.clone()).chain(numbered).find(|name| !is_taken(name));
                entries.push(SecretEntry {
                    name: name.unwrap_or(suggested),
                    value: planned.header.value.clone(),
                    hosts: Vec::new(),
                    insecure: false,
                });
                entries.len() - 1
            });
        let entry = &mut entries[index];
        let host = planned.host_rule();
        if !entry.hosts.contains(&host) {
            entry.hosts.push(host);
        }
        entry.insecure |= !planned.is_secure();
    }
    entries
}

/// What would be moved, with the entries of the file without their values.
fn describe_plan(findings: &Findings, entries: &[SecretEntry]) -> String {
    let mut text = findings.remarks.concat();
    for planned in &findings.moves {
        let entry = entries.iter().find(|entry| entry.value == planned.header.value);
        text += &format!(
            "site {}: header {} becomes {} with the secret '{}'\n",
            planned.site,
            planned.header.header,
            planned.header.option_name(),
            entry.map_or("", |entry| &entry.name)
        );
    }
    text += "\nEntries for PICKET_SECRETS_FILE of each prober:\n\n";
    for entry in entries {
        text += &format_entry(entry, &format!("value_file = {}", quote(&entry.name)));
    }
    text
}

fn format_entry(entry: &SecretEntry, value_line: &str) -> String {
    let hosts = entry.hosts.iter().map(|host| quote(host)).collect::<Vec<_>>().join(", ");
    let insecure = match entry.insecure {
        true => "# A site with this secret has no https or no verified certificate.\ninsecure = true\n",
        false => "",
    };
    format!("[secret.{}]\n{value_line}\nhosts = [{hosts}]\n{insecure}\n", entry.name)
}

/// Writes the file of `--write`. Returns the next step.
fn write_entries(options: &MoveSecretsOptions, entries: &[SecretEntry]) -> Result<String, Error> {
    let Some(path) = options.write.as_deref().filter(|_| !options.dry_run) else {
        return Ok("nothing was written or changed; next: picket site secrets move --write secrets.toml\n"
            .to_owned());
    };
    let text: String = entries
        .iter()
        .map(|entry| format_entry(entry, &format!("value = {}", quote(&entry.value))))
        .collect();
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

/// The changed sites. Refuses if a value is not in the file for its host.
fn plan_changes(
    moves: &[PlannedMove],
    secrets: &Secrets,
    file: &Path,
) -> Result<(SiteChanges, String), Error> {
    let mut changed: BTreeMap<SiteId, SiteSpec> = BTreeMap::new();
    let mut text = String::new();
    for planned in moves {
        let verified = planned.spec.check.tls_verify;
        let name = secrets.find_name(&planned.header.value, &planned.url, verified).ok_or_else(|| {
            Error::Usage(format!(
                "--apply: '{}' has no secret with the value of header {} of site {} that may be sent to {}; nothing \
                 was changed",
                file.display(),
                planned.header.header,
                planned.site,
                planned.host_rule()
            ))
        })?;
        let spec = changed.entry(planned.site).or_insert_with(|| planned.spec.clone());
        planned.header.replace_in(&mut spec.check, &name);
        text += &format!(
            "site {}: header {} becomes {} with the secret '{name}'\n",
            planned.site,
            planned.header.header,
            planned.header.option_name()
        );
    }
    let updates = changed.into_iter().collect();
    Ok((SiteChanges { updates, ..SiteChanges::default() }, text))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_stays_where_its_secret_would_need_another_host() {
        for (site, is_moved) in [
            (r#"{"url":"https://a.example/"}"#, true),
            (r#"{"url":"https://a.example/","options":{"connect_to":"192.0.2.7"}}"#, true),
            (r#"{"url":"http://a.example/","options":{"connect_to":"192.0.2.7"}}"#, false),
            (
                r#"{"url":"https://a.example/","tls_verify":false,"options":{"connect_to":"192.0.2.7"}}"#,
                false,
            ),
            (r#"{"url":"https://a.example/","options":{"host_header":"b.example"}}"#, false),
        ] {
            let mut spec = SiteSpec { check: serde_json::from_str(site).unwrap(), ..SiteSpec::new("") };
            spec.check.headers = [("X-Api-Key".to_owned(), "s3cret-value".to_owned())].into();
            let mut findings = Findings::default();
            findings.add_site(SiteId(7), &spec);

            assert_eq!(
                (findings.moves.len(), findings.remarks.len()),
                (usize::from(is_moved), usize::from(!is_moved))
            );
            assert!(findings.remarks.iter().all(|remark| remark.contains("X-Api-Key stays")), "{site}");
        }
    }
}
