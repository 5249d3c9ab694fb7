//! Credentials in the definition of a site: headers and URL parameters that look like them, and
//! the options that replace the headers.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use picket_proto::{
    CheckRequest,
    credentials::is_credential_header,
    http_options::{Auth, SecretRef},
};
use url::Url;

/// Header that looks like a credential.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CredentialHeader {
    /// Name of the header, as in the site.
    pub(crate) header: String,
    /// The secret part of its value.
    pub(crate) value: String,
    kind: HeaderKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HeaderKind {
    /// `Authorization: Basic`, with the user.
    Basic(String),
    /// `Authorization: Bearer`.
    Bearer,
    /// The whole value is the secret.
    Whole,
}

/// The headers of `check` that look like credentials.
pub(crate) fn find_headers(check: &CheckRequest) -> Vec<CredentialHeader> {
    let headers =
        check.headers.iter().filter(|(name, value)| is_credential_header(name) && !value.trim().is_empty());
    headers.map(|(name, value)| CredentialHeader::parse(name, value.trim())).collect()
}

impl CredentialHeader {
    fn parse(header: &str, value: &str) -> Self {
        let header = header.to_owned();
        let whole = Self { header, value: value.to_owned(), kind: HeaderKind::Whole };
        if !whole.header.eq_ignore_ascii_case("authorization") {
            return whole;
        }
        let Some((scheme, rest)) = value.split_once(' ') else { return whole };
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            // An empty scheme or value would not survive the change unchanged.
            "bearer" if !rest.is_empty() => {
                Self { value: rest.to_owned(), kind: HeaderKind::Bearer, ..whole }
            }
            "basic" => {
                let login = BASE64_STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                match login.as_deref().and_then(|login| login.split_once(':')) {
                    Some((user, password)) if !user.is_empty() => {
                        Self { value: password.to_owned(), kind: HeaderKind::Basic(user.to_owned()), ..whole }
                    }
                    _ => whole,
                }
            }
            _ => whole,
        }
    }

    /// The option that replaces the header.
    pub(crate) fn option_name(&self) -> &'static str {
        match self.kind {
            HeaderKind::Basic(_) => "options.auth.basic",
            HeaderKind::Bearer => "options.auth.bearer",
            HeaderKind::Whole => "options.secret_headers",
        }
    }

    /// Replaces the header of `check` by the secret `name`.
    pub(crate) fn replace_in(&self, check: &mut CheckRequest, name: &str) {
        let secret = SecretRef { secret: name.to_owned() };
        check.headers.remove(&self.header);
        match &self.kind {
            HeaderKind::Basic(user) => {
                check.options.auth = Some(Auth::Basic { user: user.clone(), password: secret });
            }
            HeaderKind::Bearer => check.options.auth = Some(Auth::Bearer(secret)),
            HeaderKind::Whole => drop(check.options.secret_headers.insert(self.header.clone(), secret)),
        }
    }
}

/// A name for a secret: the host of the site and the header, as far as a name may have them.
pub(crate) fn suggest_name(url: &Url, header: &str) -> String {
    const MAX_BYTES: usize = 60;
    let text = format!("{}-{header}", url.host_str().unwrap_or_default()).to_ascii_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join("-");
    name.truncate(MAX_BYTES);
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use picket_proto::credentials::find_credential_parameters;

    use super::*;

    fn site(headers: &[(&str, &str)]) -> CheckRequest {
        CheckRequest {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..CheckRequest::new("https://api.shop.example/x?access_token=a&page=2&key=b&sort=")
        }
    }

    #[test]
    fn headers_that_look_like_credentials_are_found_and_no_others() {
        let check = site(&[
            ("Accept", "text/html"),
            ("Authorization", "Digest abc"),
            ("Cookie", "session=1"),
            ("PRIVATE_TOKEN", "abcdefgh"),
            ("User-Agent", "me"),
            ("X-Api-Key", "abcdefgh"),
            ("X-Apikey", ""),
        ]);

        let found: Vec<_> = find_headers(&check).into_iter().map(|header| header.header).collect();

        assert_eq!(found, ["Authorization", "Cookie", "PRIVATE_TOKEN", "X-Api-Key"]);
        assert_eq!(find_credential_parameters(&check), ["access_token", "key"]);
    }

    #[test]
    fn a_header_is_replaced_by_the_option_that_sends_the_same() {
        for (header, value, secret, options) in [
            ("Authorization", "Bearer abcdefgh", "abcdefgh", r#"{"auth":{"bearer":{"secret":"s"}}}"#),
            (
                "authorization",
                "basic bWU6cGFzczp3b3Jk",
                "pass:word",
                r#"{"auth":{"basic":{"user":"me","password":{"secret":"s"}}}}"#,
            ),
            (
                "Authorization",
                "Basic not-base64",
                "Basic not-base64",
                r#"{"secret_headers":{"Authorization":{"secret":"s"}}}"#,
            ),
            (
                "Authorization",
                "abcdefgh",
                "abcdefgh",
                r#"{"secret_headers":{"Authorization":{"secret":"s"}}}"#,
            ),
            (
                "X-Api-Key",
                "Bearer abcdefgh",
                "Bearer abcdefgh",
                r#"{"secret_headers":{"X-Api-Key":{"secret":"s"}}}"#,
            ),
        ] {
            let mut check = site(&[(header, value)]);
            let found = find_headers(&check).remove(0);
            assert_eq!(found.value, secret, "{value}");
            found.replace_in(&mut check, "s");
            assert!(check.headers.is_empty());
            assert_eq!(serde_json::to_string(&check.options).unwrap(), options, "{value}");
            check.validate().unwrap();
        }
    }

    #[test]
    fn a_name_is_made_of_the_host_and_the_header() {
        let name = |url: &str| suggest_name(&Url::parse(url).unwrap(), "X-Api-Key");

        assert_eq!(name("https://api.shop.example:8443/"), "api-shop-example-x-api-key");
        assert_eq!(name("https://[::1]/"), "1-x-api-key");
        assert!(name(&format!("https://{}.example/", "a".repeat(60))).len() <= 60);
    }
}
