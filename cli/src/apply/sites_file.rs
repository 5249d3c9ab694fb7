//! The YAML format of the sites file: parsing and rendering.

use std::collections::{BTreeMap, HashMap};

use picket_proto::{
    CheckRequest, IpVersion, ValidationError,
    check::Method,
    site::{IntervalRange, SiteSpec},
};
use picket_runtime::options::DurationArg;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::DesiredSites;
use crate::{error::Error, site_args::to_whole_seconds};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SitesFile {
    #[serde(default)]
    regions: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    sites: Option<Vec<Spanned<SiteEntry>>>,
}

#[derive(Serialize)]
struct ExportedSitesFile<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    regions: &'a [String],
    sites: Vec<SiteEntry>,
}

/// A site in the file. Absent fields have their defaults.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SiteEntry {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval_seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_regex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_redirects: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_verify: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regions: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quorum: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failures_to_open: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successes_to_close: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
}

/// Parses and validates a whole file. Returns every error, each with its line.
pub(super) fn parse_sites_file(
    name: &str,
    text: &str,
    intervals: IntervalRange,
) -> Result<DesiredSites, Vec<String>> {
    if text.trim().is_empty() {
        return Err(vec![format!("{name}: the file is empty; it should hold a list 'sites:'")]);
    }
    let typed: SitesFile =
        serde_saphyr::from_str(text).map_err(|why| vec![describe_yaml_error(name, text, &why)])?;
    let mut wanted = DesiredSites::default();
    let mut refusals = Vec::new();
    for region in typed.regions.into_iter().flatten() {
        match region.value.parse() {
            Ok(region) => wanted.regions.push(region),
            Err(why) => refusals.push(format!("{name}, line {}: {why}", region.referenced.line())),
        }
    }
    // Duplicates are rejected here, with both lines; the database would only name the site.
    let mut lines = HashMap::new();
    for entry in typed.sites.into_iter().flatten() {
        let line = entry.referenced.line();
        let url = entry.value.url.clone();
        match entry.value.into_spec().and_then(|spec| spec.validate(intervals).map(|()| spec)) {
            Ok(spec) => {
                let (url, method, regex, not_regex) = crate::site::site_identity(&spec);
                let identity = [url, method, regex, not_regex].map(str::to_owned);
                if let Some(first) = lines.insert(identity, line) {
                    refusals.push(format!(
                        "{name}, line {line}: {url} is there twice with the same method, regex and not_regex, first in line {first}"
                    ));
                }
                wanted.sites.push(spec);
            }
            Err(why) => refusals.push(format!(
                "{name}, line {line} ({}): {why}",
                picket_proto::validation::sanitize_text(&url, 80)
            )),
        }
    }
    match refusals.is_empty() {
        true => Ok(wanted),
        false => Err(refusals),
    }
}

/// The parser's message in a single line, with the line number and the text of that line.
fn describe_yaml_error(name: &str, text: &str, why: &serde_saphyr::Error) -> String {
    let words = why.without_snippet().to_string();
    let words = words.lines().next().unwrap_or_default();
    let words = words.split(" at line ").next().unwrap_or(words);
    let words = words
        .replace("invalid i64", "a whole number is needed here")
        .replace("invalid bool", "true or false is needed here");
    let line = why.location().map(|location| location.line());
    let excerpt = line
        .and_then(|line| text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?))
        .map(|excerpt| format!(": {}", picket_proto::validation::sanitize_text(excerpt.trim(), 100)));
    let place = line.map_or_else(String::new, |line| format!(", line {line}"));
    format!("{name}{place}: {words}{}", excerpt.unwrap_or_default())
}

/// Renders a file that [`parse_sites_file`] parses to the same sites.
pub(super) fn render_sites_file(regions: &[String], sites: &[SiteSpec]) -> Result<String, Error> {
    let sites = sites.iter().map(SiteEntry::from).collect();
    serde_saphyr::to_string(&ExportedSitesFile { regions, sites })
        .map_err(|why| Error::Output(std::io::Error::other(why)))
}

impl SiteEntry {
    fn into_spec(self) -> Result<SiteSpec, ValidationError> {
        let mut spec = SiteSpec::new(self.url);
        let check = &mut spec.check;
        if let Some(ms) =
            pick_number_or_text("timeout_ms", self.timeout_ms, "timeout", self.timeout, parse_milliseconds)?
        {
            check.timeout_ms = ms;
        }
        if let Some(method) = self.method {
            check.method = Method::parse(&method)?.as_str().to_owned();
        }
        if let Some(version) = self.ip_version {
            check.ip_version = IpVersion::parse(&version)?;
        }
        check.headers = self.headers.unwrap_or_default();
        check.body = self.body;
        check.status = self.status.unwrap_or(std::mem::take(&mut check.status));
        check.regex = self.regex.filter(|regex| !regex.is_empty());
        check.not_regex = self.not_regex.filter(|regex| !regex.is_empty());
        check.max_redirects = self.max_redirects.unwrap_or(check.max_redirects);
        check.tls_verify = self.tls_verify.unwrap_or(true);
        if let Some(seconds) = pick_number_or_text(
            "interval_seconds",
            self.interval_seconds,
            "interval",
            self.interval,
            |text| to_whole_seconds("interval", parse_duration("interval", text)?),
        )? {
            spec.interval_seconds = seconds;
        }
        spec.name = self.name;
        spec.regions = self.regions.unwrap_or_default();
        spec.enabled = self.enabled.unwrap_or(true);
        spec.quorum = self.quorum;
        spec.failures_to_open = self.failures_to_open.unwrap_or(SiteSpec::DEFAULT_CONSECUTIVE_CHECKS);
        spec.successes_to_close = self.successes_to_close.unwrap_or(SiteSpec::DEFAULT_CONSECUTIVE_CHECKS);
        spec.tags = self.tags.unwrap_or_default();
        Ok(spec)
    }
}

/// Value of a field that can be given as a number or as a duration, but not as both.
fn pick_number_or_text(
    field: &str,
    number: Option<i64>,
    other: &str,
    text: Option<String>,
    read: impl FnOnce(&str) -> Result<i64, ValidationError>,
) -> Result<Option<i64>, ValidationError> {
    match (number, text) {
        (Some(_), Some(text)) => {
            Err(ValidationError::new(other, text, format!("either {other} or {field}, not both")))
        }
        (number, None) => Ok(number),
        (None, Some(text)) => read(&text).map(Some),
    }
}

fn parse_duration(field: &str, text: &str) -> Result<DurationArg, ValidationError> {
    text.parse::<DurationArg>().map_err(|_| {
        ValidationError::new(field, text, "a number with ms, s, m, h or d, such as 15s or 1h30m")
    })
}

fn parse_milliseconds(text: &str) -> Result<i64, ValidationError> {
    parse_duration("timeout", text).map(|span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX))
}

impl From<&SiteSpec> for SiteEntry {
    /// Omits fields that have their default.
    fn from(spec: &SiteSpec) -> Self {
        let default = SiteSpec::new("");
        let SiteSpec { check, .. } = spec;
        let differs = |number: i64, default: i64| (number != default).then_some(number);
        let some = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
        Self {
            url: check.url.clone(),
            name: spec.name.clone(),
            interval_seconds: differs(spec.interval_seconds, SiteSpec::DEFAULT_INTERVAL_SECONDS),
            timeout_ms: differs(check.timeout_ms, CheckRequest::DEFAULT_TIMEOUT_MS),
            method: (check.method != default.check.method).then(|| check.method.clone()),
            headers: (!check.headers.is_empty()).then(|| check.headers.clone()),
            body: check.body.clone(),
            status: (check.status != CheckRequest::DEFAULT_STATUS).then(|| check.status.clone()),
            regex: check.regex.clone(),
            not_regex: check.not_regex.clone(),
            max_redirects: differs(check.max_redirects, CheckRequest::DEFAULT_MAX_REDIRECTS),
            ip_version: (check.ip_version != IpVersion::Any).then(|| check.ip_version.as_str().to_owned()),
            tls_verify: (!check.tls_verify).then_some(false),
            regions: some(&spec.regions),
            enabled: (!spec.enabled).then_some(false),
            quorum: spec.quorum,
            failures_to_open: differs(spec.failures_to_open, SiteSpec::DEFAULT_CONSECUTIVE_CHECKS),
            successes_to_close: differs(spec.successes_to_close, SiteSpec::DEFAULT_CONSECUTIVE_CHECKS),
            tags: some(&spec.tags),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DesiredSites, Vec<String>> {
        super::parse_sites_file("sites.yaml", text, IntervalRange::default())
    }

    #[test]
    fn a_file_reads_as_people_write_it() {
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
    fn what_is_exported_reads_back_as_the_same() {
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

        let text = render_sites_file(&["eu".into()], &sites).unwrap();
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
    fn every_refusal_names_its_line_and_all_are_shown() {
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
            ("line 8", "interval: '60'"),
        ];
        assert_eq!(refusals.len(), expected.len(), "{refusals:#?}");
        for (refusal, (line, what)) in refusals.iter().zip(expected) {
            assert!(refusal.contains(line) && refusal.contains(what), "{refusal}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused_by_its_name_and_line() {
        for (text, line, field) in [
            ("sites:\n  - url: https://a.example/\n    intervall: 5s\n", "line 3", "intervall"),
            ("sitess: []\n", "line 1", "sitess"),
            ("sites:\n  - url: https://a.example/\n    max_redirects: many\n", "line 3", "many"),
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
    fn an_empty_file_is_refused_rather_than_taken_for_no_sites() {
        assert!(parse(" \n").unwrap_err()[0].contains("empty"));
        assert!(parse("sites: []\n").unwrap().sites.is_empty());
    }
}
