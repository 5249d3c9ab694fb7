//! `picket site secrets move`: replaces credentials in headers of sites by names of secrets.
//!
//! The values move in two steps, so that no step loses a value and no check lacks one: `--write`
//! writes the values to a file for the probers, and `--apply` changes the sites once each value is
//! found in that file.

mod entries;
mod findings;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{SiteId, site::SiteSpec};
use picket_runtime::Secrets;
use picket_store::{
    settings::read_settings,
    sites::{self, SiteChanges},
};

use self::{
    entries::{SecretEntry, plan_entries, write_entries},
    findings::{Findings, PlannedMove},
};
use super::find_one_site;
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
        let summary = match findings.remarks.is_empty() {
            true => "no header looks like a credential\n",
            false => "no header can be moved\n",
        };
        return print_text(&(findings.remarks.concat() + summary));
    }
    match &options.apply {
        None => {
            let entries = plan_entries(&findings.moves);
            let path = options.write.as_deref().filter(|_| !options.dry_run);
            print_text(&(describe_plan(&findings, &entries) + &write_entries(path, &entries)?))
        }
        Some(file) => {
            let secrets = Secrets::load(file).map_err(|why| Error::Usage(why.to_string()))?;
            let intervals = read_settings(&store).await?.intervals;
            let (changes, mut text) = plan_changes(&findings.moves, &secrets, file)?;
            for (id, spec) in &changes.updates {
                spec.validate(intervals)
                    .map_err(|why| Error::Usage(format!("site {id}: {why}; nothing was changed")))?;
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

/// What would be moved, with the entries of the file without their values.
fn describe_plan(findings: &Findings, entries: &[SecretEntry]) -> String {
    let mut text = findings.remarks.concat();
    for planned in &findings.moves {
        let entry = entries.iter().find(|entry| entry.is_for(planned));
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
        text += &entry.format_without_value();
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_with_and_without_https_share_no_entry() {
        let mut findings = Findings::default();
        for (site, id) in [
            r#"{"url":"https://a.example/","headers":{"X-Api-Key":"s3cret-value"}}"#,
            r#"{"url":"http://lan.example/","headers":{"X-Api-Key":"s3cret-value"}}"#,
            r#"{"url":"https://b.example/","headers":{"X-Api-Key":"s3cret-value"}}"#,
            r#"{"url":"https://c.example/","tls_verify":false,"headers":{"X-Api-Key":"s3cret-value"}}"#,
            r#"{"url":"http://a.example/","headers":{"X-Api-Key":"s3cret-value"}}"#,
        ]
        .iter()
        .zip(1..)
        {
            findings.add_site(SiteId(id), &serde_json::from_str(site).unwrap());
        }

        let entries = plan_entries(&findings.moves);

        let described: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.hosts.join(" "), entry.insecure))
            .collect();
        assert_eq!(
            described,
            [
                ("a-example-x-api-key", "a.example b.example".to_owned(), false),
                ("lan-example-x-api-key", "lan.example c.example a.example".to_owned(), true),
            ]
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        write_entries(Some(&path), &entries).unwrap();
        let secrets = Secrets::load(&path).unwrap();
        let (changes, _) = plan_changes(&findings.moves, &secrets, &path).unwrap();
        let names =
            changes.updates.iter().map(|(_, spec)| &spec.check.options.secret_headers["X-Api-Key"].secret);
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "a-example-x-api-key",
                "lan-example-x-api-key",
                "a-example-x-api-key",
                "lan-example-x-api-key",
                "lan-example-x-api-key"
            ]
        );
    }
}
