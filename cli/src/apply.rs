//! `picket apply` and `picket export`: the wanted sites, channels and routes as a YAML file.

mod plan;
mod sites_file;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args};
use picket_proto::{
    RegionName,
    notification_plan::NotificationPlan,
    site::SiteSpec,
    site_plan::{DesiredSites, PruneScope, SitePlan},
};
use picket_store::{
    Store, channels,
    definitions::{
        ApplyMode, DefinitionChanges, ReferenceRefusal, apply_definitions, find_reference_refusals,
        plan_notifications,
    },
    regions::{self, RegionOverview},
    routes,
    settings::read_settings,
    sites::{self, SiteChanges},
    tags::{TagIndex, TagWarning, read_tag_index_of_routes},
};

use self::{
    plan::{NotificationPlanText, PlanText},
    sites_file::DesiredDefinitions,
};
use crate::{
    channel::validate_settings,
    connect::DatabaseArgs,
    error::{EXIT_NEGATIVE, Error},
    notifier::warn_without_notifier,
    output::{print_data, print_error, print_text},
    region,
    route::describe_reach,
};

/// Options of `picket apply`.
#[derive(Args, Clone, Debug)]
#[command(after_help = describe_file())]
pub(crate) struct ApplyOptions {
    /// YAML file of sites; '-' reads standard input
    #[arg(short, long, value_name = "FILE", default_value = SITES_FILE)]
    file: PathBuf,
    /// Remove sites, channels and routes missing from the file, each only if the file has its list
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
      tags: [shop]
  channels:                          # optional; a file without it leaves channels alone
    ops: {kind: slack, url: {secret: slack-ops}}
  routes:                            # the same, in their order
    - {tags: [shop], channels: [ops], remind: 2h}";
    let is_missing = |field: &&&str| !EXAMPLE.contains(&format!("{field}:"));
    let more: Vec<&str> = SiteSpec::FIELDS.iter().filter(is_missing).copied().collect();
    format!(
        "{EXAMPLE}\nMore fields of a site: {}. An omitted field has its default.\nNo two sites have the same url, method, regex, not_regex, options and assertions.",
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
    let plan = DefinitionPlan::new(&store, &name, &wanted, options.prune).await?;
    plan.refuse_unknown_names(&store, &name, &text, &wanted).await?;
    print_text(&plan.to_string())?;
    let mode = match options.dry_run {
        true => ApplyMode::DryRun,
        false => ApplyMode::Commit,
    };
    for warning in warn_of_absent_probers(&wanted.sites, &regions::list_region_overview(&store, None).await?)
    {
        print_error(warning);
    }
    for warning in plan.list_tag_warnings(&store, &name, &text, &wanted, options.prune).await? {
        print_error(warning);
    }
    print_text(&plan.execute(&store, mode).await?)?;
    if plan.has_channels || plan.has_routes {
        warn_without_notifier(&store).await?;
    }
    if options.dry_run && !plan.is_empty() {
        print_text("nothing was changed (--dry-run)\n")?;
    }
    Ok(())
}

/// Changes to all that a file defines.
pub(crate) struct DefinitionPlan {
    sites: SitePlan,
    notifications: NotificationPlan,
    /// True if the file has sites.
    has_sites: bool,
    /// True if the file has channels.
    has_channels: bool,
    /// True if the file has routes.
    has_routes: bool,
}

impl DefinitionPlan {
    async fn new(store: &Store, name: &str, wanted: &DesiredDefinitions, prune: bool) -> Result<Self, Error> {
        let scope = match prune && wanted.has_sites {
            true => PruneScope::All,
            false => PruneScope::None,
        };
        Ok(Self {
            sites: build_plan(store, name, &wanted.sites, scope).await?,
            notifications: plan_notifications(store, &wanted.notifications, prune).await?,
            has_sites: wanted.has_sites,
            has_channels: wanted.notifications.channels.is_some(),
            has_routes: wanted.notifications.routes.is_some(),
        })
    }

    /// The changes for the store.
    fn to_changes(&self) -> DefinitionChanges {
        DefinitionChanges { sites: SiteChanges::from(&self.sites), notifications: self.notifications.clone() }
    }

    /// Refuses all missing names in routes, each by its line, before any change.
    async fn refuse_unknown_names(
        &self,
        store: &Store,
        name: &str,
        text: &str,
        wanted: &DesiredDefinitions,
    ) -> Result<(), Error> {
        let refusals = find_reference_refusals(store, &self.to_changes()).await?;
        if refusals.is_empty() {
            return Ok(());
        }
        let places = RoutePlaces::new(name, text, wanted);
        let mut refusals: Vec<(u64, String)> = refusals
            .into_iter()
            .map(|ReferenceRefusal { route, error }| match route {
                Some(route) => places.describe(&route, &error.field, &error),
                None => (0, format!("{name}: {error}")),
            })
            .collect();
        refusals.sort_by_key(|(line, _)| *line);
        Err(validation_error(refusals.into_iter().map(|(_, refusal)| refusal).collect()))
    }

    /// Warns of tags in routes of the file without a site after the changes.
    async fn list_tag_warnings(
        &self,
        store: &Store,
        name: &str,
        text: &str,
        wanted: &DesiredDefinitions,
        prune: bool,
    ) -> Result<Vec<String>, Error> {
        let routes = wanted.notifications.routes.as_deref().unwrap_or_default();
        let mut index = match prune && self.has_sites {
            // The sites of the file are then all there are.
            true => TagIndex::default(),
            false => read_tag_index_of_routes(store, routes).await?,
        };
        index.add_tags(wanted.sites.sites.iter().flat_map(|site| &site.tags));
        let warnings: Vec<(&str, TagWarning)> = routes
            .iter()
            .flat_map(|route| {
                index.list_warnings(route).into_iter().map(|warning| (route.name.as_str(), warning))
            })
            .collect();
        if warnings.is_empty() {
            return Ok(Vec::new());
        }
        let places = RoutePlaces::new(name, text, wanted);
        let describe =
            |(route, warning): &(&str, TagWarning)| places.describe(route, warning.field, warning).1;
        Ok(warnings.iter().map(describe).collect())
    }

    fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.notifications.is_empty()
    }

    /// Number of changes by kind, as text.
    #[cfg_attr(not(feature = "local"), expect(dead_code, reason = "`picket up` applies sites.yaml"))]
    pub(crate) fn summary(&self) -> String {
        let mut parts = vec![self.sites.summary()];
        if self.has_channels {
            parts.push(format!("channels: {}", self.notifications.channels.summary()));
        }
        if self.has_routes {
            parts.push(format!("routes: {}", self.notifications.routes.summary()));
        }
        parts.join("; ")
    }

    /// Makes the changes, or tries them. Returns a sentence if sites reach nobody, or if the file is
    /// about notifications.
    async fn execute(&self, store: &Store, mode: ApplyMode) -> Result<String, Error> {
        let has_notifications = self.has_channels || self.has_routes;
        // Without a route nobody is told anyway, and then a dry run need not try the changes.
        let needs_reach = has_notifications || !routes::list_routes(store).await?.is_empty();
        if self.is_empty() || mode == ApplyMode::DryRun && !needs_reach {
            return Ok(match needs_reach && has_notifications {
                true => describe_reach(routes::count_reach(store, None).await?),
                false => String::new(),
            });
        }
        let applied = apply_definitions(store, &self.to_changes(), mode).await?;
        Ok(match has_notifications || applied.reach.unreached > 0 {
            true => describe_reach(applied.reach),
            false => String::new(),
        })
    }
}

impl std::fmt::Display for DefinitionPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.has_sites || !self.sites.is_empty() || !self.has_channels && !self.has_routes {
            write!(f, "{}", PlanText(&self.sites))?;
        }
        if self.has_channels {
            write!(f, "{}", NotificationPlanText("channel", &self.notifications.channels))?;
        }
        if self.has_routes {
            write!(f, "{}", NotificationPlanText("route", &self.notifications.routes))?;
        }
        Ok(())
    }
}

/// Lines of the routes of a file.
struct RoutePlaces<'a> {
    name: &'a str,
    lines: sites_file::FieldLines,
    /// Position in the file by the route's name.
    positions: HashMap<&'a str, usize>,
}

impl<'a> RoutePlaces<'a> {
    fn new(name: &'a str, text: &str, wanted: &'a DesiredDefinitions) -> Self {
        let routes = wanted.notifications.routes.iter().flatten().enumerate();
        Self {
            name,
            lines: sites_file::FieldLines::parse(text),
            positions: routes.map(|(position, route)| (route.name.as_str(), position)).collect(),
        }
    }

    /// The line of a field of a route, and a text with its place.
    fn describe(&self, route: &str, field: &str, text: impl std::fmt::Display) -> (u64, String) {
        let position = self.positions.get(route).map(ToString::to_string).unwrap_or_default();
        let line = self.lines.find_line("routes", &position, field).unwrap_or(0);
        (line, format!("{}, line {line} (route {route}): {text}", self.name))
    }
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

/// Prints the definitions that `picket apply` accepts. The exit code is 1 if others were left out.
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
    let mut known = Vec::new();
    for channel in channels::list_channels(&store).await? {
        let judged = channel.definition.and_then(|known| validate_settings(&known).map(|()| known));
        match judged {
            Ok(definition) => known.push(definition),
            Err(why) => {
                print_error(format_args!("channel {} is left out: {why}", channel.name));
                code = EXIT_NEGATIVE;
            }
        }
    }
    let mut wanted = Vec::new();
    for route in routes::list_routes(&store).await? {
        let judged = route.definition.and_then(|route| route.validate().map(|()| route));
        match judged {
            Ok(definition) => wanted.push(definition),
            Err(why) => {
                print_error(format_args!("route {} is left out: {why}", route.name));
                code = EXIT_NEGATIVE;
            }
        }
    }
    print_data(&sites_file::render_sites_file(&names, &specs, &known, &wanted)?)?;
    Ok(code)
}

/// Applies the file at `path` and returns the executed plan.
#[cfg_attr(not(feature = "local"), expect(dead_code, reason = "`picket up` applies sites.yaml"))]
pub(crate) async fn apply_file(store: &Store, path: &Path) -> Result<DefinitionPlan, Error> {
    let (name, text) = read_input(path)?;
    let intervals = read_settings(store).await?.intervals;
    let wanted = sites_file::parse_sites_file(&name, &text, intervals).map_err(validation_error)?;
    let plan = DefinitionPlan::new(store, &name, &wanted, false).await?;
    plan.refuse_unknown_names(store, &name, &text, &wanted).await?;
    plan.execute(store, ApplyMode::Commit).await?;
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

#[cfg(feature = "local")]
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
