//! Options for the definition of a site. A given option replaces the value of its field.

mod assertion_args;
mod connection_args;
#[cfg(test)]
mod tests;

use clap::Args;
use picket_proto::{CheckRequest, IpVersion, ValidationError, check::Method, site::SiteSpec};
use picket_runtime::options::DurationArg;

use self::{assertion_args::AssertionOptions, connection_args::ConnectionOptions};

/// Request and response of a check.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Request and response")]
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
    #[command(flatten)]
    assertions: AssertionOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
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
    /// Tags for reports and selection; may be repeated; '' removes all
    #[arg(long = "tag", visible_alias = "tags", value_name = "TAG[,TAG…]", value_delimiter = ',')]
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
        self.assertions.apply_to(&mut check.assertions)?;
        self.connection.apply_to(&mut check.options)
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
