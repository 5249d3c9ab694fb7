//! Identity of a site: the fields of which two sites never have the same values.

use std::borrow::Cow;

use picket_proto::{site::SiteSpec, validation::sanitize_text};
use picket_store::sites::Site;

use super::nested_fields::describe_nested_fields;

/// What is requested, and what its body must contain. Sites with the same key are variants of each
/// other, which differ in their options or assertions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SiteKey<'a> {
    url: &'a str,
    method: Cow<'a, str>,
    regex: &'a str,
    not_regex: &'a str,
}

/// The fields that identify a site, as the unique index `sites_identity` has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SiteIdentity<'a> {
    pub(crate) key: SiteKey<'a>,
    /// Options and assertions as JSON, which can be compared and hashed. Fields at their default are
    /// not written.
    pub(crate) variant: String,
}

impl<'a> SiteIdentity<'a> {
    pub(crate) fn of_spec(spec: &'a SiteSpec) -> Self {
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

/// A site as one line with everything by which it differs from others with its URL.
pub(super) fn describe_candidate(site: &Site) -> String {
    let id = site.id;
    let Ok(spec) = &site.spec else { return format!("{id}  {}", site.url) };
    let SiteKey { url, method, regex, not_regex } = SiteIdentity::of_spec(spec).key;
    let mut line = format!("{id}  {method} {url}");
    let name = spec.name.as_deref().unwrap_or("");
    for (field, value) in [("name", name), ("regex", regex), ("not_regex", not_regex)] {
        if !value.is_empty() {
            line.push_str(&format!("  {field} '{}'", sanitize_text(value, 60)));
        }
    }
    for (field, text) in describe_nested_fields(&spec.check) {
        line.push_str(&format!("  {field}: {}", sanitize_text(&text, 60)));
    }
    line
}
