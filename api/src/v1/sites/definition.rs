//! The whole definition of the sites, applied as `picket apply` does.

mod decode;
mod notifications;
mod refusals;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State};
use picket_proto::{
    RegionName, SiteId, ValidationError,
    notification_plan::NotificationPlan,
    site::{IntervalRange, SiteIdentity, SiteSpec},
    site_plan::{DesiredSites, PruneScope, SitePlan},
};
use picket_store::{
    Error,
    definitions::{ApplyMode, DefinitionChanges, apply_definitions},
    regions,
    sites::{self, Site as StoredSite, SiteChanges, SiteVersion, VersionedSite},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use self::{
    decode::{build_pointer_of_site, decode_definition, refuse_regions, require_own_tags},
    notifications::{NamedChanges, list_tag_warnings, plan_notifications, refuse_unknown_names},
};
use crate::{
    access::{Access, Writer},
    extract::{ApiQuery, JsonText, parse_json},
    first_checks::request_first_checks,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{
        preconditions::WRITE_ATTEMPTS,
        site_body::{SiteFields, build_pointer},
        site_secrets::keep_hidden_values,
        tag_limit::{check_removal, check_tags, read_stored_tags},
    },
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DefinitionQuery {
    /// Plans the changes and makes none.
    #[serde(default)]
    dry_run: bool,
    /// Removes the sites that the definition does not name. A token that is limited to tags removes only sites that
    /// have no other tags; those that it shares with others stay, and are in `kept_shared`.
    #[serde(default)]
    prune: bool,
}

/// All sites, in the form of `sites.yaml`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the sites are decoded by proto; this is their schema")]
#[schema(example = json!({"regions": ["eu-west"], "sites": [{"url": "https://example.com", "interval": "30s"}]}))]
pub(super) struct Definition {
    /// Regions to create if they are missing.
    regions: Option<Vec<String>>,
    /// The wanted sites.
    sites: Vec<SiteFields>,
    /// Channels by name, each with its settings beside the other fields; left alone if absent. The scope `admin` is needed.
    #[schema(value_type = Option<BTreeMap<String, Object>>)]
    channels: Option<BTreeMap<String, serde_json::Value>>,
    /// Routes in their order; left alone if absent. The scope `admin` is needed.
    #[schema(value_type = Option<Vec<Object>>)]
    routes: Option<Vec<serde_json::Value>>,
}

/// Changes that a definition makes, or would make.
#[derive(Serialize, ToSchema)]
pub(super) struct AppliedDefinition {
    /// True if the changes were planned and not made.
    dry_run: bool,
    /// Added regions.
    #[schema(value_type = Vec<String>)]
    regions: Vec<RegionName>,
    /// Added sites.
    added: Vec<AddedSite>,
    /// Changed sites.
    changed: Vec<ChangedSite>,
    /// Removed sites.
    removed: Vec<RemovedSite>,
    /// Sites that the definition does not name, and that `prune` keeps: the token is limited to tags, and the site has
    /// others as well, or cannot be read.
    kept_shared: Vec<KeptSite>,
    /// Number of sites that are as wanted.
    unchanged: usize,
    /// Changes to channels.
    channels: NamedChanges,
    /// Changes to routes.
    routes: NamedChanges,
    /// Number of sites without a channel after the changes; null for a definition without channels and routes.
    unreached: Option<i64>,
    /// What may be a mistake and is allowed: tags of routes that no site has.
    warnings: Vec<String>,
}

/// An added site.
#[derive(Serialize, ToSchema)]
struct AddedSite {
    /// Id of the site; null in a dry run.
    #[schema(value_type = Option<i64>)]
    id: Option<SiteId>,
    /// URL of the site.
    url: String,
    /// Name of the site.
    name: Option<String>,
}

/// A changed site.
#[derive(Serialize, ToSchema)]
struct ChangedSite {
    /// Id of the site.
    #[schema(value_type = i64)]
    id: SiteId,
    /// URL of the site.
    url: String,
    /// Fields that differ, such as `interval_seconds` or `assertions.json`.
    fields: Vec<String>,
}

/// A removed site.
#[derive(Serialize, ToSchema)]
struct RemovedSite {
    /// Id of the site.
    #[schema(value_type = i64)]
    id: SiteId,
    /// URL of the site.
    url: String,
}

/// A site that is kept, since others watch it too.
#[derive(Serialize, ToSchema)]
struct KeptSite {
    /// Id of the site.
    #[schema(value_type = i64)]
    id: SiteId,
    /// URL of the site.
    url: String,
    /// Name of the site.
    name: Option<String>,
}

/// Applies a whole definition, all of it or nothing: adds and changes sites, and with `prune` removes those that
/// it does not name. Among the sites with the url, method, regex and not_regex of an entry, it is that with the
/// same options and assertions, or else with the same name, or else the only one that is left. The value `(hidden)` of
/// a header or the body keeps that of the site.
///
/// Up to 20 added sites are checked at once, beside their schedules; the others wait for their first tick.
#[utoipa::path(
    put, path = "/sites", tag = "sites", security(("token" = ["write"])), params(DefinitionQuery),
    request_body(content = Definition, description = "At most 16 MiB"),
    responses(
        (status = OK, body = AppliedDefinition),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags of which a site has none, a site gains or loses others, or the definition \
                adds regions."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Sites were changed at the same time, one that the token may not see is in the way, or a site \
                cannot be read and the token is limited to tags."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "Fields are not allowed, each named by a JSON Pointer; nothing was changed."),
    ),
)]
pub(super) async fn apply_definition(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<DefinitionQuery>,
    JsonText(body): JsonText,
) -> Result<Json<AppliedDefinition>, Problem> {
    let (intervals, sender) = (api.settings.current().intervals, access.clone());
    let decode = move || {
        let body = parse_json(&body)?;
        require_own_tags(&sender, &body)?;
        decode_definition(&body, intervals)
    };
    let (wanted, notifications) = api.validations.run_blocking_for(&access, decode).await??;
    let has_notifications = notifications.channels.is_some() || notifications.routes.is_some();
    let (wanted, mut attempts) = (Arc::new(wanted), 0..WRITE_ATTEMPTS);
    loop {
        let planning = plan_changes(api.clone(), access.clone(), wanted.clone(), query.prune);
        let (plan, kept, changes) = api.validations.run_for(&access, planning).await??;
        let told = plan_notifications(&api, &access, &notifications, query.prune).await?;
        let mode = if query.dry_run { ApplyMode::DryRun } else { ApplyMode::Commit };
        // Without channels and routes a dry run writes nothing that is undone.
        if query.dry_run && !has_notifications {
            return Ok(Json(AppliedDefinition::new(plan, kept, &told, None, None)));
        }
        let changes = DefinitionChanges { sites: changes, notifications: told };
        refuse_unknown_names(&api, &notifications, &changes).await?;
        // A site that another client changed meanwhile may need another change, or none.
        match apply_definitions(&api.store, &changes, mode).await {
            Err(Error::SiteChanged(_)) if attempts.next().is_some() => {}
            Err(Error::SiteChanged(_)) => {
                let detail = "other clients keep changing these sites; nothing was changed";
                return Err(Problem::new(ProblemKind::Conflict, detail));
            }
            applied => {
                let applied = applied?;
                let unreached = has_notifications.then_some(applied.reach.unreached);
                let added = (!query.dry_run).then_some(applied.added_sites);
                if let Some(added) = &added {
                    request_first_checks(&api, &access, added.iter().copied().zip(&plan.add));
                }
                let warnings = list_tag_warnings(&api, &notifications, &wanted.sites).await?;
                let changes = &changes.notifications;
                let applied = AppliedDefinition::new(plan, kept, changes, added, unreached);
                return Ok(Json(AppliedDefinition { warnings, ..applied }));
            }
        }
    }
}

/// A plan, the shared sites, which stay, and the changes for the store.
type PlannedChanges = (SitePlan, Vec<KeptSite>, SiteChanges);

/// Plans the changes among the sites that the sender may see. Holds all of them in memory, and therefore runs with a
/// permit.
async fn plan_changes(
    api: Api,
    access: Access,
    wanted: Arc<DesiredSites>,
    prune: bool,
) -> Result<PlannedChanges, Problem> {
    let known: Vec<String> =
        regions::list_active_regions(&api.store).await?.iter().map(ToString::to_string).collect();
    let there = sites::list_versioned_sites(&api.store, access.tag_limit()).await?;
    let intervals = api.settings.current().intervals;
    let scope = if prune { PruneScope::All } else { PruneScope::None };
    let compare = move || compare_sites(&access, &wanted, &known, &there, scope, intervals);
    spawn_blocking(compare).await.map_err(|error| Problem::internal(&error))?
}

/// Compares the stored sites with the wanted ones, and checks what the sender may change.
fn compare_sites(
    access: &Access,
    wanted: &DesiredSites,
    known: &[String],
    there: &[VersionedSite],
    scope: PruneScope<'_>,
    intervals: IntervalRange,
) -> Result<PlannedChanges, Problem> {
    let versions: HashMap<SiteId, SiteVersion> =
        there.iter().map(|found| (found.site.id, found.version)).collect();
    let stored: Vec<_> = there.iter().map(|found| StoredSite::to_stored(&found.site)).collect();
    let mut plan = SitePlan::new(wanted, known, &stored, scope);
    if wanted.sites.iter().any(|spec| spec.find_hidden_value().is_some()) {
        let wanted = keep_values_of_sites(wanted, &plan)?;
        plan = SitePlan::new(&wanted, known, &stored, scope);
        validate_changes(&plan, intervals)?;
    }
    check_tags_of_plan(access, wanted, &plan)?;
    if !plan.regions.is_empty() {
        access.require_all_sites()?;
    }
    let unknown = plan.unknown_regions(known);
    if !unknown.is_empty() {
        return Err(refuse_regions(wanted, &unknown, known));
    }
    let kept = keep_shared_sites(access, there, &mut plan);
    let mut changes = SiteChanges::from(&plan);
    let touched = changes.updates.iter().map(|(id, _)| id).chain(&changes.deletes);
    changes.expected = touched.filter_map(|id| Some((*id, *versions.get(id)?))).collect();
    Ok((plan, kept, changes))
}

/// Leaves out of the plan the removal of sites that the sender shares with others.
fn keep_shared_sites(access: &Access, there: &[VersionedSite], plan: &mut SitePlan) -> Vec<KeptSite> {
    let stored: HashMap<SiteId, Result<&SiteSpec, &ValidationError>> =
        there.iter().map(|found| (found.site.id, found.site.spec.as_ref())).collect();
    let mut kept = Vec::new();
    plan.remove.retain(|(id, url)| {
        let Some(spec) = stored.get(id).copied() else { return true };
        let is_removed = check_removal(access, *id, spec).is_ok();
        if !is_removed {
            let name = spec.ok().and_then(|spec| spec.name.clone());
            kept.push(KeptSite { id: *id, url: url.clone(), name });
        }
        is_removed
    });
    kept
}

/// The definition with the stored values in place of hidden ones.
fn keep_values_of_sites(wanted: &DesiredSites, plan: &SitePlan) -> Result<DesiredSites, Problem> {
    let stored: HashMap<SiteIdentity<'_>, &StoredSpec> =
        plan.change.iter().map(|change| (SiteIdentity::of_spec(&change.spec), &change.before)).collect();
    let mut kept = wanted.clone();
    for (position, (spec, original)) in kept.sites.iter_mut().zip(&wanted.sites).enumerate() {
        let before = stored.get(&SiteIdentity::of_spec(original)).and_then(|before| before.as_ref().ok());
        keep_hidden_values(spec, before).map_err(|error| {
            let pointer = build_pointer(&build_pointer_of_site(position), &error.field);
            Problem::invalid_field(pointer, &error)
        })?;
    }
    Ok(kept)
}

/// Validates changed sites once more, with the values that they keep.
fn validate_changes(plan: &SitePlan, intervals: IntervalRange) -> Result<(), Problem> {
    let mut changed = plan.change.iter();
    let validated = changed.try_for_each(|change| change.spec.validate(intervals));
    validated.map_err(|error| Problem::invalid_field("/sites", &error))
}

/// Checks the tags of added and changed sites against the limit of the sender.
fn check_tags_of_plan(access: &Access, wanted: &DesiredSites, plan: &SitePlan) -> Result<(), Problem> {
    if access.tag_limit().is_none() {
        return Ok(());
    }
    let changed = plan.change.iter().map(|change| {
        let stored = read_stored_tags(access, change.id, change.before.as_ref());
        stored.map(|stored| (&change.spec, stored))
    });
    for site in plan.add.iter().map(|spec| Ok((spec, &[][..]))).chain(changed) {
        let (spec, stored) = site?;
        if check_tags(access, &spec.tags, stored, "").is_err() {
            let identity = SiteIdentity::of_spec(spec);
            let position = wanted.sites.iter().position(|site| SiteIdentity::of_spec(site) == identity);
            check_tags(access, &spec.tags, stored, &build_pointer_of_site(position.unwrap_or_default()))?;
        }
    }
    Ok(())
}

impl AppliedDefinition {
    /// The changes of a plan; `added` has the ids of the added sites, unless nothing was changed.
    fn new(
        plan: SitePlan,
        kept_shared: Vec<KeptSite>,
        notifications: &NotificationPlan,
        added: Option<Vec<SiteId>>,
        unreached: Option<i64>,
    ) -> Self {
        let ids = added.as_ref();
        let add = plan.add.into_iter().enumerate().map(|(position, spec)| AddedSite {
            id: ids.and_then(|ids| ids.get(position).copied()),
            url: spec.check.url,
            name: spec.name,
        });
        Self {
            dry_run: ids.is_none(),
            regions: plan.regions,
            added: add.collect(),
            changed: plan
                .change
                .into_iter()
                .map(|change| ChangedSite {
                    id: change.id,
                    url: change.spec.check.url,
                    fields: change.fields,
                })
                .collect(),
            removed: plan.remove.into_iter().map(|(id, url)| RemovedSite { id, url }).collect(),
            kept_shared,
            unchanged: plan.unchanged,
            channels: NamedChanges::from(&notifications.channels),
            routes: NamedChanges::from(&notifications.routes),
            unreached,
            warnings: Vec::new(),
        }
    }
}

/// A stored definition, or the reason why it cannot be read.
type StoredSpec = Result<SiteSpec, ValidationError>;
