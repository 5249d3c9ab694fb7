//! Decoding and validation of a whole definition, with every error named by its JSON Pointer.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_proto::{
    RegionName, ValidationError,
    nested_object::HIDDEN_VALUE,
    notification_plan::DesiredNotifications,
    site::{IntervalRange, SiteIdentity, SiteSpec},
    site_plan::DesiredSites,
    suggestion::describe_known_names,
    validation::sanitize_text,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{notifications::decode_notifications, refusals::Refusals};
use crate::{
    access::Access,
    problem::{Problem, ProblemKind},
    v1::{site_body::build_pointer, tag_limit::require_own_tag},
};

/// Maximum time to validate a definition.
const MAX_VALIDATION_TIME: Duration = Duration::from_secs(20);

/// Requires that each site has a tag of the sender's limit, before anything of the sites is validated.
pub(super) fn require_own_tags(access: &Access, body: &Value) -> Result<(), Problem> {
    if access.tag_limit().is_none() {
        return Ok(());
    }
    for (position, entry) in body["sites"].as_array().into_iter().flatten().enumerate() {
        let tags = entry["tags"].as_array().into_iter().flatten();
        let tags: Vec<String> = tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        require_own_tag(access, &tags, &build_pointer_of_site(position))?;
    }
    Ok(())
}

/// Decodes and validates a whole definition, and names every error.
pub(super) fn decode_definition(
    body: &Value,
    intervals: IntervalRange,
) -> Result<(DesiredSites, DesiredNotifications), Problem> {
    const FIELDS: [&str; 4] = ["channels", "regions", "routes", "sites"];
    let mut refusals = Refusals::default();
    let Value::Object(fields) = body else {
        refusals.add(
            String::new(),
            "an object such as {\"sites\": [{\"url\": \"https://example.com\"}]} is needed",
        );
        refusals.into_result()?;
        return Ok(Default::default());
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
    let notifications = decode_notifications(fields, &mut refusals);
    refusals.into_result()?;
    Ok((wanted, notifications))
}

fn decode_sites(
    entries: &[Value],
    intervals: IntervalRange,
    wanted: &mut DesiredSites,
    refusals: &mut Refusals,
) {
    let (mut positions, started_at) = (Vec::new(), Instant::now());
    for (position, entry) in entries.iter().enumerate() {
        // The work goes on if the request is given up, and others wait for its permit.
        if started_at.elapsed() > MAX_VALIDATION_TIME {
            let detail = format!(
                "the regexes and paths of {} sites take more than {} s to compile; send fewer sites at once",
                entries.len(),
                MAX_VALIDATION_TIME.as_secs()
            );
            refusals.add("/sites".to_owned(), detail);
            return;
        }
        let decoded = SiteSpec::decode(entry).and_then(|spec| spec.validate(intervals).map(|()| spec));
        match decoded {
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
pub(super) fn build_pointer_of_site(position: usize) -> String {
    format!("/sites/{position}")
}

/// The problem of sites that name unknown regions.
pub(super) fn refuse_regions(wanted: &DesiredSites, unknown: &[String], known: &[String]) -> Problem {
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
        assert!(
            decode_definition(&json!({"sites": []}), IntervalRange::default()).unwrap().0.sites.is_empty()
        );
    }
}
