//! `picket site`: the sites that are watched, one by one.

mod record;
mod show;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{Invalid, site::SiteSpec};
use picket_runtime::options::Span;
use picket_store::{
    Store,
    sites::{self, Site},
};

pub(crate) use self::{
    record::{Record, definition},
    show::moment,
};
use crate::{
    definition::{CheckOptions, IntervalOptions, SiteOptions},
    error::Error,
    output::{Listing, OutputOptions, cell, print, word},
    reach::Database,
};

/// See `picket site --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Watch a site
    #[command(after_help = "\
Examples:
  picket site add https://example.com
  picket site add https://example.com/health --interval 30s --regex '\"status\": *\"ok\"'
  picket site add https://example.com/admin --status 401 --region eu-west --quorum 1")]
    Add(Box<Add>),
    /// All sites
    List(List),
    /// One site: its definition, its problem, its last results
    Show(Show),
    /// Change what is given of a site, and leave the rest
    #[command(after_help = "\
Examples:
  picket site set 7 --interval 30s
  picket site set https://example.com --regex ''      (no longer asks for a match)")]
    Set(Box<Set>),
    /// Stop checking a site, and keep it
    Pause(One),
    /// Check a paused site again
    Resume(One),
    /// Remove a site; its rows stay readable
    Remove(One),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Add {
    /// What to watch: an http or https URL
    url: String,
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    site: SiteOptions,
    #[command(flatten)]
    intervals: IntervalOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct List {
    /// Only sites with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Show {
    /// The site's id, or its URL
    site: String,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Set {
    /// The site's id, or its URL
    site: String,
    /// Another URL
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    options: SiteOptions,
    #[command(flatten)]
    intervals: IntervalOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct One {
    /// The site's id, or its URL
    site: String,
    #[command(flatten)]
    database: Database,
}

pub(crate) async fn run(command: Command, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        Command::Add(options) => add(*options, matches).await,
        Command::List(options) => list(options, matches).await,
        Command::Show(options) => {
            let store = options.database.connect(matches).await?;
            let site = find(&store, &options.site).await?;
            show::show(&store, &site, options.output).await
        }
        Command::Set(options) => set(*options, matches).await,
        Command::Pause(options) => enable(options, false, matches).await,
        Command::Resume(options) => enable(options, true, matches).await,
        Command::Remove(options) => {
            let store = options.database.connect(matches).await?;
            let site = find(&store, &options.site).await?;
            sites::delete(&store, site.id).await?;
            print(&format!("removed site {} ({}); its rows stay readable\n", site.id, site.url))
        }
    }
}

async fn add(options: Add, matches: &ArgMatches) -> Result<(), Error> {
    let mut spec = SiteSpec::new(options.url);
    options.check.apply(&mut spec.check)?;
    options.site.apply(&mut spec)?;
    spec.validate(options.intervals.range()?)?;
    let store = options.database.connect(matches).await?;
    let id = match sites::insert(&store, &spec).await {
        Ok(id) => id,
        Err(picket_store::Error::Duplicate) => return Err(double(&store, &spec).await),
        Err(error) => return Err(error.into()),
    };
    let regions = picket_store::regions::list(&store).await?;
    let from = match (&spec.regions[..], &regions[..]) {
        ([], []) => "but there is no region yet: picket region add NAME".to_owned(),
        ([], all) => format!("from {}", listed(all.iter().map(|region| region.name.as_str()))),
        (some, _) => format!("from {}", listed(some.iter().map(String::as_str))),
    };
    print(&format!(
        "added site {id}: checked every {} {from}, beginning within 2 s\nnext: picket site show {id}, picket tail --site {id}\n",
        seconds(spec.interval_seconds),
    ))
}

/// Says which site it is that `spec` would double.
async fn double(store: &Store, spec: &SiteSpec) -> Error {
    let there = match sites::find(store, &spec.check.url).await {
        Ok(found) => found
            .into_iter()
            .find(|site| site.spec.as_ref().is_ok_and(|there| identity(there) == identity(spec))),
        Err(_) => None,
    };
    let hint =
        there.map_or_else(String::new, |site| format!("; it is site {0}: picket site set {0} …", site.id));
    Error::Usage(format!("{}{hint}", picket_store::Error::Duplicate))
}

/// What makes two definitions the same site.
pub(crate) fn identity(spec: &SiteSpec) -> (&str, &str, &str, &str) {
    (
        &spec.check.url,
        &spec.check.method,
        spec.check.regex.as_deref().unwrap_or(""),
        spec.check.not_regex.as_deref().unwrap_or(""),
    )
}

async fn list(options: List, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let records: Vec<Record> = sites::list(&store)
        .await?
        .iter()
        .map(Record::from)
        .filter(|record| options.tag.as_ref().is_none_or(|tag| record.has_tag(tag)))
        .collect();
    options.output.print(&records, |records| {
        let mut listing = Listing::new(
            ["ID", "STATE", "EVERY", "REGIONS", "TAGS", "NAME", "URL", "PROBLEM"],
            "no sites yet; add one: picket site add https://example.com",
        )
        .numbers([0]);
        for record in records {
            listing.row([
                cell(record.id.0),
                word(record.state()),
                cell(record.interval()),
                cell(record.regions()),
                cell(record.tags()),
                cell(record.name()),
                cell(&record.url),
                cell(record.problem.clone()),
            ]);
        }
        listing
    })
}

async fn set(options: Set, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let site = find(&store, &options.site).await?;
    let before = readable(&site)?;
    let mut after = before.clone();
    if let Some(url) = options.url {
        after.check.url = url;
    }
    options.check.apply(&mut after.check)?;
    options.options.apply(&mut after)?;
    after.validate(options.intervals.range()?)?;
    if after == before {
        return print(&format!("site {} is so already; nothing was changed\n", site.id));
    }
    match sites::update(&store, site.id, &after).await {
        Ok(()) => {}
        Err(picket_store::Error::Duplicate) => return Err(double(&store, &after).await),
        Err(error) => return Err(error.into()),
    }
    print(&format!("changed site {}; in force within 2 s\n", site.id))
}

async fn enable(options: One, enabled: bool, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let site = find(&store, &options.site).await?;
    let mut spec = readable(&site)?;
    let done = match enabled {
        true => "resumed",
        false => "paused",
    };
    if std::mem::replace(&mut spec.enabled, enabled) == enabled {
        return print(&format!("site {} was {done} already\n", site.id));
    }
    sites::update(&store, site.id, &spec).await?;
    print(&format!("{done} site {} ({}); in force within 2 s\n", site.id, site.url))
}

/// The one site that `word` means.
pub(crate) async fn find(store: &Store, word: &str) -> Result<Site, Error> {
    let mut found = sites::find(store, word).await?;
    match (found.pop(), found.len()) {
        (Some(site), 0) => Ok(site),
        (Some(last), _) => {
            let candidates: Vec<String> =
                found.iter().chain([&last]).map(|site| format!("\n  {}", candidate(site))).collect();
            Err(Error::Usage(format!(
                "site: '{word}' is {} sites; say which by its id:{}",
                candidates.len(),
                candidates.concat()
            )))
        }
        (None, _) => {
            Err(Invalid::new("site", word, "the id or the URL of a site, as 'picket site list' shows them")
                .into())
        }
    }
}

fn candidate(site: &Site) -> String {
    let id = site.id;
    match &site.spec {
        Ok(spec) => {
            let (url, method, regex, not_regex) = identity(spec);
            let mut line = format!("{id}  {method} {url}");
            for (name, pattern) in [("regex", regex), ("not_regex", not_regex)] {
                if !pattern.is_empty() {
                    line.push_str(&format!("  {name} '{}'", picket_proto::invalid::shorten(pattern, 60)));
                }
            }
            line
        }
        Err(_) => format!("{id}  {}", site.url),
    }
}

/// The definition of a site that did not come by SQL with something that no type of ours holds.
fn readable(site: &Site) -> Result<SiteSpec, Error> {
    site.spec
        .clone()
        .map_err(|why| Error::Usage(format!("site {} cannot be read; mend it by SQL first: {why}", site.id)))
}

/// Seconds as people say them.
pub(crate) fn seconds(seconds: i64) -> String {
    Span(std::time::Duration::from_secs(seconds.unsigned_abs())).to_string()
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
