//! `picket apply` and `picket export`: the wanted sites as a YAML file.

mod plan;
mod sites_file;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args};
use picket_proto::{
    RegionName,
    site::SiteSpec,
    site_plan::{DesiredSites, PruneScope, SitePlan},
};
use picket_store::{
    Store,
    regions::{self, RegionOverview},
    settings::read_settings,
    sites::{self, SiteChanges},
};

use self::plan::PlanText;
use crate::{
    connect::DatabaseArgs,
    error::{EXIT_NEGATIVE, Error},
    output::{print_data, print_error, print_text},
    region,
};

/// Options of `picket apply`.
#[derive(Args, Clone, Debug)]
#[command(after_help = describe_file())]
pub(crate) struct ApplyOptions {
    /// YAML file of sites; '-' reads standard input
    #[arg(short, long, value_name = "FILE", default_value = SITES_FILE)]
    file: PathBuf,
    /// Remove sites missing from the file
    #[arg(long)]
    prune: bool,
    /// Print the changes without making them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// A file as an example, and the fields that the example does not have.
fn describe_file() -> String {
    const EXAMPLE: &str = "\
A file:
  regions: [eu-west, us-east]        # created if missing; optional
  sites:
    - url: https://example.com
    - url: https://example.com/health
      name: shop
      interval: 30s                  # or interval_seconds: 30
      timeout: 5s                    # or timeout_ms: 5000
      regex: '\"status\": *\"ok\"'
      headers: {Accept: application/json}
      assertions:
        json: [{path: $.status, equals: ok}]
      regions: [eu-west]
      tags: [shop]";
    let is_missing = |field: &&&str| !EXAMPLE.contains(&format!("{field}:"));
    let more: Vec<&str> = SiteSpec::FIELDS.iter().filter(is_missing).copied().collect();
    format!(
        "{EXAMPLE}\nMore fields: {}. An omitted field has its default.\nNo two sites have the same url, method, regex, not_regex, options and assertions.",
        more.join(", ")
    )
}

/// Options of `picket export`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A site whose definition 'picket apply' would refuse is left out, with its reason on standard error and exit code 1. SQL \
can store such a site; it has a problem and is not checked, and 'picket apply --prune' of the file removes it.")]
pub(crate) struct ExportOptions {
    #[command(flatten)]
    database: DatabaseArgs,
}

/// The file that `picket up` applies at start.
pub(crate) const SITES_FILE: &str = "sites.yaml";

pub(crate) async fn run_apply(options: ApplyOptions, matches: &ArgMatches) -> Result<(), Error> {
    let (name, text) = read_input(&options.file)?;
    let store = options.database.connect(matches).await?;
    // Validate the whole file before the first change, so that a refused file changes nothing.
    let intervals = read_settings(&store).await?.intervals;
    let wanted = sites_file::parse_sites_file(&name, &text, intervals).map_err(validation_error)?;
    let scope = match options.prune {
        true => PruneScope::All,
        false => PruneScope::None,
    };
    let plan = build_plan(&store, &name, &wanted, scope).await?;
    print_text(&PlanText(&plan).to_string())?;
    for warning in warn_of_absent_probers(&wanted, &regions::list_region_overview(&store, None).await?) {
        print_error(warning);
    }
    if !options.dry_run {
        execute_plan(&store, &plan).await?;
    } else if !plan.is_empty() {
        print_text("nothing was changed (--dry-run)\n")?;
    }
    Ok(())
}

/// A warning for each region of the file that is new or has no active prober.
fn warn_of_absent_probers(wanted: &DesiredSites, present: &[RegionOverview]) -> Vec<String> {
    let mut used: BTreeSet<&str> = wanted.regions.iter().map(RegionName::as_str).collect();
    used.extend(wanted.sites.iter().flat_map(|site| &site.regions).map(String::as_str));
    if wanted.sites.iter().any(|site| site.regions.is_empty()) {
        used.extend(present.iter().map(|region| region.name.as_str()));
    }
    used.into_iter()
        .filter_map(|name| match present.iter().find(|region| region.name == name) {
            None => Some(format!("region {name} is new: {}", region::describe_absent_prober(name))),
            Some(region) if region.silent_since.is_some() => {
                Some(format!("region {name} has no active prober: {}", region::describe_absent_prober(name)))
            }
            Some(_) => None,
        })
        .collect()
}

/// Prints the sites that `picket apply` accepts. The exit code is 1 if others were left out.
pub(crate) async fn run_export(options: ExportOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    let intervals = read_settings(&store).await?.intervals;
    let names: Vec<String> =
        regions::list_regions(&store).await?.into_iter().map(|region| region.name).collect();
    let mut specs = Vec::new();
    let mut code = 0;
    for site in sites::list_sites(&store).await? {
        let judged = site.spec.and_then(|spec| sites_file::check_entry(&spec, intervals).map(|()| spec));
        match judged {
            Ok(spec) => specs.push(spec),
            Err(why) => {
                print_error(format_args!(
                    "site {} ({}) is left out, because 'picket apply' would refuse it: {why}",
                    site.id, site.url
                ));
                code = EXIT_NEGATIVE;
            }
        }
    }
    print_data(&sites_file::render_sites_file(&names, &specs)?)?;
    Ok(code)
}

/// Applies the file at `path` and returns the executed plan.
#[cfg_attr(not(feature = "local"), expect(dead_code, reason = "`picket up` applies sites.yaml"))]
pub(crate) async fn apply_file(store: &Store, path: &Path) -> Result<SitePlan, Error> {
    let (name, text) = read_input(path)?;
    let intervals = read_settings(store).await?.intervals;
    let wanted = sites_file::parse_sites_file(&name, &text, intervals).map_err(validation_error)?;
    let plan = build_plan(store, &name, &wanted, PruneScope::None).await?;
    execute_plan(store, &plan).await?;
    Ok(plan)
}

/// Plan of the changes that bring the database to `wanted`. `name` is the file's name in error
/// messages.
pub(crate) async fn build_plan(
    store: &Store,
    name: &str,
    wanted: &DesiredSites,
    scope: PruneScope<'_>,
) -> Result<SitePlan, Error> {
    let known: Vec<String> =
        regions::list_regions(store).await?.into_iter().map(|region| region.name).collect();
    let stored = sites::list_sites(store).await?;
    let stored: Vec<_> = stored.iter().map(sites::Site::to_stored).collect();
    let plan = SitePlan::new(wanted, &known, &stored, scope);
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

pub(crate) async fn execute_plan(store: &Store, plan: &SitePlan) -> Result<(), Error> {
    sites::apply_changes(store, &SiteChanges::from(plan)).await?;
    Ok(())
}

fn validation_error(refusals: Vec<String>) -> Error {
    Error::Usage(format!("nothing was changed:\n  {}", refusals.join("\n  ")))
}

fn read_input(path: &Path) -> Result<(String, String), Error> {
    let (name, text) = match path.as_os_str() == "-" {
        true => ("standard input".to_owned(), std::io::read_to_string(std::io::stdin())),
        false => (path.display().to_string(), std::fs::read_to_string(path)),
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(why) => Err(Error::Usage(format!("could not read {name}: {why}"))),
    }
}
