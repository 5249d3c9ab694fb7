//! Identity of a site: the fields of which two sites never have the same values.

use std::borrow::Cow;

use super::SiteSpec;

/// What is requested, and what its body must contain. Sites with the same key are variants of each
/// other, which differ in their options or assertions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteKey<'a> {
    /// URL of the site.
    pub url: &'a str,
    /// Method in capital letters.
    pub method: Cow<'a, str>,
    /// Regex that the body must match; empty for none.
    pub regex: &'a str,
    /// Regex that the body must not match; empty for none.
    pub not_regex: &'a str,
}

/// The fields that identify a site, as the unique index `sites_identity` has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteIdentity<'a> {
    /// What is requested.
    pub key: SiteKey<'a>,
    /// Options and assertions as JSON, which can be compared and hashed. Fields at their default are
    /// not written.
    pub variant: String,
}

impl<'a> SiteIdentity<'a> {
    /// The identity of a definition.
    pub fn of_spec(spec: &'a SiteSpec) -> Self {
        let check = &spec.check;
        let method = match check.method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            // Written by SQL; a file has capital letters.
            true => Cow::Owned(check.method.to_ascii_uppercase()),
            false => Cow::Borrowed(check.method.as_str()),
        };
        let key = SiteKey {
            url: &check.url,
            method,
            regex: check.regex.as_deref().unwrap_or(""),
            not_regex: check.not_regex.as_deref().unwrap_or(""),
        };
        // Only keys that are no texts fail here, and neither object has such keys.
        let variant = serde_json::to_string(&(&check.options, &check.assertions)).unwrap_or_default();
        Self { key, variant }
    }
}
