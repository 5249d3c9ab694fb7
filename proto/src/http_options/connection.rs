//! Options for the connection of an HTTP check: their validation, and the parsed `connect_to`.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use super::{HttpOptions, HttpVersion, auth::check_secret_name};
use crate::{IpVersion, ValidationError};

/// Place to connect to instead of the URL's own: the parsed form of `connect_to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTarget {
    /// Address, or name to resolve.
    pub host: Host<String>,
    /// Port; `None` for the port of the URL.
    pub port: Option<u16>,
}

/// Maximum length of `connect_to` and of `host_header` in bytes: a name of 253 bytes with a port.
const MAX_HOST_BYTES: usize = 260;

impl ConnectTarget {
    const ALLOWED: &str =
        "an address or a host name, with an optional port, such as 192.0.2.7:8443 or [2001:db8::7]:8443";

    /// Parses `address`, `address:port`, `name` or `name:port`. An IPv6 address with a port is in
    /// brackets. The host is parsed as in a URL, so that an address in an unusual notation is an
    /// address.
    ///
    /// # Errors
    /// If `text` has another form.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let refusal = || ValidationError::new("options.connect_to", text, Self::ALLOWED);
        if text.len() > MAX_HOST_BYTES {
            return Err(refusal());
        }
        if let Ok(IpAddr::V6(address)) = text.parse() {
            return Ok(Self { host: Host::Ipv6(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of `[::1]` belongs to the address.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            // `u16` would also accept a sign.
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(refusal)?)
            }
            Some(_) => return Err(refusal()),
            None => None,
        };
        let host = Host::parse(host).map_err(|_| refusal())?;
        match &host {
            Host::Domain(name) if name.trim_end_matches('.').is_empty() => Err(refusal()),
            _ => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for ConnectTarget {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(to, "{}:{port}", self.host),
            None => self.host.fmt(to),
        }
    }
}

impl HttpOptions {
    /// Returns true if an option changes how a check connects, or to what.
    pub fn has_connection_options(&self) -> bool {
        self.connect_to.is_some()
            || self.host_header.is_some()
            || self.client_certificate.is_some()
            || self.ca.is_some()
            || self.proxy.is_some()
            || !self.http_version.is_any()
    }

    /// The parsed `connect_to`, if set.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub fn connect_target(&self) -> Result<Option<ConnectTarget>, ValidationError> {
        self.connect_to.as_deref().map(ConnectTarget::parse).transpose()
    }

    /// Validates the options for the connection of a check of `url`.
    ///
    /// # Errors
    /// If an option cannot be used, or contradicts another one.
    pub(crate) fn validate_connection(
        &self,
        url: &Url,
        ip_version: IpVersion,
        tls_verify: bool,
    ) -> Result<(), ValidationError> {
        self.connect_target()?;
        if let Some(host) = &self.host_header {
            validate_host_header(host)?;
        }
        for (field, name) in [
            ("options.client_certificate", &self.client_certificate),
            ("options.ca", &self.ca),
            ("options.proxy", &self.proxy),
        ] {
            name.as_deref().map_or(Ok(()), |name| check_secret_name(field, name))?;
        }
        self.reject_contradictions(url, ip_version, tls_verify)
    }

    /// Rejects combinations in which an option would have no effect.
    fn reject_contradictions(
        &self,
        url: &Url,
        ip_version: IpVersion,
        tls_verify: bool,
    ) -> Result<(), ValidationError> {
        let is_plain = url.scheme() == "http";
        let refusals = [
            (
                "client_certificate",
                &self.client_certificate,
                is_plain,
                "a client certificate for an https URL",
            ),
            ("ca", &self.ca, is_plain, "a certificate authority for an https URL"),
            ("ca", &self.ca, !tls_verify, "a certificate authority where tls_verify is true"),
            // With a proxy, the proxy resolves the name and chooses the address.
            ("proxy", &self.proxy, self.connect_to.is_some(), "a proxy without connect_to"),
            ("proxy", &self.proxy, ip_version != IpVersion::Any, "a proxy where ip_version is any"),
            (
                "proxy",
                &self.proxy,
                is_plain && self.http_version == HttpVersion::Http2,
                "a proxy for an http URL where http_version is any or 1.1",
            ),
            // A proxy sends the host of the URL and not the given one (RFC 9112, section 3.2.2).
            (
                "host_header",
                &self.host_header,
                is_plain && self.proxy.is_some(),
                "a host_header for an http URL without a proxy",
            ),
        ];
        match refusals.into_iter().find_map(|(field, value, is_refused, allowed)| {
            value.as_deref().filter(|_| is_refused).map(|value| (field, value, allowed))
        }) {
            Some((field, value, allowed)) => {
                Err(ValidationError::new(format!("options.{field}"), value, allowed))
            }
            None => Ok(()),
        }
    }
}

/// Validates a value of the header `Host`: the characters of a host and a port in a URI (RFC 3986).
fn validate_host_header(host: &str) -> Result<(), ValidationError> {
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:%[]".contains(&byte);
    match (1..=MAX_HOST_BYTES).contains(&host.len()) && host.bytes().all(is_host_byte) {
        true => Ok(()),
        false => Err(ValidationError::new(
            "options.host_header",
            host,
            format!(
                "a host and an optional port, such as www.example.com:8080; at most {MAX_HOST_BYTES} bytes"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> String {
        ConnectTarget::parse(text).map(|target| target.to_string()).unwrap_or_else(|why| why.field)
    }

    #[test]
    fn a_place_to_connect_to_is_an_address_or_a_name_with_an_optional_port() {
        for (text, parsed) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7:8443", "192.0.2.7:8443"),
            ("2001:db8::7", "[2001:db8::7]"),
            ("[2001:db8::7]", "[2001:db8::7]"),
            ("[2001:db8::7]:8443", "[2001:db8::7]:8443"),
            ("Origin.Example", "origin.example"),
            ("origin.example.:65535", "origin.example.:65535"),
            ("bücher.example", "xn--bcher-kva.example"),
            // Other notations of an address are addresses and not names.
            ("2130706433:80", "127.0.0.1:80"),
            ("0x7f.1", "127.0.0.1"),
        ] {
            assert_eq!(target(text), parsed, "{text}");
        }
        for text in [
            "",
            ":",
            ":80",
            ".",
            "a.example:",
            "a.example:0",
            "a.example:+80",
            "a.example:65536",
            "a.example:http",
            "https://a.example",
            "a.example/",
            "user@a.example",
            "a b.example",
            "[2001:db8::7",
            "2001:db8::7]:80",
            "a.example:80:443:b.example",
            "1.2.3.4.5",
            &"a".repeat(300),
        ] {
            assert_eq!(target(text), "options.connect_to", "{text}");
        }
    }

    fn refusal(url: &str, options: &str) -> Option<String> {
        let options: HttpOptions = serde_json::from_str(options).unwrap();
        let url = Url::parse(url).unwrap();
        options.validate_connection(&url, IpVersion::Any, true).err().map(|why| why.to_string())
    }

    #[test]
    fn a_refused_option_is_named_with_its_value_and_what_is_allowed() {
        for (url, options, message) in [
            (
                "https://a.example/",
                r#"{"connect_to": "b.example:x"}"#,
                "options.connect_to: 'b.example:x' is not allowed; allowed: an address or a host name, with an \
                 optional port, such as 192.0.2.7:8443 or [2001:db8::7]:8443",
            ),
            (
                "https://a.example/",
                r#"{"host_header": "b example"}"#,
                "options.host_header: 'b example' is not allowed; allowed: a host and an optional port, such as \
                 www.example.com:8080; at most 260 bytes",
            ),
            (
                "http://a.example/",
                r#"{"client_certificate": "shop"}"#,
                "options.client_certificate: 'shop' is not allowed; allowed: a client certificate for an https URL",
            ),
            (
                "http://a.example/",
                r#"{"ca": "office"}"#,
                "options.ca: 'office' is not allowed; allowed: a certificate authority for an https URL",
            ),
            (
                "http://a.example/",
                r#"{"proxy": "office", "connect_to": "192.0.2.7"}"#,
                "options.proxy: 'office' is not allowed; allowed: a proxy without connect_to",
            ),
            (
                "http://a.example/",
                r#"{"proxy": "office", "http_version": "2"}"#,
                "options.proxy: 'office' is not allowed; allowed: a proxy for an http URL where http_version is any \
                 or 1.1",
            ),
            (
                "http://a.example/",
                r#"{"proxy": "office", "host_header": "b.example"}"#,
                "options.host_header: 'b.example' is not allowed; allowed: a host_header for an http URL without a \
                 proxy",
            ),
        ] {
            assert_eq!(refusal(url, options).as_deref(), Some(message));
        }
        for (url, options) in [
            ("https://a.example/", "{}"),
            ("https://a.example/", r#"{"proxy": "office", "http_version": "2", "host_header": "b.example"}"#),
            ("https://a.example/", r#"{"client_certificate": "shop", "ca": "office", "connect_to": "::1"}"#),
            ("http://a.example/", r#"{"host_header": "_any-value.1:80", "http_version": "2"}"#),
        ] {
            assert_eq!(refusal(url, options), None, "{options}");
        }
    }

    #[test]
    fn an_option_that_another_field_of_the_check_would_undo_is_refused() {
        let url = Url::parse("https://a.example/").unwrap();
        let refusal = |options: HttpOptions, ip_version, tls_verify| {
            options.validate_connection(&url, ip_version, tls_verify).unwrap_err().to_string()
        };
        let ca = HttpOptions { ca: Some("office".into()), ..HttpOptions::default() };
        let proxy = HttpOptions { proxy: Some("office".into()), ..HttpOptions::default() };

        assert!(refusal(ca, IpVersion::Any, false).contains("where tls_verify is true"));
        assert!(refusal(proxy, IpVersion::V4, true).contains("where ip_version is any"));
    }
}
