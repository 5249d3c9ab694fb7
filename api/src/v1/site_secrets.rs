//! Values of a site that may be secrets. They can be written, and are shown as [`HIDDEN_VALUE`].
//!
//! A site is read, changed and written back as it was read: the word then keeps the stored value, so that no value is
//! lost by a round trip, and none can be read by it.

use picket_proto::{ValidationError, nested_object::HIDDEN_VALUE, site::SiteSpec};
use serde_json::{Map, Value};

/// Gives the headers of a merge patch the spelling of the stored site, since a name in another case is the same header.
/// A patch that has a header twice keeps its own names: one may remove the stored spelling, and the other add its own.
pub(super) fn adopt_stored_names(patch: &mut Value, stored: &SiteSpec) {
    let Some(Value::Object(given)) = patch.get_mut("headers") else { return };
    let headers = &stored.check.headers;
    let renamed = std::mem::take(given);
    for (name, value) in &renamed {
        let is_same = |other: &&String| other.eq_ignore_ascii_case(name);
        let is_alone = renamed.keys().filter(is_same).count() == 1 && !headers.contains_key(name);
        let kept = headers.keys().find(is_same).filter(|_| is_alone).unwrap_or(name);
        given.insert(kept.clone(), value.clone());
    }
}

/// Replaces the values of all headers, whose names do not tell which are secret, and with `hides_body` the body.
pub(super) fn hide_values(definition: &mut Map<String, Value>, hides_body: bool) {
    if let Some(Value::Object(headers)) = definition.get_mut("headers") {
        headers.values_mut().for_each(|value| *value = HIDDEN_VALUE.into());
    }
    if hides_body && let Some(body @ Value::String(_)) = definition.get_mut("body") {
        *body = HIDDEN_VALUE.into();
    }
}

/// Replaces each hidden value by that of the stored site.
///
/// # Errors
/// If there is none to keep; names the field.
pub(super) fn keep_hidden_values(
    spec: &mut SiteSpec,
    stored: Option<&SiteSpec>,
) -> Result<(), ValidationError> {
    let refuse = |field: String| {
        ValidationError::new(field, HIDDEN_VALUE, "the value itself, since none is stored that could be kept")
    };
    for (name, value) in spec.check.headers.iter_mut().filter(|(_, value)| *value == HIDDEN_VALUE) {
        let mut headers = stored.into_iter().flat_map(|site| &site.check.headers);
        let kept = headers.find(|(stored, _)| stored.eq_ignore_ascii_case(name));
        let (_, kept) = kept.ok_or_else(|| refuse(format!("headers.{name}")))?;
        value.clone_from(kept);
    }
    if spec.check.body.as_deref() == Some(HIDDEN_VALUE) {
        let kept = stored.and_then(|site| site.check.body.clone());
        spec.check.body = Some(kept.ok_or_else(|| refuse("body".to_owned()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site(fields: Value) -> SiteSpec {
        let mut site = json!({"url": "https://a.example/"});
        site.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        SiteSpec::decode(&site).unwrap()
    }

    #[test]
    fn a_site_that_is_read_and_written_back_is_as_it_was() {
        let stored = site(
            json!({"method": "POST", "body": "hunter2", "headers": {"X-Key": "hunter2", "Accept": "a"}}),
        );
        for hides_body in [true, false] {
            let mut shown = stored.to_json_fields();
            hide_values(&mut shown, hides_body);
            assert_eq!(shown["headers"], json!({"X-Key": "(hidden)", "Accept": "(hidden)"}));
            assert_eq!(shown["body"], if hides_body { "(hidden)" } else { "hunter2" });

            let mut written = SiteSpec::decode(&Value::Object(shown)).unwrap();
            assert!(written.find_hidden_value().is_some());
            keep_hidden_values(&mut written, Some(&stored)).unwrap();
            assert_eq!(written, stored);
        }
    }

    #[test]
    fn a_hidden_value_without_a_stored_one_is_refused_by_its_field() {
        let stored = site(json!({"headers": {"X-Key": "hunter2"}}));
        for (fields, field) in [
            (json!({"headers": {"X-Other": "(hidden)"}}), "headers.X-Other"),
            (json!({"headers": {"X-Key": "(hidden)"}, "method": "POST", "body": "(hidden)"}), "body"),
        ] {
            let refusal = keep_hidden_values(&mut site(fields.clone()), Some(&stored)).unwrap_err();
            assert_eq!(refusal.field, field);
            keep_hidden_values(&mut site(fields), None).unwrap_err();
        }
        // The name of a header may be written in another case.
        let mut renamed = site(json!({"headers": {"x-key": "(hidden)"}}));
        keep_hidden_values(&mut renamed, Some(&stored)).unwrap();
        assert_eq!(renamed.check.headers["x-key"], "hunter2");
    }

    #[test]
    fn a_patch_has_the_names_of_stored_headers_in_their_spelling() {
        let stored = site(json!({"headers": {"X-Key": "hunter2", "Accept": "a"}}));
        for (given, adopted) in [
            (json!({"x-key": "(hidden)"}), json!({"X-Key": "(hidden)"})),
            (json!({"X-KEY": null, "accept": "b"}), json!({"X-Key": null, "Accept": "b"})),
            (json!({"X-Key": "b", "X-Other": "c"}), json!({"X-Key": "b", "X-Other": "c"})),
            // Renamed on purpose, or written twice, which validation refuses.
            (json!({"x-key": "(hidden)", "X-Key": null}), json!({"x-key": "(hidden)", "X-Key": null})),
            (json!({"x-key": "b", "X-KEY": "c"}), json!({"x-key": "b", "X-KEY": "c"})),
            (Value::Null, Value::Null),
        ] {
            let mut patch = json!({"headers": given});
            adopt_stored_names(&mut patch, &stored);
            assert_eq!(patch["headers"], adopted, "{given}");
        }
    }
}
