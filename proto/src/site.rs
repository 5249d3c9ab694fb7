//! The definition of a site, and its validation.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{CheckRequest, Pattern, RegionName, ValidationError, request::check_range};

/// A site as users define it: the check, its interval and regions, and the rules for an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSpec {
    /// The check, without the fields of a tick.
    pub check: CheckRequest,
    /// Display name; defaults to the URL.
    pub name: Option<String>,
    /// Interval between checks, in seconds.
    pub interval_seconds: i64,
    /// Regions that check the site; empty means all regions.
    pub regions: Vec<String>,
    /// True if the site is checked.
    pub enabled: bool,
    /// Number of failing regions that opens an incident; defaults to a majority.
    pub quorum: Option<i64>,
    /// Consecutive failures after which a region counts as down.
    pub failures_to_open: i64,
    /// Consecutive successes after which a region counts as up again.
    pub successes_to_close: i64,
    /// Labels for reports and selection.
    pub tags: Vec<String>,
}

/// Check intervals that this installation allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalRange {
    /// Shortest interval.
    pub min: Duration,
    /// Longest interval.
    pub max: Duration,
}

impl Default for IntervalRange {
    fn default() -> Self {
        Self { min: Duration::from_secs(5), max: Duration::from_secs(86_400) }
    }
}

impl IntervalRange {
    /// The range of any installation. An installation's own range is a setting of its database.
    pub const WIDEST: Self = Self { min: Duration::from_secs(1), max: Duration::from_secs(86_400) };

    /// Checks an interval in seconds.
    ///
    /// # Errors
    /// If it is outside of this range.
    pub fn check(self, interval_seconds: i64) -> Result<(), ValidationError> {
        let (min, max) = (self.min.as_secs(), self.max.as_secs());
        // A negative interval becomes 0, which no range includes.
        if (min..=max).contains(&u64::try_from(interval_seconds).unwrap_or(0)) {
            return Ok(());
        }
        // The words of picket.interval_problem, by which the database judges sites.
        let allowed = format!("{min} to {max} (settings min_interval and max_interval)");
        Err(ValidationError::new("interval_seconds", interval_seconds, allowed))
    }
}

impl SiteSpec {
    /// Default interval in seconds: once a minute.
    pub const DEFAULT_INTERVAL_SECONDS: i64 = 60;
    /// Default of [`failures_to_open`](Self::failures_to_open) and
    /// [`successes_to_close`](Self::successes_to_close).
    pub const DEFAULT_CONSECUTIVE_CHECKS: i64 = 2;
    /// Maximum length of the name, in bytes.
    pub const MAX_NAME_BYTES: usize = 200;
    const MAX_TAGS: usize = 50;
    const MAX_TAG_BYTES: usize = 64;

    /// A site that checks `url` once a minute from every region, with all other fields at their
    /// defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            check: CheckRequest::new(url),
            name: None,
            interval_seconds: Self::DEFAULT_INTERVAL_SECONDS,
            regions: Vec::new(),
            enabled: true,
            quorum: None,
            failures_to_open: Self::DEFAULT_CONSECUTIVE_CHECKS,
            successes_to_close: Self::DEFAULT_CONSECUTIVE_CHECKS,
            tags: Vec::new(),
        }
    }

    /// Validates every field. The CLI rejects a site by this code, and coordinators use it to
    /// report a site that was written with SQL.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self, intervals: IntervalRange) -> Result<(), ValidationError> {
        self.validate_with(intervals, |field, pattern| Pattern::compile(field, pattern).map(drop))
    }

    /// As [`validate`](Self::validate), with `judge_regex` to validate regexes, for example from a
    /// cache.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate_with(
        &self,
        intervals: IntervalRange,
        judge_regex: impl FnMut(&str, &str) -> Result<(), ValidationError>,
    ) -> Result<(), ValidationError> {
        intervals.check(self.interval_seconds)?;
        self.check.check_validity(judge_regex)?;
        check_range("failures_to_open", self.failures_to_open, 1, 100)?;
        check_range("successes_to_close", self.successes_to_close, 1, 100)?;
        if let Some(quorum) = self.quorum {
            check_range("quorum", quorum, 1, 1_000)?;
        }
        for region in &self.regions {
            region.parse::<RegionName>().map_err(|why| ValidationError { field: "regions".into(), ..why })?;
        }
        if let Some(name) = self.name.as_deref()
            && (name.trim().is_empty()
                || name.len() > Self::MAX_NAME_BYTES
                || name.chars().any(char::is_control))
        {
            return Err(ValidationError::new("name", name, "1 to 200 bytes without control characters"));
        }
        // The set is smaller than the list if a tag is repeated.
        let tags: BTreeSet<&str> = self.tags.iter().map(String::as_str).collect();
        if tags.len() != self.tags.len() || tags.len() > Self::MAX_TAGS {
            return Err(ValidationError::new("tags", self.tags.join(","), "at most 50 different ones"));
        }
        match tags.iter().find(|tag| {
            tag.is_empty() || tag.len() > Self::MAX_TAG_BYTES || tag.chars().any(char::is_control)
        }) {
            Some(tag) => {
                Err(ValidationError::new("tags", tag, "1 to 64 bytes each, without control characters"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_with_a_field_that_makes_no_sense_is_refused_by_that_field() {
        let good = SiteSpec::new("https://example.com/");
        good.validate(IntervalRange::default()).unwrap();

        let regex = |regex: &str, not_regex: Option<&str>| CheckRequest {
            regex: Some(regex.into()),
            not_regex: not_regex.map(Into::into),
            ..CheckRequest::new("https://example.com/")
        };

        let bad = [
            ("url", SiteSpec { check: CheckRequest::new("nonsense"), ..good.clone() }),
            ("regex", SiteSpec { check: regex("a(b", None), ..good.clone() }),
            ("regex", SiteSpec { check: regex(r"(\w{500}){500}", None), ..good.clone() }),
            ("not_regex", SiteSpec { check: regex("ok", Some(r"(\w{500}){500}")), ..good.clone() }),
            ("interval_seconds", SiteSpec { interval_seconds: 2, ..good.clone() }),
            ("interval_seconds", SiteSpec { interval_seconds: -60, ..good.clone() }),
            ("quorum", SiteSpec { quorum: Some(0), ..good.clone() }),
            ("failures_to_open", SiteSpec { failures_to_open: 0, ..good.clone() }),
            ("regions", SiteSpec { regions: vec!["EU".into()], ..good.clone() }),
            ("tags", SiteSpec { tags: vec!["a".into(), "a".into()], ..good.clone() }),
            ("name", SiteSpec { name: Some(" ".into()), ..good.clone() }),
        ];
        for (field, site) in bad {
            assert_eq!(site.validate(IntervalRange::default()).unwrap_err().field, field);
        }
    }
}
