//! Options for the definition of a site. A given option replaces the value of its field.

use clap::Args;
use picket_proto::{CheckRequest, IpVersion, ValidationError, check::Method, site::SiteSpec};
use picket_runtime::options::DurationArg;

/// Request and assertions of a check.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Request and assertions")]
pub(crate) struct CheckOptions {
    /// Time limit of the check with all phases and redirects, 100ms to 60s [default: 10s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<DurationArg>,
    /// Regular expression that the body must match; '' removes it
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    regex: Option<String>,
    /// Regular expression that the body must not match; '' removes it
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    not_regex: Option<String>,
    /// Accepted statuses, such as 200-299,301 [default: 200-299]
    #[arg(long, value_name = "RULE")]
    status: Option<String>,
    /// Request method: GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Request header, such as 'Accept: text/html'; may be repeated; '' removes all
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Option<Vec<String>>,
    /// Request body; '' removes it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    body: Option<String>,
    /// Maximum number of redirects, 0 to 20; with 0 a redirect is the final response [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_redirects: Option<i64>,
    /// Address family: 4, 6 or any [default: any]
    #[arg(long, value_name = "VERSION")]
    ip_version: Option<String>,
    /// Skip the verification of the server's certificate
    #[arg(long, overrides_with = "tls_verify")]
    no_tls_verify: bool,
    /// Verify the server's certificate (the default)
    #[arg(long, overrides_with = "no_tls_verify")]
    tls_verify: bool,
}

/// Schedule and incident policy of a site.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Schedule and incident policy")]
pub(crate) struct SiteOptions {
    /// Name for reports; '' removes it, and reports show the URL
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Check interval in whole seconds, such as 30s or 5m [default: 60s]
    #[arg(long, value_name = "DURATION")]
    interval: Option<DurationArg>,
    /// Region to check from; may be repeated; '' selects all [default: all]
    #[arg(long = "region", value_name = "REGION")]
    regions: Option<Vec<String>>,
    /// Number of regions that must fail before the site is down; '' for a majority [default: a
    /// majority]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    quorum: Option<String>,
    /// Consecutive failures that make a region down, 1 to 100 [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    failures: Option<i64>,
    /// Consecutive successes that make a region up again, 1 to 100 [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    successes: Option<i64>,
    /// Tag for reports and selection; may be repeated; '' removes all
    #[arg(long = "tag", value_name = "TAG")]
    tags: Option<Vec<String>>,
}

impl CheckOptions {
    /// Sets the given fields of `check`.
    pub(crate) fn apply_to(&self, check: &mut CheckRequest) -> Result<(), ValidationError> {
        if let Some(timeout) = self.timeout {
            check.timeout_ms = timeout.as_saturating_millis();
        }
        replace_text(&mut check.regex, self.regex.as_ref());
        replace_text(&mut check.not_regex, self.not_regex.as_ref());
        replace_text(&mut check.body, self.body.as_ref());
        if let Some(status) = &self.status {
            check.status.clone_from(status);
        }
        if let Some(method) = &self.method {
            check.method = Method::parse(method)?.as_str().to_owned();
        }
        if let Some(headers) = &self.headers {
            check.headers.clear();
            for header in headers.iter().filter(|header| !header.is_empty()) {
                let (name, value) = parse_header(header)?;
                if check.headers.insert(name.to_owned(), value.to_owned()).is_some() {
                    return Err(ValidationError::new("headers", header, "each header once"));
                }
            }
        }
        if let Some(number) = self.max_redirects {
            check.max_redirects = number;
        }
        if let Some(version) = &self.ip_version {
            check.ip_version = IpVersion::parse(version)?;
        }
        if self.no_tls_verify || self.tls_verify {
            check.tls_verify = self.tls_verify;
        }
        Ok(())
    }
}

impl SiteOptions {
    /// Sets the given fields of `site`.
    pub(crate) fn apply_to(&self, site: &mut SiteSpec) -> Result<(), ValidationError> {
        replace_text(&mut site.name, self.name.as_ref());
        if let Some(interval) = self.interval {
            site.interval_seconds = to_whole_seconds("interval", interval)?;
        }
        replace_list(&mut site.regions, self.regions.as_ref());
        replace_list(&mut site.tags, self.tags.as_ref());
        if let Some(quorum) = self.quorum.as_deref() {
            site.quorum = match quorum {
                "" => None,
                number => Some(number.parse().map_err(|_| {
                    ValidationError::new("quorum", number, "1 to 1000, or '' for a majority of the regions")
                })?),
            };
        }
        if let Some(failures) = self.failures {
            site.failures_to_open = failures;
        }
        if let Some(successes) = self.successes {
            site.successes_to_close = successes;
        }
        Ok(())
    }
}

/// A duration in whole seconds, the unit of a site's interval.
///
/// # Errors
/// If the duration has a fraction of a second.
pub(crate) fn to_whole_seconds(field: &str, span: DurationArg) -> Result<i64, ValidationError> {
    span.as_whole_seconds()
        .ok_or_else(|| ValidationError::new(field, span, "whole seconds, such as 30s or 5m"))
}

fn parse_header(text: &str) -> Result<(&str, &str), ValidationError> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim(), value.trim())),
        _ => Err(ValidationError::new(
            "headers",
            text,
            "a name, a colon and a value, such as 'Accept: text/html'",
        )),
    }
}

fn replace_text(field: &mut Option<String>, given: Option<&String>) {
    if let Some(text) = given {
        *field = (!text.is_empty()).then(|| text.clone());
    }
}

fn replace_list(field: &mut Vec<String>, given: Option<&Vec<String>>) {
    if let Some(texts) = given {
        *field = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use picket_proto::site::IntervalRange;

    use super::*;

    #[derive(Parser)]
    struct Both {
        #[command(flatten)]
        check: CheckOptions,
        #[command(flatten)]
        site: SiteOptions,
    }

    fn applied(spec: &SiteSpec, options: &[&str]) -> Result<SiteSpec, ValidationError> {
        let both = Both::try_parse_from([&["test"], options].concat()).unwrap();
        let mut spec = spec.clone();
        both.check.apply_to(&mut spec.check)?;
        both.site.apply_to(&mut spec)?;
        Ok(spec)
    }

    #[test]
    fn options_that_are_not_given_leave_their_fields_unchanged() {
        let mut spec = SiteSpec::new("https://example.com/");
        spec.check.regex = Some("ok".into());
        spec.check.tls_verify = false;
        spec.tags = vec!["a".into()];

        let changed = applied(&spec, &["--interval", "5m", "--quorum", "2"]).unwrap();

        assert_eq!((changed.interval_seconds, changed.quorum), (300, Some(2)));
        spec.interval_seconds = 300;
        spec.quorum = Some(2);
        assert_eq!(changed, spec);
    }

    #[test]
    fn an_empty_value_clears_an_optional_field() {
        let mut spec = SiteSpec::new("https://example.com/");
        let plain = spec.clone();
        spec.check.regex = Some("ok".into());
        spec.check.body = Some("x".into());
        spec.check.headers.insert("A".into(), "b".into());
        spec.check.tls_verify = false;
        spec.quorum = Some(1);
        spec.regions = vec!["eu".into()];
        let clearing = ["--regex=", "--body=", "--header=", "--tls-verify", "--quorum=", "--region="];

        assert_eq!(applied(&spec, &clearing).unwrap(), plain);
    }

    #[test]
    fn an_invalid_option_is_refused_with_field_value_and_allowed_values() {
        let spec = SiteSpec::new("https://example.com/");
        for (option, value, field, allowed) in [
            ("--method", "BREW", "method", "GET, HEAD"),
            ("--header", "nonsense", "headers", "a colon"),
            ("--ip-version", "5", "ip_version", "any, 4, 6"),
            ("--interval", "1500ms", "interval", "whole seconds"),
            ("--quorum", "most", "quorum", "a majority"),
            ("--timeout", "1ms", "timeout_ms", "100 to 60000"),
            ("--status", "2xx", "status", "200-299,301"),
            ("--max-redirects", "-1", "max_redirects", "0 to 20"),
            ("--regex", "(", "regex", ""),
            ("--interval", "2s", "interval_seconds", "5 to 86400"),
            ("--failures", "0", "failures_to_open", "1 to 100"),
        ] {
            let refusal = applied(&spec, &[option, value])
                .and_then(|spec| spec.validate(IntervalRange::default()))
                .unwrap_err();

            assert_eq!(refusal.field, field);
            assert!(refusal.expected.contains(allowed), "{refusal}");
        }
    }

    #[test]
    fn several_headers_are_accepted_but_no_header_twice() {
        let spec = SiteSpec::new("https://example.com/");

        let two = applied(&spec, &["--header", "A: 1", "--header", "B:http://x:1"]).unwrap();
        let twice = applied(&spec, &["--header", "A: 1", "--header", "A: 2"]).unwrap_err();

        assert_eq!((two.check.headers["A"].as_str(), two.check.headers["B"].as_str()), ("1", "http://x:1"));
        assert_eq!(twice.field, "headers");
    }
}
