//! The changes that bring stored sites to a wanted definition: of `picket apply`, and of the API.

mod matching;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use self::matching::match_sites;
use crate::{RegionName, SiteId, ValidationError, site::SiteSpec, validation::sanitize_text};

/// Regions and sites of a definition, validated.
#[derive(Clone, Debug, Default)]
pub struct DesiredSites {
    /// Regions to create if they are missing.
    pub regions: Vec<RegionName>,
    /// All wanted sites.
    pub sites: Vec<SiteSpec>,
}

/// A stored site, as far as a plan compares it.
#[derive(Clone, Copy, Debug)]
pub struct StoredSite<'a> {
    /// Id of the site.
    pub id: SiteId,
    /// URL of the site, available even if the definition is invalid.
    pub url: &'a str,
    /// The definition, or the reason why it cannot be read.
    pub spec: Result<&'a SiteSpec, &'a ValidationError>,
}

/// Selection of the sites to remove if the definition does not name them.
#[derive(Clone, Copy, Debug)]
pub enum PruneScope<'a> {
    /// No site.
    None,
    /// All stored sites.
    All,
    /// Sites with this tag.
    Tagged(&'a str),
}

/// Changes to regions and sites.
#[derive(Clone, Debug, Default)]
pub struct SitePlan {
    /// Regions to create.
    pub regions: Vec<RegionName>,
    /// Sites to add.
    pub add: Vec<SiteSpec>,
    /// Sites to redefine.
    pub change: Vec<SiteUpdate>,
    /// Sites to remove, with their URLs.
    pub remove: Vec<(SiteId, String)>,
    /// Number of sites that are as wanted.
    pub unchanged: usize,
}

/// A changed definition of a stored site.
#[derive(Clone, Debug)]
pub struct SiteUpdate {
    /// Id of the site.
    pub id: SiteId,
    /// The stored definition, or the reason why it cannot be read.
    pub before: Result<SiteSpec, ValidationError>,
    /// The wanted definition.
    pub spec: SiteSpec,
    /// Names of the fields that differ, those of options and assertions with their path.
    pub fields: Vec<String>,
}

impl SitePlan {
    /// Plans the changes from the sites in `stored` and the regions in `known` to `wanted`.
    pub fn new(
        wanted: &DesiredSites,
        known: &[String],
        stored: &[StoredSite<'_>],
        scope: PruneScope<'_>,
    ) -> Self {
        let is_unknown = |region: &&RegionName| !known.iter().any(|name| name == region.as_str());
        let mut plan =
            Self { regions: wanted.regions.iter().filter(is_unknown).cloned().collect(), ..Self::default() };
        let mut kept = BTreeSet::new();
        for (spec, site) in wanted.sites.iter().zip(match_sites(&wanted.sites, stored)) {
            let Some(site) = site else {
                plan.add.push(spec.clone());
                continue;
            };
            kept.insert(site.id);
            let fields = match site.spec {
                Ok(before) => list_changed_fields(before, spec),
                Err(why) => vec![why.field.clone()],
            };
            match fields.is_empty() {
                true => plan.unchanged += 1,
                false => plan.change.push(SiteUpdate {
                    id: site.id,
                    before: site.spec.cloned().map_err(Clone::clone),
                    spec: spec.clone(),
                    fields,
                }),
            }
        }
        let is_pruned = |site: &&StoredSite<'_>| match scope {
            PruneScope::None => false,
            PruneScope::All => true,
            PruneScope::Tagged(tag) => {
                site.spec.is_ok_and(|spec| spec.tags.iter().any(|site_tag| site_tag == tag))
            }
        };
        plan.remove = stored
            .iter()
            .filter(|site| !kept.contains(&site.id))
            .filter(is_pruned)
            .map(|site| (site.id, site.url.to_owned()))
            .collect();
        plan
    }

    /// Names of regions referred to by sites but missing after the changes.
    pub fn unknown_regions(&self, known: &[String]) -> Vec<String> {
        let changed = self.change.iter().map(|change| &change.spec);
        let named: BTreeSet<&String> =
            self.add.iter().chain(changed).flat_map(|spec| &spec.regions).collect();
        named
            .into_iter()
            .filter(|name| {
                !known.contains(name) && !self.regions.iter().any(|region| region.as_str() == *name)
            })
            .map(|name| sanitize_text(name, 64))
            .collect()
    }

    /// Number of changes by kind, as text.
    pub fn summary(&self) -> String {
        format!(
            "{} added, {} changed, {} removed, {} unchanged",
            self.add.len(),
            self.change.len(),
            self.remove.len(),
            self.unchanged
        )
    }

    /// Returns true if the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.add.is_empty() && self.change.is_empty() && self.remove.is_empty()
    }
}

/// Lists the fields in which two definitions differ, those of options and assertions with their
/// path.
pub fn list_changed_fields(before: &SiteSpec, after: &SiteSpec) -> Vec<String> {
    // The comparison of most sites ends here, without any conversion.
    if before == after {
        return Vec::new();
    }
    let (before, after) = (before.to_json_fields(), after.to_json_fields());
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    changed
        .flat_map(|(name, value)| match (name.as_str(), before.get(name), value) {
            ("options" | "assertions", Some(Value::Object(before)), Value::Object(after)) => {
                list_changed_keys(name, before, after)
            }
            _ => vec![name.clone()],
        })
        .collect()
}

fn list_changed_keys(name: &str, before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    changed.map(|key| format!("{name}.{key}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: i64, spec: &SiteSpec) -> StoredSite<'_> {
        StoredSite { id: SiteId(id), url: &spec.check.url, spec: Ok(spec) }
    }

    fn plan(sites: &[&SiteSpec], there: &[StoredSite<'_>], scope: PruneScope<'_>) -> SitePlan {
        let sites = sites.iter().map(|spec| (*spec).clone()).collect();
        let wanted = DesiredSites { regions: Vec::new(), sites };
        SitePlan::new(&wanted, &["eu".to_owned()], there, scope)
    }

    #[test]
    fn applying_the_same_definition_twice_changes_nothing() {
        let spec = SiteSpec::new("https://kept/");

        let plan = plan(&[&spec], &[stored(1, &spec)], PruneScope::All);

        assert!(plan.is_empty() && plan.unchanged == 1, "{plan:?}");
    }

    #[test]
    fn sites_missing_from_the_definition_are_removed_only_by_prune() {
        let (kept, mut other) = (SiteSpec::new("https://kept/"), SiteSpec::new("https://other/"));
        other.tags = vec!["demo".into()];
        let there = [stored(1, &kept), stored(2, &other)];

        assert!(plan(&[&kept], &there, PruneScope::None).remove.is_empty());
        assert_eq!(
            plan(&[&kept], &there, PruneScope::All).remove,
            [(SiteId(2), "https://other/".to_owned())]
        );
        assert_eq!(plan(&[], &there, PruneScope::Tagged("demo")).remove.len(), 1);
    }

    #[test]
    fn the_same_url_with_a_different_regex_is_a_different_site() {
        let plain = SiteSpec::new("https://a/");
        let mut with_regex = plain.clone();
        with_regex.check.regex = Some("ok".into());

        let plan = plan(&[&with_regex], &[stored(1, &plain)], PruneScope::All);

        assert_eq!((plan.add.len(), plan.remove.len()), (1, 1));
    }

    #[test]
    fn a_site_that_cannot_be_decoded_is_redefined() {
        let spec = SiteSpec::new("https://a/");
        let why = ValidationError::new("ip_version", "5", "any, 4, 6");
        let broken = StoredSite { spec: Err(&why), ..stored(1, &spec) };

        let plan = plan(&[&spec], &[broken], PruneScope::All);

        assert_eq!((plan.change.len(), plan.add.len(), plan.remove.len()), (1, 0, 0));
        assert_eq!(plan.change[0].fields, ["ip_version"]);
    }

    #[test]
    fn changed_fields_are_named_with_their_path_within_options_and_assertions() {
        let before = SiteSpec::new("https://a/");
        let mut after = SiteSpec { interval_seconds: 5, ..before.clone() };
        after.check.assertions = serde_json::from_str(r#"{"warn_after_ms": 900}"#).unwrap();
        after.check.options = serde_json::from_str(r#"{"auth": {"bearer": {"secret": "shop"}}}"#).unwrap();

        let mut fields = list_changed_fields(&before, &after);

        fields.sort();
        assert_eq!(fields, ["assertions.warn_after_ms", "interval_seconds", "options.auth"]);
    }

    #[test]
    fn a_region_in_neither_the_database_nor_the_definition_is_named() {
        let mut spec = SiteSpec::new("https://a/");
        spec.regions = vec!["eu".into(), "us".into(), "moon".into()];
        let wanted = DesiredSites { regions: vec!["us".parse().unwrap()], sites: vec![spec] };
        let known = ["eu".to_owned()];

        let plan = SitePlan::new(&wanted, &known, &[], PruneScope::None);

        assert_eq!(plan.unknown_regions(&known), ["moon"]);
        assert_eq!(plan.regions, ["us".parse().unwrap()]);
    }
}
