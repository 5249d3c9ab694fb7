//! The YAML format of the sites file: parsing and rendering.

#[cfg(test)]
mod documented_examples;
mod explain;
mod notifications;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, HashMap, hash_map::Entry},
};

use picket_proto::{
    ValidationError,
    channel_definition::{ChannelDefinition, ChannelFields},
    notification_plan::DesiredNotifications,
    route::{RouteDefinition, RouteFields},
    site::{IntervalRange, SiteFields, SiteIdentity, SiteSpec},
    site_plan::DesiredSites,
    validation::sanitize_text,
};
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

pub(super) use self::explain::FieldLines;
use crate::error::Error;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SitesFile {
    #[serde(default)]
    regions: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    sites: Option<Vec<Spanned<SiteFields>>>,
    #[serde(default)]
    channels: Option<BTreeMap<String, Spanned<ChannelFields>>>,
    #[serde(default)]
    routes: Option<Vec<Spanned<RouteFields>>>,
}

/// What a file defines.
#[derive(Debug, Default)]
pub(super) struct DesiredDefinitions {
    pub(super) sites: DesiredSites,
    /// False if the file has no list of sites, not even an empty one: it leaves them alone.
    pub(super) has_sites: bool,
    pub(super) notifications: DesiredNotifications,
}

#[derive(Serialize)]
struct ExportedSitesFile<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    regions: &'a [String],
    sites: Vec<SiteFields>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channels: BTreeMap<&'a str, ChannelFields>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteFields>,
}

/// Parses and validates a whole file. Returns every error, each with its line.
pub(super) fn parse_sites_file(
    name: &str,
    text: &str,
    intervals: IntervalRange,
) -> Result<DesiredDefinitions, Vec<String>> {
    if text.trim().is_empty() {
        return Err(vec![format!("{name}: the file is empty; it should hold a list 'sites:'")]);
    }
    let typed: SitesFile = serde_saphyr::from_str(text)
        .map_err(|why| vec![explain::describe_yaml_error::<SitesFile>(name, text, &why)])?;
    let mut wanted = DesiredSites::default();
    let has_sites = typed.sites.is_some();
    let mut refusals = Vec::new();
    for region in typed.regions.into_iter().flatten() {
        match region.value.parse() {
            Ok(region) => wanted.regions.push(region),
            Err(why) => refusals.push((region.referenced.line(), format!(": {why}"))),
        }
    }
    let field_lines = LazyCell::new(|| FieldLines::parse(text));
    let mut lines = Vec::new();
    for (position, entry) in typed.sites.into_iter().flatten().enumerate() {
        let line = entry.referenced.line();
        let url = entry.value.url.clone();
        match entry.value.into_spec().and_then(|spec| check_entry(&spec, intervals).map(|()| spec)) {
            Ok(spec) => {
                wanted.sites.push(spec);
                lines.push(line);
            }
            Err(why) => {
                let line = field_lines.find_line("sites", &position.to_string(), &why.field).unwrap_or(line);
                let url = sanitize_text(&url, 80);
                refusals.push((line, format!(" ({url}): {why}")));
            }
        }
    }
    refusals.extend(find_duplicates(&wanted.sites, &lines));
    let notifications = DesiredNotifications {
        channels: typed
            .channels
            .map(|channels| notifications::decode_channels(channels, &field_lines, &mut refusals)),
        routes: typed.routes.map(|routes| notifications::decode_routes(routes, &field_lines, &mut refusals)),
    };
    refusals.sort_by_key(|(line, _)| *line);
    match refusals.is_empty() {
        true => Ok(DesiredDefinitions { sites: wanted, has_sites, notifications }),
        false => Err(refusals.iter().map(|(line, why)| format!("{name}, line {line}{why}")).collect()),
    }
}

/// Validates an entry as it is applied.
pub(super) fn check_entry(spec: &SiteSpec, intervals: IntervalRange) -> Result<(), ValidationError> {
    spec.refuse_hidden_values()?;
    spec.validate(intervals)
}

/// Refuses entries with the identity of an earlier one by the lines of both; the database would only
/// name the site.
fn find_duplicates(sites: &[SiteSpec], lines: &[u64]) -> Vec<(u64, String)> {
    let mut first_lines = HashMap::new();
    let duplicates = sites.iter().zip(lines).filter_map(|(spec, line)| {
        match first_lines.entry(SiteIdentity::of_spec(spec)) {
            Entry::Vacant(new) => {
                new.insert(line);
                None
            }
            Entry::Occupied(first) => Some((
                *line,
                format!(
                    ": {} is there twice with the same method, regex, not_regex, options and assertions, first in \
                     line {}",
                    sanitize_text(&spec.check.url, 80),
                    first.get()
                ),
            )),
        }
    });
    duplicates.collect()
}

/// Renders a file that [`parse_sites_file`] parses to the same definitions.
pub(super) fn render_sites_file(
    regions: &[String],
    sites: &[SiteSpec],
    channels: &[ChannelDefinition],
    routes: &[RouteDefinition],
) -> Result<String, Error> {
    let file = ExportedSitesFile {
        regions,
        sites: sites.iter().map(SiteFields::changed_fields).collect(),
        channels: channels.iter().map(|channel| (channel.name.as_str(), channel.to_fields())).collect(),
        routes: routes.iter().map(RouteDefinition::to_fields).collect(),
    };
    serde_saphyr::to_string(&file).map_err(|why| Error::Output(std::io::Error::other(why)))
}

#[cfg(test)]
mod tests {
    use picket_proto::IpVersion;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::assertion_syntax::generators::{any_assertions, any_options};

    fn parse(text: &str) -> Result<DesiredSites, Vec<String>> {
        super::parse_sites_file("sites.yaml", text, IntervalRange::default()).map(|wanted| wanted.sites)
    }

    #[test]
    fn a_hand_written_file_parses() {
        let wanted = parse(
            "regions: [eu-west]\nsites:\n  - url: https://a.example/\n    interval: 1m 30s\n    timeout: 500ms\n    \
             status: 200\n    ip_version: 4\n    headers: {X-Count: 7}\n    tags: [yes, 1.0]\n    method: post\n  - url: https://b.example/\n",
        )
        .unwrap();

        let first = &wanted.sites[0];
        assert_eq!((first.interval_seconds, first.check.timeout_ms), (90, 500));
        assert_eq!((first.check.status.as_str(), first.check.ip_version), ("200", IpVersion::V4));
        assert_eq!((first.check.headers["X-Count"].as_str(), first.check.method.as_str()), ("7", "POST"));
        assert_eq!(first.tags, ["yes", "1.0"]);
        assert_eq!(wanted.sites[1], SiteSpec::new("https://b.example/"));
        assert_eq!(wanted.regions[0].as_str(), "eu-west");
    }

    #[test]
    fn an_exported_file_reads_back_equal() {
        let odd = [
            "yes",
            "null",
            "~",
            "1.0",
            "0x10",
            "a: b",
            "# no comment",
            "- dash",
            "'",
            "\"",
            "\\d+\\s",
            "*",
            "&a",
            "!tag",
            "{\"a\": [1]}",
            "two\nlines\n",
            "  blanks  ",
            "tab\there",
            "ü€😀",
            "%",
            "@",
            "`",
            "---",
            "...",
            "2026-11-21",
            "\u{85}\u{2028}",
        ];
        let sites: Vec<SiteSpec> = odd
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let mut spec = SiteSpec::new(format!("https://example.com/{i}?a=b#c"));
                spec.check.body = Some((*text).to_owned());
                spec.check.regex = Some(format!("{}x", regex_escape(text)));
                spec.check
                    .headers
                    .insert("X-Odd".into(), text.chars().filter(|c| c.is_ascii_graphic()).collect());
                spec.name = Some(format!("name {}", text.replace(char::is_control, "")));
                spec.tags = vec![text.replace(char::is_control, ""), "other".into()];
                spec.enabled = i % 2 == 0;
                spec.quorum = Some(2);
                spec.interval_seconds = 30;
                spec.check.tls_verify = false;
                spec
            })
            .chain([SiteSpec::new("https://plain.example/")])
            .collect();

        let text = render_sites_file(&["eu".into()], &sites, &[], &[]).unwrap();
        let back = parse(&text).unwrap_or_else(|why| panic!("{why:?}\n{text}"));

        assert_eq!(back.sites, sites, "{text}");
        assert!(text.contains("- url: https://plain.example/\n"), "{text}");
    }

    fn regex_escape(text: &str) -> String {
        text.chars()
            .map(|c| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() })
            .collect()
    }

    #[test]
    fn every_error_names_its_line_and_all_errors_are_shown() {
        let refusals = parse(
            "regions: [EU]\nsites:\n  - url: ftp://a.example/\n  - url: https://b.example/\n    interval: 2s\n  - url: https://c.example/\n  - \
             url: https://c.example/\n  - url: https://d.example/\n    interval: 60\n",
        )
        .unwrap_err();

        let expected = [
            ("line 1", "'EU'"),
            ("line 3", "url: 'ftp"),
            ("line 4", "interval_seconds: '2'"),
            ("line 7", "first in line 6"),
            ("line 9", "interval: '60'"),
        ];
        assert_eq!(refusals.len(), expected.len(), "{refusals:#?}");
        for (refusal, (line, what)) in refusals.iter().zip(expected) {
            assert!(refusal.contains(line) && refusal.contains(what), "{refusal}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_name_and_line() {
        for (text, line, field) in [
            ("sites:\n  - url: https://a.example/\n    intervall: 5s\n", "line 3", "intervall"),
            ("sitess: []\n", "line 1", "sitess"),
            ("sites:\n  - url: https://a.example/\n    max_redirects: many\n", "line 3", "many"),
            (
                "sites:\n  - url: https://a.example/\n    tls_verify: maybe\n",
                "line 3",
                "true or false is needed here: ",
            ),
            (
                "sites:\n  - url: https://a.example/\n    ip_version: 5\n",
                "line 3",
                "'5' is not allowed; allowed: any, 4, 6",
            ),
            ("sites:\n  - url: https://a.example/\n    url: https://a.example/\n", "line 3", "duplicate"),
            ("sites:\n  - name: a\n", "line 2", "url"),
            ("sites: [\n", "line", ""),
        ] {
            let refusals = parse(text).unwrap_err();
            assert_eq!(refusals.len(), 1);
            assert!(refusals[0].contains(line) && refusals[0].contains(field), "{refusals:?}");
            assert_eq!(refusals[0].lines().count(), 1);
        }
    }

    #[test]
    fn options_and_assertions_read_as_people_write_them() {
        let wanted = parse(
            "sites:\n  - url: https://a.example/\n    options:\n      auth: {basic: {user: alice, password: {secret: shop}}}\n      \
             http_version: 1.1\n    assertions:\n      json:\n        - {path: $.status, equals: ok}\n        - {path: $.count, less_than: 5}\n        \
             - {path: $.error, equals: null}\n        - {path: $.code, not_equals: '1'}\n      must_fail: [connect]\n      body_bytes: {min: 1}\n",
        )
        .unwrap();

        let check = &wanted.sites[0].check;
        assert_eq!(
            serde_json::to_value(&check.options).unwrap(),
            json!({"auth": {"basic": {"user": "alice", "password": {"secret": "shop"}}}, "http_version": "1.1"})
        );
        let expected = json!({
            "json": [
                {"path": "$.status", "equals": "ok"}, {"path": "$.count", "less_than": 5.0},
                {"path": "$.error", "equals": null}, {"path": "$.code", "not_equals": "1"},
            ],
            "must_fail": ["connect"],
            "body_bytes": {"min": 1},
        });
        assert_eq!(serde_json::to_value(&check.assertions).unwrap(), expected);
    }

    #[test]
    fn a_wrong_field_of_options_or_assertions_is_refused_by_its_line_and_path_and_without_a_secret() {
        for (nested, line, refusal) in [
            (
                "options:\n      conect_to: hunter2",
                "line 5",
                "options.conect_to: unknown field 'conect_to': no such field; did you mean 'connect_to'?",
            ),
            (
                "options: {auth: hunter2}",
                "line 4",
                "options.auth: '(hidden)' is not allowed; allowed: basic, bearer, oauth2",
            ),
            (
                "options:\n      auth:\n        bearer: hunter2",
                "line 6",
                "options.auth.bearer: an object of fields is needed here",
            ),
            (
                "options: {auth: {bearer: {token: hunter2}}}",
                "line 4",
                "options.auth.bearer.token: unknown field 'token': no such field; there are secret",
            ),
            (
                "options: {secret_headers: {X-Key: hunter2}}",
                "line 4",
                "options.secret_headers.X-Key: an object of fields is needed here",
            ),
            ("options: {http_version: hunter2}", "line 4", "allowed: any, 1.1, 2"),
            ("options: hunter2", "line 4", "options: an object of fields is needed here"),
            ("headers: {A: [hunter2]}", "line 4", "headers.A: "),
            (
                "assertions:\n      json:\n        - path: $.a\n          equal: 1",
                "line 7",
                "assertions.json[0].equal: unknown field 'equal': no such field; did you mean 'equals'?",
            ),
            ("assertions: {must_fail: [conect]}", "line 4", "assertions.must_fail[0]: "),
            ("assertions: {warn_after: 2s}", "line 4", "did you mean 'warn_after_ms'?"),
            (
                "assertions: {warn_after_ms: 2s}",
                "line 4",
                "assertions.warn_after_ms: a whole number is needed here",
            ),
            (
                "assertions: {body_bytes: {min: -1}}",
                "line 4",
                "assertions.body_bytes.min: a whole number of at least 0 is needed here",
            ),
            (
                "assertions: {json: [{path: $, less_than: many}]}",
                "line 4",
                "assertions.json[0].less_than: a number is needed here",
            ),
            ("assertions: ok", "line 4", "an object"),
        ] {
            let refusals = parse(&format!(
                "sites:\n  - url: https://a.example/\n    name: a\n    {nested}\n  - url: https://b.example/\n"
            ))
            .unwrap_err();
            assert_eq!(refusals.len(), 1);
            let said = &refusals[0];
            assert!(said.starts_with(&format!("sites.yaml, {line}: ")), "{said}");
            assert!(said.contains(refusal) && !said.contains("hunter2"), "{said}");
            assert_eq!(said.lines().count(), 1);
        }
    }

    #[test]
    fn a_field_that_fails_validation_or_is_hidden_by_the_api_is_refused_by_its_own_line() {
        let refusals = parse(
            "sites:\n  - url: https://a.example/\n  - url: https://b.example/\n    name: b\n    headers:\n      A: ok\n      \
             Host: x\n    tags: [a]\n  - url: https://c.example/\n    regex: ok\n    status: 2xx\n  - url: https://d.example/\n    \
             headers:\n      A: ok\n      X-Key: (hidden)\n  - url: https://e.example/\n    body: (hidden)\n",
        )
        .unwrap_err();

        let expected = [
            "sites.yaml, line 6 (https://b.example/): headers: 'Host'",
            "sites.yaml, line 11 (https://c.example/): status: '2xx'",
            "sites.yaml, line 15 (https://d.example/): headers.X-Key: '(hidden)' is not allowed; allowed: the value itself",
            "sites.yaml, line 17 (https://e.example/): body: '(hidden)' is not allowed; allowed: the value itself",
        ];
        assert_eq!(refusals.len(), expected.len(), "{refusals:#?}");
        for (refusal, start) in refusals.iter().zip(expected) {
            assert!(refusal.starts_with(start), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_options_and_assertions_are_exported_and_read_back_unchanged(
            options in any_options(), assertions in any_assertions(),
        ) {
            let mut spec = SiteSpec::new("https://a.example/");
            spec.check.options = options;
            spec.check.assertions = assertions;
            spec.validate(IntervalRange::default()).unwrap();

            let text = render_sites_file(&[], std::slice::from_ref(&spec), &[], &[]).unwrap();
            let back = parse(&text).unwrap_or_else(|why| panic!("{why:?}\n{text}"));

            prop_assert_eq!(&back.sites[0], &spec, "{}", text);
        }
    }

    #[test]
    fn an_empty_file_is_refused_and_does_not_mean_no_sites() {
        assert!(parse(" \n").unwrap_err()[0].contains("empty"));
        assert!(parse("sites: []\n").unwrap().sites.is_empty());
    }
}
