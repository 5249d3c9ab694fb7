//! The whole definition of the sites, applied as `picket apply` does.

use std::collections::{BTreeMap, HashMap};

use axum::{Json, extract::State};
use picket_proto::{
    RegionName, SiteId, ValidationError,
    nested_object::HIDDEN_VALUE,
    site::{IntervalRange, SiteIdentity},
    site_plan::{DesiredSites, PruneScope, SitePlan},
    suggestion::describe_known_names,
    validation::sanitize_text,
};
use picket_store::{
    Error, regions,
    sites::{self, Site as StoredSite, SiteChanges, SiteVersion},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::WRITE_ATTEMPTS;
use crate::{
    access::{Access, Writer},
    extract::{ApiJson, ApiQuery},
    first_checks::request_first_checks,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::site_body::{SiteFields, build_pointer, decode_site, require_tag},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DefinitionQuery {
    /// Plans the changes and makes none.
    #[serde(default)]
    dry_run: bool,
    /// Removes the sites that the definition does not name. A token that is limited to tags removes only sites
    /// with one of them.
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
    /// Number of sites that are as wanted.
    unchanged: usize,
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

/// Applies a whole definition, all of it or nothing: adds and changes sites, and with `prune` removes those that
/// it does not name. Among the sites with the url, method, regex and not_regex of an entry, it is that with the
/// same options and assertions, or else with the same name, or else the only one that is left.
///
/// Up to 20 added sites are checked at once, beside their schedules; the others wait for their first tick.
#[utoipa::path(
    put, path = "/sites", tag = "sites", security(("token" = ["write"])), params(DefinitionQuery),
    request_body(content = Definition, description = "At most 16 MiB"),
    responses(
        (status = OK, body = AppliedDefinition),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags of which a site has none, or the definition adds regions."),
        (status = CONFLICT, body = Problem, content_type = "application/problem+json",
            description = "Sites were changed at the same time, or one that the token may not see is in the way."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "Fields are not allowed, each named by a JSON Pointer; nothing was changed."),
    ),
)]
pub(super) async fn apply_definition(
    Writer(access): Writer,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<DefinitionQuery>,
    ApiJson(body): ApiJson<Value>,
) -> Result<Json<AppliedDefinition>, Problem> {
    let wanted = decode_definition(&body, api.settings.current().intervals)?;
    for (position, spec) in wanted.sites.iter().enumerate() {
        require_tag(&access, spec, &build_pointer_of_site(position))?;
    }
    let mut attempts = 0..WRITE_ATTEMPTS;
    loop {
        let (plan, changes) = plan_changes(&api, &access, &wanted, query.prune).await?;
        if query.dry_run {
            return Ok(Json(AppliedDefinition::new(plan, None)));
        }
        // A site that another client changed meanwhile may need another change, or none.
        match sites::apply_changes(&api.store, &changes).await {
            Err(Error::SiteChanged(_)) if attempts.next().is_some() => {}
            Err(Error::SiteChanged(_)) => {
                let detail = "other clients keep changing these sites; nothing was changed";
                return Err(Problem::new(ProblemKind::Conflict, detail));
            }
            added => {
                let added = added?;
                request_first_checks(&api, added.iter().copied().zip(&plan.add));
                return Ok(Json(AppliedDefinition::new(plan, Some(added))));
            }
        }
    }
}

/// Plans the changes among the sites that the sender may see.
async fn plan_changes(
    api: &Api,
    access: &Access,
    wanted: &DesiredSites,
    prune: bool,
) -> Result<(SitePlan, SiteChanges), Problem> {
    let known: Vec<String> =
        regions::list_active_regions(&api.store).await?.iter().map(ToString::to_string).collect();
    let there = sites::list_versioned_sites(&api.store, access.tag_limit()).await?;
    let versions: HashMap<SiteId, SiteVersion> =
        there.iter().map(|found| (found.site.id, found.version)).collect();
    let stored: Vec<_> = there.iter().map(|found| StoredSite::to_stored(&found.site)).collect();
    let scope = if prune { PruneScope::All } else { PruneScope::None };
    let plan = SitePlan::new(wanted, &known, &stored, scope);
    if !plan.regions.is_empty() {
        access.require_all_sites()?;
    }
    let unknown = plan.unknown_regions(&known);
    if !unknown.is_empty() {
        return Err(refuse_regions(wanted, &unknown, &known));
    }
    let mut changes = SiteChanges::from(&plan);
    let touched = changes.updates.iter().map(|(id, _)| id).chain(&changes.deletes);
    changes.expected = touched.filter_map(|id| Some((*id, *versions.get(id)?))).collect();
    Ok((plan, changes))
}

impl AppliedDefinition {
    /// The changes of a plan; `added` has the ids of the added sites, unless nothing was changed.
    fn new(plan: SitePlan, added: Option<Vec<SiteId>>) -> Self {
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
            unchanged: plan.unchanged,
        }
    }
}

/// Errors of single values, of which a response has a limited number.
#[derive(Default)]
struct Refusals {
    errors: Vec<(String, String)>,
    count: usize,
}

impl Refusals {
    const MAX_LISTED: usize = 100;

    fn add(&mut self, pointer: String, detail: impl ToString) {
        self.count += 1;
        if self.errors.len() < Self::MAX_LISTED {
            self.errors.push((pointer, detail.to_string()));
        }
    }

    fn into_result(self) -> Result<(), Problem> {
        let detail = match (self.count, self.errors.first()) {
            (0, _) | (_, None) => return Ok(()),
            (1, Some((_, detail))) => detail.clone(),
            (count, Some((pointer, detail))) => {
                format!(
                    "{count} values are not allowed, and nothing was changed; the first is {pointer}: {detail}"
                )
            }
        };
        let problem = Problem::new(ProblemKind::Invalid, detail);
        Err(self
            .errors
            .into_iter()
            .fold(problem, |problem, (pointer, detail)| problem.with_field_error(pointer, detail)))
    }
}

/// Decodes and validates a whole definition, and names every error.
fn decode_definition(body: &Value, intervals: IntervalRange) -> Result<DesiredSites, Problem> {
    const FIELDS: [&str; 2] = ["regions", "sites"];
    let mut refusals = Refusals::default();
    let Value::Object(fields) = body else {
        refusals.add(
            String::new(),
            "an object such as {\"sites\": [{\"url\": \"https://example.com\"}]} is needed",
        );
        refusals.into_result()?;
        return Ok(DesiredSites::default());
    };
    for name in fields.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
        let shown = sanitize_text(name, 64);
        let error = ValidationError::new(&shown, HIDDEN_VALUE, describe_known_names(name, &FIELDS));
        refusals.add(format!("/{shown}"), error);
    }
    let mut wanted = DesiredSites::default();
    match fields.get("regions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(names)) => {
            for (position, name) in names.iter().enumerate() {
                let pointer = format!("/regions/{position}");
                match name.as_str().map(str::parse::<RegionName>) {
                    Some(Ok(region)) => wanted.regions.push(region),
                    Some(Err(error)) => refusals.add(pointer, error),
                    None => refusals.add(pointer, "a text is needed here"),
                }
            }
        }
        Some(_) => refusals.add("/regions".to_owned(), "a list of names is needed here"),
    }
    // An absent list is an error and not the wish for no sites, which prune would remove.
    match fields.get("sites") {
        Some(Value::Array(entries)) => decode_sites(entries, intervals, &mut wanted, &mut refusals),
        _ => refusals.add("/sites".to_owned(), "a list of sites is needed here"),
    }
    refusals.into_result()?;
    Ok(wanted)
}

fn decode_sites(
    entries: &[Value],
    intervals: IntervalRange,
    wanted: &mut DesiredSites,
    refusals: &mut Refusals,
) {
    let mut positions = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        match decode_site(entry, intervals) {
            Ok(spec) => {
                wanted.sites.push(spec);
                positions.push(position);
            }
            Err(error) => {
                let pointer = build_pointer_of_site(position);
                refusals.add(build_pointer(&pointer, &error.field), &error);
            }
        }
    }
    let mut first_positions = HashMap::new();
    for (spec, position) in wanted.sites.iter().zip(positions) {
        let first = *first_positions.entry(SiteIdentity::of_spec(spec)).or_insert(position);
        if first != position {
            let first = build_pointer_of_site(first);
            let detail = format!("the same url, method, regex, not_regex, options and assertions as {first}");
            refusals.add(build_pointer_of_site(position), detail);
        }
    }
}

/// JSON Pointer to a site of the definition.
fn build_pointer_of_site(position: usize) -> String {
    format!("/sites/{position}")
}

/// The problem of sites that name unknown regions.
fn refuse_regions(wanted: &DesiredSites, unknown: &[String], known: &[String]) -> Problem {
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    let detail = format!(
        "regions: '{}' is not allowed; allowed: {known}, or a region under 'regions' of the definition",
        unknown.join(", ")
    );
    let mut places = BTreeMap::new();
    for (site, spec) in wanted.sites.iter().enumerate() {
        for (position, region) in
            spec.regions.iter().enumerate().filter(|(_, region)| unknown.contains(region))
        {
            places.insert((site, position), region);
        }
    }
    let problem = Problem::new(ProblemKind::Invalid, detail);
    places.into_iter().take(Refusals::MAX_LISTED).fold(problem, |problem, ((site, position), region)| {
        let pointer = format!("{}/regions/{position}", build_pointer_of_site(site));
        problem.with_field_error(pointer, ValidationError::new("regions", region, known.clone()).to_string())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_error_of_a_definition_is_named_by_its_pointer() {
        let body = json!({
            "regions": ["EU"], "sitess": [],
            "sites": [
                {"url": "ftp://a.example/"}, {"url": "https://b.example/", "interval": "2s"}, {"url": "https://c.example/"},
                {"url": "https://c.example/"}, {"url": "https://d.example/", "assertions": {"json": [{"path": "x", "exists": true}]}},
            ],
        });

        let problem = decode_definition(&body, IntervalRange::default()).unwrap_err();

        let problem = serde_json::to_value(problem).unwrap();
        let errors = problem["errors"].as_array().unwrap();
        let pointers: Vec<&str> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        let expected = [
            "/sitess",
            "/regions/0",
            "/sites/0/url",
            "/sites/1/interval_seconds",
            "/sites/4/assertions/json/0/path",
            // Sites are compared after each has been read.
            "/sites/3",
        ];
        assert_eq!(pointers, expected, "{problem:#}");
    }

    #[test]
    fn a_definition_without_a_list_of_sites_does_not_mean_no_sites() {
        for body in [json!({}), json!({"sites": null}), json!([]), json!({"sites": {}})] {
            assert!(decode_definition(&body, IntervalRange::default()).is_err(), "{body}");
        }
        assert!(decode_definition(&json!({"sites": []}), IntervalRange::default()).unwrap().sites.is_empty());
    }
}
