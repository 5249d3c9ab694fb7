//! Headers and URL parameters whose names look like those of credentials.

use url::Url;

use crate::CheckRequest;

/// Parts of names of headers and URL parameters with credentials.
const CREDENTIAL_WORDS: [&str; 9] =
    ["authorization", "cookie", "api-key", "apikey", "token", "secret", "password", "passwd", "credential"];
/// Further names of URL parameters with credentials.
const CREDENTIAL_PARAMETERS: [&str; 6] = ["key", "auth", "sig", "signature", "pwd", "code"];

/// Returns true if the header `name` looks like one with a credential.
pub fn is_credential_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
}

/// The names of parameters of the URL that look like credentials.
pub fn find_credential_parameters(check: &CheckRequest) -> Vec<String> {
    let Ok(url) = Url::parse(&check.url) else { return Vec::new() };
    let parameters = url.query_pairs().filter(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        !value.is_empty() && (is_credential_header(name) || CREDENTIAL_PARAMETERS.contains(&lower.as_str()))
    });
    parameters.map(|(name, _)| name.into_owned()).collect()
}
