//! Validation of the options that name secrets.

use std::collections::BTreeMap;

use super::{Auth, HttpOptions, SecretRef};
use crate::{
    ValidationError,
    check_url::parse_url_of,
    header_name::{check_distinct_names, check_header_name},
};

/// Maximum number of headers whose values are secrets.
const MAX_SECRET_HEADERS: usize = 16;
/// Maximum length of a user, a client id and a scope, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Maximum number of scopes.
const MAX_SCOPES: usize = 32;

impl HttpOptions {
    pub(super) fn validate_auth(&self) -> Result<(), ValidationError> {
        match &self.auth {
            None => {}
            Some(Auth::Basic { user, password }) => {
                const FIELD: &str = "options.auth.basic";
                // RFC 7617: the first colon ends the user.
                let allowed = "1 to 256 bytes without ':' and control characters";
                check_text(&format!("{FIELD}.user"), user, |letter| letter != ':', allowed)?;
                check_secret_name(&format!("{FIELD}.password.secret"), &password.secret)?;
            }
            Some(Auth::Bearer(token)) => check_secret_name("options.auth.bearer.secret", &token.secret)?,
            Some(Auth::Oauth2 { token_url, client_id, client_secret, scopes }) => {
                const FIELD: &str = "options.auth.oauth2";
                parse_url_of(&format!("{FIELD}.token_url"), token_url)?;
                let allowed = "1 to 256 bytes without control characters";
                check_text(&format!("{FIELD}.client_id"), client_id, |_| true, allowed)?;
                check_secret_name(&format!("{FIELD}.client_secret.secret"), &client_secret.secret)?;
                validate_scopes(&format!("{FIELD}.scopes"), scopes)?;
            }
        }
        self.validate_secret_headers()
    }

    fn validate_secret_headers(&self) -> Result<(), ValidationError> {
        const FIELD: &str = "options.secret_headers";
        let count = self.secret_headers.len();
        if count > MAX_SECRET_HEADERS {
            let allowed = format!("at most {MAX_SECRET_HEADERS}");
            return Err(ValidationError::new(FIELD, format_args!("{count} of them"), allowed));
        }
        check_distinct_names(FIELD, self.secret_headers.keys())?;
        for (name, value) in &self.secret_headers {
            check_header_name(FIELD, name)?;
            check_secret_name(&format!("{FIELD}.{name}.secret"), &value.secret)?;
            if self.auth.is_some() && name.eq_ignore_ascii_case("authorization") {
                return Err(ValidationError::new(FIELD, name, "no Authorization beside options.auth"));
            }
        }
        Ok(())
    }

    /// Rejects a header of the site that the options set as well.
    pub(crate) fn reject_header_clash(
        &self,
        headers: &BTreeMap<String, String>,
    ) -> Result<(), ValidationError> {
        for name in headers.keys() {
            if self.auth.is_some() && name.eq_ignore_ascii_case("authorization") {
                return Err(ValidationError::new("headers", name, "no Authorization beside options.auth"));
            }
            if self.secret_headers.keys().any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(ValidationError::new("headers", name, "no header of options.secret_headers"));
            }
        }
        Ok(())
    }

    /// The names of all secrets that the options refer to, with the field of each.
    pub fn secret_names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let of_auth = self.auth.as_ref().map(|auth| match auth {
            Auth::Basic { password: SecretRef { secret }, .. }
            | Auth::Bearer(SecretRef { secret })
            | Auth::Oauth2 { client_secret: SecretRef { secret }, .. } => ("auth", secret.as_str()),
        });
        let of_headers = self.secret_headers.values().map(|value| ("secret_headers", value.secret.as_str()));
        let of_certificate = self.client_certificate.as_deref().map(|name| ("client_certificate", name));
        of_auth.into_iter().chain(of_headers).chain(of_certificate)
    }
}

/// Rejects a name that no secrets file can have.
///
/// # Errors
/// Names `field`, and never repeats the name.
pub fn check_secret_name(field: &str, name: &str) -> Result<(), ValidationError> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match (1..=64).contains(&name.len()) && name.bytes().all(is_letter) {
        true => Ok(()),
        // A careless user writes the secret itself here, so the error does not repeat it.
        false => Err(ValidationError::new(
            field,
            "(hidden)",
            "the name of a secret: 1 to 64 lower-case letters, digits and '-'",
        )),
    }
}

fn check_text(
    field: &str,
    text: &str,
    is_allowed: impl Fn(char) -> bool,
    allowed: &str,
) -> Result<(), ValidationError> {
    let is_good = |letter: char| !letter.is_control() && is_allowed(letter);
    match (1..=MAX_TEXT_BYTES).contains(&text.len()) && text.chars().all(is_good) {
        true => Ok(()),
        false => Err(ValidationError::new(field, text, allowed)),
    }
}

fn validate_scopes(field: &str, scopes: &[String]) -> Result<(), ValidationError> {
    if scopes.len() > MAX_SCOPES {
        let allowed = format!("at most {MAX_SCOPES}");
        return Err(ValidationError::new(field, format_args!("{} of them", scopes.len()), allowed));
    }
    // RFC 6749, section 3.3.
    let is_allowed = |letter: char| letter.is_ascii_graphic() && letter != '"' && letter != '\\';
    let allowed = "1 to 256 ASCII letters, digits and signs, without quotation marks and backslashes";
    scopes.iter().try_for_each(|scope| check_text(field, scope, is_allowed, allowed))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::CheckRequest;

    fn validate(options: Value, headers: Value) -> Result<(), String> {
        let json = json!({"url": "https://a.example/", "options": options, "headers": headers});
        let request = CheckRequest::decode(json.to_string().as_bytes()).map_err(|why| why.to_string())?;
        request.validate().map(drop).map_err(|why| why.to_string())
    }

    #[test]
    fn auth_and_secret_headers_name_secrets() {
        for options in [
            json!({"auth": {"basic": {"user": "me", "password": {"secret": "a-1"}}}}),
            json!({"auth": {"bearer": {"secret": "a-1"}}, "secret_headers": {"X-Api-Key": {"secret": "b"}}}),
            json!({"auth": {"oauth2": {"token_url": "https://auth.example/token", "client_id": "me",
                "client_secret": {"secret": "a"}, "scopes": ["read", "api://x/.default"]}}}),
            json!({"secret_headers": {"authorization": {"secret": "b"}, "Cookie": {"secret": "c"}}}),
        ] {
            validate(options, json!({"Accept": "*/*"})).unwrap();
        }
    }

    #[test]
    fn an_option_that_cannot_be_used_is_refused_by_its_name_and_a_secret_in_place_of_a_name_is_hidden() {
        let secret = json!({"secret": "s"});
        let headers: Value = (0..17)
            .map(|index| (format!("x-{index}"), secret.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        for (options, field) in [
            (json!({"auth": {"basic": {"user": "a:b", "password": secret}}}), "options.auth.basic.user"),
            (json!({"auth": {"basic": {"user": "", "password": secret}}}), "options.auth.basic.user"),
            (
                json!({"auth": {"basic": {"user": "a", "password": {"secret": "MARK!"}}}}),
                "options.auth.basic.password.secret",
            ),
            (json!({"auth": {"bearer": {"secret": "MARK_MARK"}}}), "options.auth.bearer.secret"),
            (json!({"auth": {"bearer": {"secret": ""}}}), "options.auth.bearer.secret"),
            (json!({"auth": {"bearer": {"secret": "a".repeat(65)}}}), "options.auth.bearer.secret"),
            (
                json!({"auth": {"oauth2": {"token_url": "auth.example", "client_id": "a", "client_secret": secret}}}),
                "options.auth.oauth2.token_url",
            ),
            (
                json!({"auth": {"oauth2": {"token_url": "https://u:MARK@auth.example", "client_id": "a", "client_secret": secret}}}),
                "options.auth.oauth2.token_url",
            ),
            (
                json!({"auth": {"oauth2": {"token_url": "https://auth.example", "client_id": "a\n", "client_secret": secret}}}),
                "options.auth.oauth2.client_id",
            ),
            (
                json!({"auth": {"oauth2": {"token_url": "https://auth.example", "client_id": "a", "client_secret": secret, "scopes": ["a b"]}}}),
                "options.auth.oauth2.scopes",
            ),
            (json!({"secret_headers": {"X Key": secret}}), "options.secret_headers"),
            (json!({"secret_headers": {"Host": secret}}), "options.secret_headers"),
            (json!({"secret_headers": {"X-Key": secret, "x-key": secret}}), "options.secret_headers"),
            (json!({"secret_headers": {"X-Key": {"secret": "MARK"}}}), "options.secret_headers.X-Key.secret"),
            (
                json!({"secret_headers": {"Authorization": secret}, "auth": {"bearer": secret}}),
                "options.secret_headers",
            ),
            (json!({"secret_headers": headers}), "options.secret_headers"),
        ] {
            let why = validate(options, json!({})).unwrap_err();
            assert!(why.starts_with(&format!("{field}: ")) && !why.contains("MARK"), "{field}: {why}");
        }
    }

    #[test]
    fn a_header_is_set_in_one_place() {
        let bearer = json!({"auth": {"bearer": {"secret": "s"}}});
        let key = json!({"secret_headers": {"X-Key": {"secret": "s"}}});

        for (options, name) in [(bearer, "authorization"), (key, "x-key")] {
            let why = validate(options, json!({name: "MARK"})).unwrap_err();
            assert!(why.starts_with("headers: ") && !why.contains("MARK"), "{why}");
        }
    }

    #[test]
    fn the_secrets_of_all_options_are_known() {
        let json = json!({"url": "https://a.example/", "options": {
            "auth": {"bearer": {"secret": "a"}}, "secret_headers": {"X": {"secret": "b"}}, "client_certificate": "c"}});
        let request = CheckRequest::decode(json.to_string().as_bytes()).unwrap();

        let names: Vec<_> = request.options.secret_names().collect();

        assert_eq!(names, [("auth", "a"), ("secret_headers", "b"), ("client_certificate", "c")]);
    }
}
