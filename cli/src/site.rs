//! `picket site`: sites, one at a time.

mod candidate;
mod credentials;
mod nested_fields;
mod record;
mod secrets;
mod show;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::site::{IntervalRange, SiteIdentity, SiteSpec};
use picket_runtime::options::DurationArg;
use picket_store::{
    Store,
    settings::read_settings,
    sites::{self, Site},
};

pub(crate) use self::{
    nested_fields::{FieldLine, describe_nested_fields, diff_nested_fields},
    record::SiteRecord,
    secrets::SiteSecretsCommand,
    show::format_timestamp,
};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
    site_args::{CheckOptions, SiteOptions},
};

/// Commands of `picket site`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SiteCommand {
    /// Add a site
    #[command(after_help = "\
Examples:
  picket site add https://example.com
  picket site add https://example.com/health --interval 30s --regex '\"status\": *\"ok\"'
  picket site add https://example.com/admin --status 401 --region eu-west --quorum 1
  picket site add https://example.com/health --assert-json '$.status == \"ok\"' --warn-after 2s
  picket site add https://example.com/api --auth-bearer secret:shop-token --assert-header 'Content-Type =~ json'")]
    Add(Box<AddSiteOptions>),
    /// List all sites
    List(ListSitesOptions),
    /// Show a site with its definition, its problem and its last results
    Show(ShowSiteOptions),
    /// Change the given fields of a site
    #[command(after_help = "\
Examples:
  picket site set 7 --interval 30s
  picket site set https://example.com --regex ''      (removes the regex)
  picket site set 7 --assert-json '$.queue < 100' --assert-json '$.errors absent'   (replaces all of JSON)")]
    Set(Box<SetSiteOptions>),
    /// Pause a site; its definition and results stay
    Pause(SiteSelector),
    /// Resume a paused site
    Resume(SiteSelector),
    /// Remove a site; its results stay readable
    Remove(SiteSelector),
    /// Secrets of sites
    #[command(subcommand)]
    Secrets(SiteSecretsCommand),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddSiteOptions {
    /// URL to check (http or https)
    url: String,
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    site: SiteOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListSitesOptions {
    /// List only sites with this tag
    #[arg(long, visible_alias = "tags", value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowSiteOptions {
    /// Site id or URL
    site: String,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetSiteOptions {
    /// Site id or URL
    site: String,
    /// New URL (http or https)
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    options: SiteOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SiteSelector {
    /// Site id or URL
    site: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(command: SiteCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        SiteCommand::Add(options) => add_site(*options, matches).await,
        SiteCommand::List(options) => list_sites(options, matches).await,
        SiteCommand::Show(options) => {
            let store = options.database.connect(matches).await?;
            let site = find_one_site(&store, &options.site).await?;
            show::show_site(&store, &site, options.output).await
        }
        SiteCommand::Set(options) => update_site(*options, matches).await,
        SiteCommand::Secrets(command) => secrets::run(command, matches).await,
        SiteCommand::Pause(options) => set_enabled(options, false, matches).await,
        SiteCommand::Resume(options) => set_enabled(options, true, matches).await,
        SiteCommand::Remove(options) => {
            let store = options.database.connect(matches).await?;
            let site = find_one_site(&store, &options.site).await?;
            sites::delete_site(&store, site.id).await?;
            print_text(&format!("removed site {} ({}); its results stay readable\n", site.id, site.url))
        }
    }
}

async fn add_site(options: AddSiteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let mut spec = SiteSpec::new(options.url);
    options.check.apply_to(&mut spec.check)?;
    options.site.apply_to(&mut spec)?;
    spec.refuse_hidden_values()?;
    spec.validate(IntervalRange::WIDEST)?;
    let store = options.database.connect(matches).await?;
    read_settings(&store).await?.intervals.check(spec.interval_seconds)?;
    // The database decides whether the site is a duplicate: another command may add it at the same
    // time.
    let id = match sites::insert_site(&store, &spec).await {
        Ok(id) => id,
        Err(picket_store::Error::DuplicateSite) => return Err(duplicate_error(&store, &spec).await),
        Err(error) => return Err(error.into()),
    };
    let regions = picket_store::regions::list_regions(&store).await?;
    let from = match (&spec.regions[..], &regions[..]) {
        ([], []) => "but there is no region yet: picket region add NAME".to_owned(),
        ([], all) => format!("from {}", join_names(all.iter().map(|region| region.name.as_str()))),
        (some, _) => format!("from {}", join_names(some.iter().map(String::as_str))),
    };
    print_text(&format!(
        "added site {id}: checked every {interval} {from}, for the first time within {interval}\nnext: picket site show {id}, picket tail --site {id}\n",
        interval = format_interval(spec.interval_seconds),
    ))
}

/// Error for a duplicate of `spec`, with the id of the existing site.
async fn duplicate_error(store: &Store, spec: &SiteSpec) -> Error {
    let identity = SiteIdentity::of_spec(spec);
    let there = match sites::find_by_id_or_url(store, &spec.check.url).await {
        Ok(found) => found
            .into_iter()
            .find(|site| site.spec.as_ref().is_ok_and(|there| SiteIdentity::of_spec(there) == identity)),
        Err(_) => None,
    };
    let hint =
        there.map_or_else(String::new, |site| format!("; it is site {0}: picket site set {0} …", site.id));
    Error::Usage(format!("{}{hint}", picket_store::Error::DuplicateSite))
}

async fn list_sites(options: ListSitesOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let records: Vec<SiteRecord> = sites::list_sites(&store)
        .await?
        .iter()
        .map(SiteRecord::from)
        .filter(|record| options.tag.as_ref().is_none_or(|tag| record.has_tag(tag)))
        .collect();
    options.output.print_rows(&records, |records| {
        let mut listing = TextTable::new(
            ["ID", "STATE", "EVERY", "REGIONS", "TAGS", "NAME", "URL", "PROBLEM"],
            "no sites yet; add one: picket site add https://example.com",
        )
        .align_right([0]);
        for record in records {
            listing.add_row([
                text_cell(record.id.0),
                status_cell(record.state()),
                text_cell(record.interval_text()),
                text_cell(record.regions_text()),
                text_cell(record.tags_text()),
                text_cell(record.name()),
                text_cell(&record.url),
                text_cell(record.problem.clone()),
            ]);
        }
        listing
    })
}

async fn update_site(options: SetSiteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let site = find_one_site(&store, &options.site).await?;
    let before = readable_spec(&site)?;
    let mut after = before.clone();
    if let Some(url) = options.url {
        after.check.url = url;
    }
    options.check.apply_to(&mut after.check)?;
    options.options.apply_to(&mut after)?;
    after.refuse_hidden_values()?;
    after.validate(read_settings(&store).await?.intervals)?;
    if after == before {
        return print_text(&format!("site {} already has this definition; nothing was changed\n", site.id));
    }
    match sites::update_site(&store, site.id, &after).await {
        Ok(()) => {}
        Err(picket_store::Error::DuplicateSite) => return Err(duplicate_error(&store, &after).await),
        Err(error) => return Err(error.into()),
    }
    print_text(&format!("changed site {}; effective within 2 s\n", site.id))
}

async fn set_enabled(options: SiteSelector, enabled: bool, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let site = find_one_site(&store, &options.site).await?;
    let mut spec = readable_spec(&site)?;
    let done = match enabled {
        true => "resumed",
        false => "paused",
    };
    if std::mem::replace(&mut spec.enabled, enabled) == enabled {
        return print_text(&format!("site {} was already {done}\n", site.id));
    }
    sites::update_site(&store, site.id, &spec).await?;
    print_text(&format!("{done} site {} ({}); effective within 2 s\n", site.id, site.url))
}

/// Finds the single site with this id or URL.
///
/// # Errors
/// [`Error::Usage`] if there is no such site, or several; the message then lists them.
pub(crate) async fn find_one_site(store: &Store, word: &str) -> Result<Site, Error> {
    let mut found = sites::find_by_id_or_url(store, word).await?;
    match (found.pop(), found.len()) {
        (Some(site), 0) => Ok(site),
        (Some(last), _) => {
            let candidates: Vec<String> = found
                .iter()
                .chain([&last])
                .map(|site| format!("\n  {}", candidate::describe_candidate(site)))
                .collect();
            Err(Error::Usage(format!(
                "site: '{word}' is {} sites; select one by its id:{}",
                candidates.len(),
                candidates.concat()
            )))
        }
        (None, _) => Err(Error::Usage(format!(
            "there is no site '{word}'; 'picket site list' has the ids and URLs of all"
        ))),
    }
}

/// The definition of a site. Fails if a row written by SQL has a value that cannot be represented.
fn readable_spec(site: &Site) -> Result<SiteSpec, Error> {
    site.spec.clone().map_err(|why| {
        Error::Usage(format!("site {} cannot be read; correct it by SQL first: {why}", site.id))
    })
}

/// Seconds as a short duration, such as "5m".
pub(crate) fn format_interval(seconds: i64) -> String {
    DurationArg(std::time::Duration::from_secs(seconds.unsigned_abs())).to_string()
}

fn join_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
