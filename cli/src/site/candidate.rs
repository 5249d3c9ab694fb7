//! A site as one line, for a choice between several.

use picket_proto::{
    site::{SiteIdentity, SiteKey},
    validation::sanitize_text,
};
use picket_store::sites::Site;

use super::nested_fields::describe_nested_fields;

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
