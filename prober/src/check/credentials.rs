//! Credentials of a check: headers made of secrets, for the URL's own origin.
//!
//! A secret is sent only where its entry in the secrets file allows it, and where the options of
//! the check lead to the same place: an unverified server, another address or another host name
//! must be allowed as well.

use picket_proto::{Cause, Check, http_options::Auth};
use picket_runtime::{SecretUnavailable, SecretValue, Secrets};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    failure::Failure,
    oauth::{TokenGrant, TokenRequest},
};

/// Headers of a check that are made of secrets.
#[derive(Default)]
pub(crate) struct Credentials {
    pub(super) headers: HeaderMap,
    /// Present if a header has an access token that a 401 may replace.
    pub(super) grant: Option<TokenGrant>,
}

/// Returns true if `check` needs credentials.
pub(super) fn needs_credentials(check: &Check) -> bool {
    check.options.auth.is_some() || !check.options.secret_headers.is_empty()
}

/// Failure of a check that cannot have a secret.
pub(super) fn secret_failure(why: &SecretUnavailable) -> Failure {
    Failure::new(Cause::SecretUnavailable, why.to_string())
}

/// The headers of `check` that need no access token.
pub(super) fn static_headers(check: &Check, secrets: &Secrets) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in &check.options.secret_headers {
        let secret = value_for_check(secrets, &value.secret, check)?;
        let name: HeaderName = name
            .parse()
            .map_err(|_| Failure::new(Cause::Invalid, format!("header '{name}' cannot be sent")))?;
        headers.insert(name, build_header("", &secret, &value.secret)?);
    }
    match &check.options.auth {
        Some(Auth::Basic { user, password }) => {
            let secret = value_for_check(secrets, &password.secret, check)?;
            let login = SecretValue::new(encode_basic(user, &secret));
            headers.insert(AUTHORIZATION, build_header("Basic ", &login, &password.secret)?);
        }
        Some(Auth::Bearer(token)) => {
            let secret = value_for_check(secrets, &token.secret, check)?;
            headers.insert(AUTHORIZATION, build_header("Bearer ", &secret, &token.secret)?);
        }
        Some(Auth::Oauth2 { .. }) | None => {}
    }
    Ok(headers)
}

/// The token request of `check`, if its credentials include an access token.
///
/// The token is sent to the site, so the secret must be allowed at both places.
pub(super) fn token_request(check: &Check, secrets: &Secrets) -> Result<Option<TokenRequest>, Failure> {
    let Some(Auth::Oauth2 { token_url, client_id, client_secret, scopes }) = &check.options.auth else {
        return Ok(None);
    };
    let name = &client_secret.secret;
    let token_url = Url::parse(token_url)
        .map_err(|why| Failure::new(Cause::Invalid, format!("options.auth.oauth2.token_url: {why}")))?;
    // Before the value: a token of an older value must not be kept as one of a newer content.
    let generation = secrets.generation();
    value_for_check(secrets, name, check)?;
    let secret = secrets.value_for(name, &token_url, true).map_err(|why| secret_failure(&why))?;
    Ok(Some(TokenRequest {
        token_url,
        client_id: client_id.clone(),
        secret_name: name.clone(),
        scopes: scopes.join(" "),
        generation,
        secret,
    }))
}

/// Adds the access token `token`, obtained with the secret `name`.
pub(super) fn insert_bearer(headers: &mut HeaderMap, token: &SecretValue, name: &str) -> Result<(), Failure> {
    headers.insert(AUTHORIZATION, build_header("Bearer ", token, name)?);
    Ok(())
}

/// Base64 of `user:password` (RFC 7617).
pub(super) fn encode_basic(user: &str, password: &SecretValue) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};

    BASE64_STANDARD.encode([user.as_bytes(), b":", password.expose_bytes()].concat())
}

/// Value of the secret `name` if `check` may send it.
///
/// # Errors
/// Fails if the secret is unknown, or if a place that may receive it is not among its hosts.
pub(super) fn value_for_check(secrets: &Secrets, name: &str, check: &Check) -> Result<SecretValue, Failure> {
    let refuse = |why: SecretUnavailable| secret_failure(&why);
    let value = secrets.value_for(name, &check.url, check.tls_verify).map_err(refuse)?;
    for place in other_places(check) {
        let place = place.map_err(|text| refuse(SecretUnavailable::HostNotListed(name.to_owned(), text)))?;
        secrets.value_for(name, &place, check.tls_verify).map_err(refuse)?;
    }
    Ok(value)
}

/// Places other than the URL that decide who receives the request. `Err` is a place that no rule
/// can list.
fn other_places(check: &Check) -> impl Iterator<Item = Result<Url, String>> {
    // The certificate proves the name of the URL, wherever the connection leads. Without that proof
    // the address decides. An authority that the site chooses proves nothing: whoever holds its key
    // could receive the secrets of every host.
    let is_proven = check.url.scheme() == "https" && check.tls_verify && check.options.ca.is_none();
    let address = check.options.connect_to.as_deref().filter(|_| !is_proven);
    // A server with several names may belong to several owners.
    let virtual_host = check.options.host_header.as_deref();
    let with_port = address.map(|place| replace_authority(&check.url, place, true));
    let without_port = virtual_host.map(|place| replace_authority(&check.url, place, false));
    with_port.into_iter().chain(without_port)
}

/// `url` with the host of `place`, and with its port if `use_port`.
fn replace_authority(url: &Url, place: &str, use_port: bool) -> Result<Url, String> {
    let bracketed = match place.parse::<std::net::Ipv6Addr>() {
        Ok(_) => format!("[{place}]"),
        Err(_) => place.to_owned(),
    };
    let refusal = || picket_proto::validation::sanitize_text(place, 100);
    let given = Url::parse(&format!("{}://{bracketed}/", url.scheme())).map_err(|_| refusal())?;
    let has_more = !given.username().is_empty() || given.password().is_some() || given.path() != "/";
    let mut replaced = url.clone();
    if has_more || given.query().is_some() || replaced.set_host(given.host_str()).is_err() {
        return Err(refusal());
    }
    if let Some(port) = given.port().filter(|_| use_port) {
        replaced.set_port(Some(port)).map_err(|()| refusal())?;
    }
    Ok(replaced)
}

fn build_header(prefix: &str, value: &SecretValue, name: &str) -> Result<HeaderValue, Failure> {
    let text = [prefix.as_bytes(), value.expose_bytes()].concat();
    let mut header = HeaderValue::from_bytes(&text).map_err(|_| {
        let why = "its value cannot be sent in a header".to_owned();
        secret_failure(&SecretUnavailable::Unusable(name.to_owned(), why))
    })?;
    // Its `Debug` form hides it, and HTTP/2 does not index it.
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use picket_proto::CheckRequest;
    use serde_json::{Value, json};

    use super::*;

    const FILE: &str = r#"
        [secret.web]
        value = "web-password"
        hosts = ["shop.example", "*.cdn.example"]
        [secret.lan]
        value = "lan-password"
        hosts = ["lan.example", "10.0.0.7:8080", "auth.example"]
        insecure = true
    "#;

    fn headers(url: &str, options: Value, tls_verify: bool) -> Result<HeaderMap, String> {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("secrets.toml");
        std::fs::write(&path, FILE).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let secrets = Secrets::load(&path).unwrap();
        let json = json!({"url": url, "options": options, "tls_verify": tls_verify}).to_string();
        let check = CheckRequest::decode(json.as_bytes()).unwrap().validate().unwrap();
        token_request(&check, &secrets).map_err(|failure| failure.message)?;
        static_headers(&check, &secrets).map_err(|failure| {
            assert_eq!(failure.cause, Cause::SecretUnavailable);
            failure.message
        })
    }

    #[test]
    fn an_authority_chosen_by_the_site_does_not_prove_the_receiver_of_a_secret() {
        let to = |place: &str, ca: Option<&str>| {
            let mut options = json!({"auth": {"bearer": {"secret": "web"}}, "connect_to": place});
            if let Some(name) = ca {
                options["ca"] = json!(name);
            }
            headers("https://shop.example/", options, true)
        };

        assert!(to("elsewhere.example", None).is_ok(), "the usual roots prove the name of the URL");
        assert!(to("a.cdn.example", Some("partner")).is_ok(), "the place is listed");
        let refused = to("elsewhere.example", Some("partner")).unwrap_err();
        assert!(refused.contains("elsewhere.example") && !refused.contains("web-password"), "{refused}");
    }

    #[test]
    fn basic_bearer_and_secret_headers_are_sensitive_headers() {
        let basic = json!({"auth": {"basic": {"user": "me", "password": {"secret": "web"}}}, "secret_headers": {"X-Key": {"secret": "web"}}});
        let sent = headers("https://shop.example/", basic, true).unwrap();
        assert_eq!(sent["authorization"], "Basic bWU6d2ViLXBhc3N3b3Jk");
        assert_eq!(sent["x-key"], "web-password");
        assert!(!format!("{sent:?}").contains("password") && sent["authorization"].is_sensitive());

        let bearer =
            headers("https://a.cdn.example/", json!({"auth": {"bearer": {"secret": "web"}}}), true).unwrap();
        assert_eq!(bearer["authorization"], "Bearer web-password");
    }

    /// Each case is a way to have a secret sent to a place that is not listed.
    #[test]
    fn a_secret_is_not_sent_where_the_options_of_a_check_lead_elsewhere() {
        let with = |name: &str, more: Value| {
            let mut options = json!({"auth": {"bearer": {"secret": name}}});
            options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            options
        };
        for (url, options, tls_verify, refused) in [
            ("https://evil.example/", with("web", json!({})), true, "evil.example:443"),
            ("https://shop.example:444/", with("web", json!({})), true, "shop.example:444"),
            (
                "https://shop.example.evil.example/",
                with("web", json!({})),
                true,
                "shop.example.evil.example:443",
            ),
            ("http://shop.example/", with("web", json!({})), true, "without https"),
            ("https://shop.example/", with("web", json!({})), false, "without https"),
            (
                "https://shop.example/",
                with("web", json!({"connect_to": "203.0.113.7"})),
                false,
                "without https",
            ),
            (
                "https://shop.example/",
                with("web", json!({"host_header": "evil.example"})),
                true,
                "evil.example:443",
            ),
            (
                "https://a.cdn.example/",
                with("web", json!({"host_header": "evil.example:80"})),
                true,
                "evil.example:443",
            ),
            ("https://a.cdn.example/", with("web", json!({"host_header": "a%b"})), true, "a%b"),
            (
                "http://lan.example/",
                with("lan", json!({"connect_to": "203.0.113.7"})),
                true,
                "203.0.113.7:80",
            ),
            (
                "http://lan.example/",
                with("lan", json!({"connect_to": "[2001:db8::1]:81"})),
                true,
                "[2001:db8::1]:81",
            ),
            (
                "http://lan.example/",
                with("lan", json!({"connect_to": "2001:db8::1"})),
                true,
                "[2001:db8::1]:80",
            ),
            (
                "https://lan.example/",
                with("lan", json!({"connect_to": "evil.example"})),
                false,
                "evil.example:443",
            ),
            (
                "http://lan.example/",
                with("lan", json!({"host_header": "evil.example"})),
                true,
                "evil.example:80",
            ),
            ("https://shop.example/", with("absent", json!({})), true, "is not in the secrets file"),
        ] {
            let why = headers(url, options.clone(), tls_verify).unwrap_err();
            assert!(why.contains(refused) && !why.contains("password"), "{url} {options}: {why}");
        }
        for (url, options, tls_verify) in [
            ("https://shop.example/", with("web", json!({"connect_to": "203.0.113.7:8443"})), true),
            ("https://a.cdn.example/", with("web", json!({"host_header": "b.cdn.example:8443"})), true),
            ("http://lan.example/", with("lan", json!({"connect_to": "10.0.0.7:8080"})), true),
            ("https://lan.example/", with("lan", json!({})), false),
        ] {
            headers(url, options, tls_verify).unwrap();
        }
    }

    #[test]
    fn an_access_token_needs_a_secret_that_is_allowed_at_the_token_endpoint_and_at_the_site() {
        let oauth = |token_url: &str, secret: &str| {
            json!({"auth": {"oauth2": {"token_url": token_url,
            "client_id": "me", "client_secret": {"secret": secret}}}})
        };

        let evil_site =
            headers("https://evil.example/", oauth("https://auth.example/", "lan"), true).unwrap_err();
        assert!(evil_site.contains("evil.example:443"), "{evil_site}");
        let evil_endpoint =
            headers("https://lan.example/", oauth("https://evil.example/", "lan"), true).unwrap_err();
        assert!(evil_endpoint.contains("evil.example:443"), "{evil_endpoint}");
        headers("https://lan.example/", oauth("https://auth.example/token", "lan"), true).unwrap();
    }
}
