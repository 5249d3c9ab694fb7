//! The changes between the stored sites and the sites of a file.

use std::{collections::BTreeSet, fmt};

use picket_proto::{RegionName, SiteId, site::SiteSpec, validation::sanitize_text};
use picket_store::sites::{Site, SiteChanges};
use serde_json::Value;

use super::{DesiredSites, matching::match_sites};
use crate::site::{FieldLine, definition_fields, describe_nested_fields, diff_nested_fields};

/// Selection of the sites to remove if the file does not name them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PruneScope<'a> {
    None,
    All,
    /// Sites with this tag.
    #[cfg_attr(
        not(any(feature = "local", test)),
        expect(dead_code, reason = "only the demo selects sites by their tag")
    )]
    Tagged(&'a str),
}

/// Changes to regions and sites.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) regions: Vec<RegionName>,
    pub(crate) add: Vec<SiteSpec>,
    pub(crate) change: Vec<SiteUpdate>,
    pub(crate) remove: Vec<(SiteId, String)>,
    pub(crate) unchanged: usize,
}

/// A changed definition of a stored site.
#[derive(Debug)]
pub(crate) struct SiteUpdate {
    id: SiteId,
    spec: SiteSpec,
    /// Changed fields, each with its change as text.
    fields: Vec<FieldLine>,
}

impl Plan {
    pub(crate) fn new(
        wanted: &DesiredSites,
        known: &[String],
        there: &[Site],
        scope: PruneScope<'_>,
    ) -> Self {
        let mut plan = Self {
            regions: wanted
                .regions
                .iter()
                .filter(|region| !known.iter().any(|name| name == region.as_str()))
                .cloned()
                .collect(),
            ..Self::default()
        };
        let mut kept = BTreeSet::new();
        for (spec, site) in wanted.sites.iter().zip(match_sites(&wanted.sites, there)) {
            let Some(site) = site else {
                plan.add.push(spec.clone());
                continue;
            };
            kept.insert(site.id);
            let fields = diff_fields(site, spec);
            match fields.is_empty() {
                true => plan.unchanged += 1,
                false => plan.change.push(SiteUpdate { id: site.id, spec: spec.clone(), fields }),
            }
        }
        let is_pruned = |site: &&Site| match scope {
            PruneScope::None => false,
            PruneScope::All => true,
            PruneScope::Tagged(tag) => {
                site.spec.as_ref().is_ok_and(|spec| spec.tags.iter().any(|site_tag| site_tag == tag))
            }
        };
        plan.remove = there
            .iter()
            .filter(|site| !kept.contains(&site.id))
            .filter(is_pruned)
            .map(|site| (site.id, site.url.clone()))
            .collect();
        plan
    }

    /// Names of regions referred to by sites but missing after the changes.
    pub(crate) fn unknown_regions(&self, known: &[String]) -> Vec<String> {
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
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} added, {} changed, {} removed, {} unchanged",
            self.add.len(),
            self.change.len(),
            self.remove.len(),
            self.unchanged
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.site_changes().is_none()
    }

    /// The changes to sites; `None` if there are none.
    pub(crate) fn site_changes(&self) -> Option<SiteChanges> {
        let changes = SiteChanges {
            inserts: self.add.clone(),
            updates: self.change.iter().map(|change| (change.id, change.spec.clone())).collect(),
            deletes: self.remove.iter().map(|(id, _)| *id).collect(),
        };
        let nothing = changes.inserts.is_empty() && changes.updates.is_empty() && changes.deletes.is_empty();
        (!nothing).then_some(changes)
    }
}

fn diff_fields(site: &Site, spec: &SiteSpec) -> Vec<FieldLine> {
    let stored = match &site.spec {
        Ok(stored) => stored,
        Err(why) => return vec![(why.field.clone(), format!("{} → (the file's)", why.value))],
    };
    let (there, wanted) = (definition_fields(stored), definition_fields(spec));
    let changed = wanted.iter().filter_map(|(name, after)| {
        let before = there.get(name).filter(|before| *before != after)?;
        Some((name.as_str(), before, after))
    });
    let nested =
        diff_nested_fields(&describe_nested_fields(&stored.check), &describe_nested_fields(&spec.check));
    changed
        .flat_map(|(name, before, after)| match name {
            "options" | "assertions" => {
                let prefix = format!("{name}.");
                let lines: Vec<FieldLine> =
                    nested.iter().filter(|(field, _)| field.starts_with(&prefix)).cloned().collect();
                match lines.is_empty() {
                    // Values that differ and read the same, as blanks around a path do.
                    true => vec![(name.to_owned(), "written differently".to_owned())],
                    false => lines,
                }
            }
            _ => vec![(
                name.to_owned(),
                format!("{} → {}", format_field(name, before), format_field(name, after)),
            )],
        })
        .collect()
}

fn format_field(name: &str, value: &Value) -> String {
    match (name, value) {
        // A header value may be a credential, so only the names are printed.
        ("headers", Value::Object(headers)) => match headers.is_empty() {
            true => "none".to_owned(),
            false => headers.keys().map(|name| format!("{name}: …")).collect::<Vec<_>>().join(", "),
        },
        (_, Value::Null) => "none".to_owned(),
        (_, Value::String(text)) => format!("'{}'", sanitize_text(text, 80)),
        (_, other) => sanitize_text(&other.to_string(), 80),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in &self.regions {
            writeln!(f, "+ region {region}")?;
        }
        for spec in &self.add {
            writeln!(f, "+ {}", sanitize_text(&spec.check.url, 500))?;
        }
        for change in &self.change {
            writeln!(f, "~ {} (site {})", sanitize_text(&change.spec.check.url, 500), change.id)?;
            for (name, change) in &change.fields {
                writeln!(f, "    {name}: {}", sanitize_text(change, 400))?;
            }
        }
        for (id, url) in &self.remove {
            writeln!(f, "- {} (site {id})", sanitize_text(url, 500))?;
        }
        writeln!(f, "{}", self.summary())
    }
}

/// A stored site with this definition.
#[cfg(test)]
pub(super) fn test_site(id: i64, spec: &SiteSpec) -> Site {
    Site {
        id: SiteId(id),
        shard: picket_proto::Shard(0),
        url: spec.check.url.clone(),
        spec: Ok(spec.clone()),
        problem: None,
        patterns_validated: None,
        created_at: picket_proto::Timestamp::default(),
        updated_at: picket_proto::Timestamp::default(),
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ValidationError;

    use super::{test_site as site, *};

    fn wanted(sites: &[&SiteSpec]) -> DesiredSites {
        DesiredSites { regions: Vec::new(), sites: sites.iter().map(|spec| (*spec).clone()).collect() }
    }

    fn plan(sites: &[&SiteSpec], there: &[Site], scope: PruneScope<'_>) -> Plan {
        Plan::new(&wanted(sites), &["eu".to_owned()], there, scope)
    }

    #[test]
    fn new_sites_are_added_different_ones_changed_and_the_rest_kept() {
        let (kept, fresh) = (SiteSpec::new("https://kept/"), SiteSpec::new("https://fresh/"));
        let slow = SiteSpec::new("https://slow/");
        let mut fast = slow.clone();
        fast.interval_seconds = 5;
        fast.check.headers.insert("Authorization".into(), "secret".into());

        let plan = plan(&[&kept, &fast, &fresh], &[site(1, &kept), site(2, &slow)], PruneScope::None);

        let said = plan.to_string();
        assert!(said.contains("+ https://fresh/\n"), "{said}");
        assert!(said.contains("~ https://slow/ (site 2)\n"), "{said}");
        assert!(said.contains("interval_seconds: 60 → 5\n"), "{said}");
        assert!(said.contains("headers: none → Authorization: …") && !said.contains("secret"), "{said}");
        assert!(said.ends_with("1 added, 1 changed, 0 removed, 1 unchanged\n"), "{said}");
    }

    #[test]
    fn a_change_within_assertions_and_options_is_named_by_its_field() {
        let of = |assertions: &str, options: &str| {
            let mut spec = SiteSpec::new("https://a/");
            spec.check.assertions = serde_json::from_str(assertions).unwrap();
            spec.check.options = serde_json::from_str(options).unwrap();
            spec
        };
        let stored = of(r#"{"json": [{"path": "$.a", "exists": true}], "warn_after_ms": 500}"#, "{}");
        let file = of(
            r#"{"json": [{"path": "$.a", "exists": true}, {"path": "$.b", "equals": 1}], "warn_after_ms": 900}"#,
            r#"{"auth": {"bearer": {"secret": "shop"}}}"#,
        );
        let blank = of(r#"{"json": [{"path": "$.a ", "exists": true}], "warn_after_ms": 500}"#, "{}");

        let said = plan(&[&file], &[site(1, &stored)], PruneScope::None).to_string();
        let same_text = plan(&[&blank], &[site(1, &stored)], PruneScope::None).to_string();

        for line in [
            "    assertions.json: + $.b == 1\n",
            "    assertions.warn_after_ms: 500 → 900\n",
            "    options.auth: none → bearer secret:shop\n",
        ] {
            assert!(said.contains(line), "{said}");
        }
        assert!(!said.contains("$.a"), "{said}");
        assert!(same_text.contains("~ https://a/") && same_text.contains("assertions"), "{same_text}");
    }

    #[test]
    fn applying_the_same_file_twice_changes_nothing() {
        let spec = SiteSpec::new("https://kept/");

        let plan = plan(&[&spec], &[site(1, &spec)], PruneScope::All);

        assert!(plan.is_empty() && plan.unchanged == 1, "{plan}");
    }

    #[test]
    fn sites_missing_from_the_file_are_removed_only_by_prune() {
        let (kept, mut other) = (SiteSpec::new("https://kept/"), SiteSpec::new("https://other/"));
        other.tags = vec!["demo".into()];
        let there = [site(1, &kept), site(2, &other)];

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

        let plan = plan(&[&with_regex], &[site(1, &plain)], PruneScope::All);

        assert_eq!((plan.add.len(), plan.remove.len()), (1, 1));
    }

    #[test]
    fn a_site_that_cannot_be_decoded_is_redefined() {
        let spec = SiteSpec::new("https://a/");
        let mut broken = site(1, &spec);
        broken.spec = Err(ValidationError::new("ip_version", "5", "any, 4, 6"));

        let plan = plan(&[&spec], &[broken], PruneScope::All);

        assert_eq!((plan.change.len(), plan.add.len(), plan.remove.len()), (1, 0, 0));
    }

    #[test]
    fn a_region_in_neither_the_database_nor_the_file_is_named() {
        let mut spec = SiteSpec::new("https://a/");
        spec.regions = vec!["eu".into(), "us".into(), "moon".into()];
        let mut wanted = wanted(&[&spec]);
        wanted.regions = vec!["us".parse().unwrap()];
        let known = ["eu".to_owned()];

        let plan = Plan::new(&wanted, &known, &[], PruneScope::None);

        assert_eq!(plan.unknown_regions(&known), ["moon"]);
        assert_eq!(plan.regions, ["us".parse().unwrap()]);
    }
}
