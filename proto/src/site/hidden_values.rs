//! Values that the API does not give out, and shows as [`HIDDEN_VALUE`].

use super::SiteSpec;
use crate::{ValidationError, nested_object::HIDDEN_VALUE};

impl SiteSpec {
    /// The first field with the word in place of a value, such as `headers.X-Key` or `body`.
    pub fn find_hidden_value(&self) -> Option<String> {
        let mut headers = self.check.headers.iter();
        let header = headers.find(|(_, value)| *value == HIDDEN_VALUE);
        let body = self.check.body.as_deref().filter(|body| *body == HIDDEN_VALUE);
        header.map(|(name, _)| format!("headers.{name}")).or_else(|| body.map(|_| "body".to_owned()))
    }

    /// Refuses the word where it would be sent as it is: outside of the API, no stored value replaces it.
    ///
    /// # Errors
    /// If a value is hidden; names the field.
    pub fn refuse_hidden_values(&self) -> Result<(), ValidationError> {
        let Some(field) = self.find_hidden_value() else { return Ok(()) };
        let mut allowed = "the value itself, which the API does not give out".to_owned();
        if field != "body" {
            allowed.push_str(", or the header under options.secret_headers with the name of a secret");
        }
        Err(ValidationError::new(field, HIDDEN_VALUE, allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_value_is_refused_by_its_field_and_by_what_to_write() {
        let mut site = SiteSpec::new("https://a.example/");
        site.check.headers.insert("Accept".into(), "text/html".into());
        site.check.body = Some("a (hidden) part".into());
        site.refuse_hidden_values().unwrap();

        site.check.body = Some(HIDDEN_VALUE.into());
        let refusal = site.refuse_hidden_values().unwrap_err().to_string();
        assert_eq!(
            refusal,
            "body: '(hidden)' is not allowed; allowed: the value itself, which the API does not give out"
        );
        site.check.headers.insert("X-Key".into(), HIDDEN_VALUE.into());
        let refusal = site.refuse_hidden_values().unwrap_err();
        assert_eq!((refusal.field.as_str(), refusal.value.as_str()), ("headers.X-Key", HIDDEN_VALUE));
        assert!(refusal.expected.contains("does not give out, or the header under options.secret_headers"));
    }
}
