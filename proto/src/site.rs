//! The definition of a site, and its validation.

mod decode;
mod hidden_values;
mod identity;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

pub use self::{
    decode::ALTERNATIVE_FIELDS,
    identity::{SiteIdentity, SiteKey},
};
use crate::{
    CheckRequest, HttpAssertions, HttpOptions, IpVersion, Pattern, RegionName, ValidationError,
    check::Method, check_options::with_check_options, duration::DurationArg, request::check_range,
};

/// Defines [`SiteSpec`] and [`SiteFields`] with the options of `site` and the options of a check.
macro_rules! define_site {
    (
        $(#[$meta:meta])*
        site { $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr;)* }
        check { $($(#[$option_doc:meta])* $option:ident: $option_type:ty = $option_default:expr, $option_allowed:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct SiteSpec {
            /// The check, without the fields of a tick.
            pub check: CheckRequest,
            $($(#[$doc])* pub $field: $type,)*
        }

        impl SiteSpec {
            /// Names of all fields in the order of [`SiteFields`].
            pub const FIELDS: &[&str] = &["url", $(stringify!($field),)* $(stringify!($option),)*];

            /// A site that checks `url` once a minute from every region, with all other fields at
            /// their defaults.
            pub fn new(url: impl Into<String>) -> Self {
                Self { check: CheckRequest::new(url), $($field: $default,)* }
            }
        }

        /// A site in its serialized form, the same in the sites file and in JSON: one level of
        /// fields. An absent field has its default.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct SiteFields {
            /// URL to check.
            pub url: String,
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
            $(
                $(#[$option_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $option: Option<$option_type>,
            )*
            /// Another form of `interval_seconds`: a duration such as `30s`. Never written.
            #[serde(default, skip_serializing)]
            pub interval: Option<String>,
            /// Another form of `timeout_ms`: a duration such as `5s`. Never written.
            #[serde(default, skip_serializing)]
            pub timeout: Option<String>,
        }

        impl SiteFields {
            /// All fields of `site`.
            pub fn all_fields(site: &SiteSpec) -> Self {
                Self {
                    url: site.check.url.clone(),
                    $($field: Some(site.$field.clone()),)*
                    $($option: Some(site.check.$option.clone()),)*
                    ..Self::default()
                }
            }

            /// The URL of `site` and the fields that differ from their defaults.
            pub fn changed_fields(site: &SiteSpec) -> Self {
                let default = SiteSpec::new("");
                Self {
                    url: site.check.url.clone(),
                    $($field: (site.$field != default.$field).then(|| site.$field.clone()),)*
                    $($option: (site.check.$option != default.check.$option)
                        .then(|| site.check.$option.clone()),)*
                    ..Self::default()
                }
            }

            /// The site without the alternative durations.
            fn into_plain_spec(self) -> SiteSpec {
                let default = SiteSpec::new("");
                let check = CheckRequest {
                    $($option: self.$option.unwrap_or(default.check.$option),)*
                    ..CheckRequest::new(self.url)
                };
                SiteSpec { check, $($field: self.$field.unwrap_or(default.$field),)* }
            }
        }
    };
}

with_check_options!(define_site! {
    /// A site as users define it: the check, its interval and regions, and the rules for an incident.
    site {
        /// Display name; defaults to the URL.
        name: Option<String> = None;
        /// Interval between checks, in seconds.
        interval_seconds: i64 = Self::DEFAULT_INTERVAL_SECONDS;
        /// Regions that check the site; empty means all regions.
        regions: Vec<String> = Vec::new();
        /// Labels for reports and selection.
        tags: Vec<String> = Vec::new();
        /// Number of failing regions that opens an incident; defaults to a majority.
        quorum: Option<i64> = None;
        /// Consecutive failures after which a region counts as down.
        failures_to_open: i64 = Self::DEFAULT_CONSECUTIVE_CHECKS;
        /// Consecutive successes after which a region counts as up again.
        successes_to_close: i64 = Self::DEFAULT_CONSECUTIVE_CHECKS;
        /// True if the site is checked.
        enabled: bool = true;
    }
});

impl SiteFields {
    /// The site that these fields define. It is not validated.
    ///
    /// # Errors
    /// If the method is unknown, a duration cannot be parsed, or a duration is given in both forms.
    pub fn into_spec(self) -> Result<SiteSpec, ValidationError> {
        let timeout = parse_alternative("timeout", self.timeout.as_ref(), "timeout_ms", self.timeout_ms)?;
        let interval =
            parse_alternative("interval", self.interval.as_ref(), "interval_seconds", self.interval_seconds)?;
        let mut spec = self.into_plain_spec();
        let check = &mut spec.check;
        check.method = Method::parse(&check.method)?.as_str().to_owned();
        // An empty regex is none, as on the command line.
        for regex in [&mut check.regex, &mut check.not_regex] {
            regex.take_if(|regex| regex.is_empty());
        }
        if let Some(timeout) = timeout {
            check.timeout_ms = timeout.as_saturating_millis();
        }
        if let Some(interval) = interval {
            spec.interval_seconds = interval.as_whole_seconds().ok_or_else(|| {
                ValidationError::new("interval", interval, "whole seconds, such as 30s or 5m")
            })?;
        }
        Ok(spec)
    }
}

/// Parses the duration `text` of the field `name`, which excludes `number` in the field `other`.
fn parse_alternative(
    name: &str,
    text: Option<&String>,
    other: &str,
    number: Option<i64>,
) -> Result<Option<DurationArg>, ValidationError> {
    let Some(text) = text else { return Ok(None) };
    if number.is_some() {
        return Err(ValidationError::new(name, text, format!("either {name} or {other}, not both")));
    }
    match text.parse() {
        Ok(duration) => Ok(Some(duration)),
        Err(_) => {
            let allowed = "a number with ms, s, m, h or d, such as 15s or 1h30m";
            Err(ValidationError::new(name, text, allowed))
        }
    }
}

impl Serialize for SiteSpec {
    /// Writes all fields.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SiteFields::all_fields(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SiteSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SiteFields::deserialize(deserializer)?.into_spec().map_err(de::Error::custom)
    }
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
    /// Maximum length of a tag, in bytes, wherever a tag stands: of a site, a token or a maintenance window.
    pub const MAX_TAG_BYTES: usize = 64;

    /// All fields under their public names, including defaults.
    pub fn to_json_fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            // Only non-text keys and non-finite numbers can fail, and a site has neither.
            _ => Map::new(),
        }
    }

    /// Validates every field. The CLI rejects a site by this code, and coordinators use it to
    /// report a site that was written with SQL.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self, intervals: IntervalRange) -> Result<(), ValidationError> {
        self.validate_with(intervals, |field, pattern| Ok(Pattern::compile(field, pattern)?.memory_usage()))
    }

    /// As [`validate`](Self::validate), with `judge_regex` to validate regexes, for example from a
    /// cache. It returns the size of each regex in bytes.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate_with(
        &self,
        intervals: IntervalRange,
        judge_regex: impl FnMut(&str, &str) -> Result<usize, ValidationError>,
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
        tags.iter().try_for_each(|tag| Self::check_tag("tags", tag))
    }

    /// Checks a tag of a site, or one that selects sites.
    ///
    /// # Errors
    /// If no site may have the tag; the error names `field`.
    pub fn check_tag(field: &str, tag: &str) -> Result<(), ValidationError> {
        if tag.is_empty() || tag.len() > Self::MAX_TAG_BYTES || tag.chars().any(char::is_control) {
            let allowed = format!("1 to {} bytes, without control characters", Self::MAX_TAG_BYTES);
            return Err(ValidationError::new(field, tag, allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_site_is_one_level_of_fields_in_which_defaults_may_be_absent() {
        let site = SiteSpec {
            interval_seconds: 30,
            check: CheckRequest { regex: Some("ok".into()), ..CheckRequest::new("http://x/") },
            ..SiteSpec::new("http://x/")
        };

        let all = serde_json::to_value(&site).unwrap();
        let changed = serde_json::to_value(SiteFields::changed_fields(&site)).unwrap();

        let names: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, SiteSpec::FIELDS.iter().copied().collect());
        assert_eq!(changed, json!({"url": "http://x/", "interval_seconds": 30, "regex": "ok"}));
        for written in
            [all, changed, json!({"url": "http://x/", "interval": "30s", "regex": "ok", "name": null})]
        {
            assert_eq!(serde_json::from_value::<SiteSpec>(written).unwrap(), site);
        }
        let refused = serde_json::from_value::<SiteSpec>(json!({"url": "http://x/", "timeout": 5}));
        assert!(refused.is_err());
    }

    #[test]
    fn a_site_with_an_invalid_field_is_refused_by_field_name() {
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
