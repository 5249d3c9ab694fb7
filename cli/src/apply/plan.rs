//! A plan of changes as text.

use std::fmt;

use picket_proto::{
    notification_plan::{NamedDefinition, NamedPlan},
    site_plan::{SitePlan, SiteUpdate},
    validation::sanitize_text,
};
use serde_json::{Map, Value};

use crate::{
    channel::format_setting,
    site::{FieldLine, describe_nested_fields, diff_nested_fields},
};

/// Lines of a plan, one for each change.
pub(super) struct PlanText<'a>(pub(super) &'a SitePlan);

/// Changed fields, each with its change as text.
fn diff_fields(change: &SiteUpdate) -> Vec<FieldLine> {
    let (stored, spec) = match &change.before {
        Ok(stored) => (stored, &change.spec),
        Err(why) => return vec![(why.field.clone(), format!("{} → (the file's)", why.value))],
    };
    let (there, wanted) = (stored.to_json_fields(), spec.to_json_fields());
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

impl fmt::Display for PlanText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(plan) = self;
        for region in &plan.regions {
            writeln!(f, "+ region {region}")?;
        }
        for spec in &plan.add {
            writeln!(f, "+ {}", sanitize_text(&spec.check.url, 500))?;
        }
        for change in &plan.change {
            writeln!(f, "~ {} (site {})", sanitize_text(&change.spec.check.url, 500), change.id)?;
            for (name, change) in diff_fields(change) {
                writeln!(f, "    {name}: {}", sanitize_text(&change, 400))?;
            }
        }
        for (id, url) in &plan.remove {
            writeln!(f, "- {} (site {id})", sanitize_text(url, 500))?;
        }
        writeln!(f, "{}", plan.summary())
    }
}

/// Lines of the changes to channels or routes, which the noun names.
pub(super) struct NotificationPlanText<'a, T>(pub(super) &'static str, pub(super) &'a NamedPlan<T>);

impl<T: NamedDefinition> fmt::Display for NotificationPlanText<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(noun, plan) = self;
        for added in &plan.add {
            writeln!(f, "+ {noun} {}", added.name())?;
        }
        for (before, after) in &plan.change {
            writeln!(f, "~ {noun} {}", after.name())?;
            match before {
                Ok(before) => {
                    for (name, change) in diff_maps(&before.to_json_fields(), &after.to_json_fields()) {
                        writeln!(f, "    {name}: {}", sanitize_text(&change, 400))?;
                    }
                }
                Err(why) => writeln!(f, "    {}: {} → (the file's)", why.field, why.value)?,
            }
        }
        for removed in &plan.remove {
            writeln!(f, "- {noun} {}", sanitize_text(removed, 64))?;
        }
        if !plan.kept.is_empty() {
            let names = sanitize_text(&plan.kept.join(", "), 400);
            writeln!(f, "not in the file and kept (--prune removes): {noun} {names}")?;
        }
        writeln!(f, "{noun}s: {}", plan.summary())
    }
}

/// Changed fields, each with its change as text; a field at its default is in neither map.
fn diff_maps(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<FieldLine> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let text = |value: Option<&Value>| value.map_or_else(|| "default".to_owned(), format_setting);
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    changed
        .map(|name| (name.clone(), format!("{} → {}", text(before.get(name)), text(after.get(name)))))
        .collect()
}

#[cfg(test)]
mod tests {
    use picket_proto::{
        SiteId,
        site::SiteSpec,
        site_plan::{DesiredSites, PruneScope, StoredSite},
    };

    use super::*;

    /// Text of the plan that brings the `stored` sites, numbered from 1, to `sites`.
    fn describe_plan(sites: &[&SiteSpec], stored: &[&SiteSpec]) -> String {
        let wanted =
            DesiredSites { regions: Vec::new(), sites: sites.iter().map(|spec| (*spec).clone()).collect() };
        let stored: Vec<StoredSite<'_>> = stored
            .iter()
            .zip(1..)
            .map(|(spec, id)| StoredSite { id: SiteId(id), url: &spec.check.url, spec: Ok(spec) })
            .collect();
        PlanText(&SitePlan::new(&wanted, &["eu".to_owned()], &stored, PruneScope::None)).to_string()
    }

    #[test]
    fn new_sites_are_added_different_ones_changed_and_the_rest_kept() {
        let (kept, fresh) = (SiteSpec::new("https://kept/"), SiteSpec::new("https://fresh/"));
        let slow = SiteSpec::new("https://slow/");
        let mut fast = slow.clone();
        fast.interval_seconds = 5;
        fast.check.headers.insert("Authorization".into(), "secret".into());

        let said = describe_plan(&[&kept, &fast, &fresh], &[&kept, &slow]);

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

        let said = describe_plan(&[&file], &[&stored]);
        let same_text = describe_plan(&[&blank], &[&stored]);

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
}
