//! `picket apply` and `picket export`: sites as a file that says how things should be.

mod file;
mod plan;

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use picket_proto::site::{IntervalRange, SiteSpec};
use picket_store::{Store, regions, sites};

pub(crate) use self::plan::{Plan, Scope};
use crate::{
    definition::IntervalOptions,
    error::Error,
    output::{print, print_data},
    reach::Database,
};

/// See `picket apply --help`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A file:
  regions: [eu-west, us-east]        # added if need be; may be left out
  sites:
    - url: https://example.com
    - url: https://example.com/health
      name: shop
      interval: 30s                  # or interval_seconds: 30
      timeout: 5s                    # or timeout_ms: 5000
      regex: '\"status\": *\"ok\"'
      headers: {Accept: application/json}
      regions: [eu-west]
      tags: [shop]
More fields: method, body, status, not_regex, max_redirects, ip_version, tls_verify, enabled, quorum,
failures_to_open, successes_to_close. What is left out has its default.
A site is the same one when url, method, regex and not_regex are the same.")]
pub(crate) struct Options {
    /// The file; '-' is standard input
    #[arg(short, long, value_name = "FILE", default_value = SITES_FILE)]
    file: PathBuf,
    /// Remove the sites that the file does not name
    #[arg(long)]
    prune: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    intervals: IntervalOptions,
    #[command(flatten)]
    database: Database,
}

/// See `picket export --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportOptions {
    #[command(flatten)]
    database: Database,
}

/// The file that `picket up` applies by itself.
pub(crate) const SITES_FILE: &str = "sites.yaml";

/// What a file asks for, judged.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) regions: Vec<picket_proto::Region>,
    pub(crate) sites: Vec<SiteSpec>,
}

pub(crate) async fn apply(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let (name, text) = read(&options.file)?;
    // Judged before anything is reached, let alone changed.
    let wanted = file::parse(&name, &text, options.intervals.range()?).map_err(refusal)?;
    let store = options.database.connect(matches).await?;
    let scope = match options.prune {
        true => Scope::All,
        false => Scope::None,
    };
    let plan = planned(&store, &name, &wanted, scope).await?;
    print(&plan.to_string())?;
    if !options.dry_run {
        carry_out(&store, &plan).await?;
    } else if !plan.is_empty() {
        print("nothing was changed (--dry-run)\n")?;
    }
    Ok(())
}

pub(crate) async fn export(options: ExportOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let names: Vec<String> = regions::list(&store).await?.into_iter().map(|region| region.name).collect();
    let mut specs = Vec::new();
    for site in sites::list(&store).await? {
        match site.spec {
            Ok(spec) => specs.push(spec),
            Err(why) => crate::output::complain(format_args!("site {} is left out: {why}", site.id)),
        }
    }
    print_data(&file::write(&names, &specs)?)
}

/// Applies the file at `path`; what was done, in words.
pub(crate) async fn apply_file(store: &Store, path: &Path, intervals: IntervalRange) -> Result<Plan, Error> {
    let (name, text) = read(path)?;
    let wanted = file::parse(&name, &text, intervals).map_err(refusal)?;
    let plan = planned(store, &name, &wanted, Scope::None).await?;
    carry_out(store, &plan).await?;
    Ok(plan)
}

/// What it takes to bring the database to `wanted`; `name` is the file's, for refusals.
pub(crate) async fn planned(
    store: &Store,
    name: &str,
    wanted: &Wanted,
    scope: Scope<'_>,
) -> Result<Plan, Error> {
    let known: Vec<String> = regions::list(store).await?.into_iter().map(|region| region.name).collect();
    let plan = Plan::new(wanted, &known, &sites::list(store).await?, scope);
    let unknown = plan.unknown_regions(&known);
    match unknown.is_empty() {
        true => Ok(plan),
        false => Err(Error::Usage(format!(
            "{name}: nothing was changed: no such region: {}; there are: {}; add it under 'regions:' or with 'picket region add'",
            unknown.join(", "),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        ))),
    }
}

pub(crate) async fn carry_out(store: &Store, plan: &Plan) -> Result<(), Error> {
    for region in &plan.regions {
        regions::add(store, region).await?;
    }
    match plan.changes() {
        Some(changes) => Ok(sites::apply(store, &changes).await?),
        None => Ok(()),
    }
}

fn refusal(refusals: Vec<String>) -> Error {
    Error::Usage(format!("nothing was changed:\n  {}", refusals.join("\n  ")))
}

fn read(path: &Path) -> Result<(String, String), Error> {
    let (name, text) = match path.as_os_str() == "-" {
        true => ("standard input".to_owned(), std::io::read_to_string(std::io::stdin())),
        false => (path.display().to_string(), std::fs::read_to_string(path)),
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(why) => Err(Error::Usage(format!("could not read {name}: {why}"))),
    }
}
