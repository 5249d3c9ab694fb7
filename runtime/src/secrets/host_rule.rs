//! Hosts that a secret may be sent to.

use std::{fmt, str::FromStr};

use url::{Host, Url};

/// A host, or all names below a suffix, with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    host: HostPattern,
    /// Absent for the default port of the URL's scheme.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Exact(Host<String>),
    /// All names that end with a dot and this suffix.
    Below(String),
}

impl HostRule {
    const ALLOWED: &'static str =
        "a host or *.suffix, with an optional port, such as api.example.com or *.example.com:8443";

    /// Returns true if the rule lists the host and the port of `url`.
    pub fn allows_url(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        let default_port = match url.scheme() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        };
        if port.is_none() || port != self.port.or(default_port) {
            return false;
        }
        match (&self.host, url.host()) {
            (HostPattern::Exact(Host::Domain(name)), Some(Host::Domain(given))) => {
                name.as_str() == trim_root(given)
            }
            (HostPattern::Exact(host), Some(given)) => *host == given.to_owned(),
            (HostPattern::Below(suffix), Some(Host::Domain(given))) => {
                let above = trim_root(given).strip_suffix(suffix.as_str());
                above.and_then(|above| above.strip_suffix('.')).is_some_and(|label| !label.is_empty())
            }
            _ => false,
        }
    }
}

/// `name` without the dot of the root: `a.example.` and `a.example` are one host.
fn trim_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl FromStr for HostRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || format!("'{text}' is not allowed; allowed: {}", Self::ALLOWED);
        let (host, port) = match text.rsplit_once(':') {
            // The colons of a literal IPv6 address stand in brackets.
            Some((_, rest)) if rest.ends_with(']') => (text, None),
            Some((host, port)) => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0);
                (host, Some(port.ok_or_else(refusal)?))
            }
            None => (text, None),
        };
        let parse = |host: &str| match Host::parse(trim_root(host)) {
            Ok(Host::Domain(name)) if name.is_empty() || name.contains('*') => Err(refusal()),
            parsed => parsed.map_err(|_| refusal()),
        };
        let host = match host.strip_prefix("*.") {
            None => HostPattern::Exact(parse(host)?),
            Some(suffix) => match parse(suffix)? {
                Host::Domain(suffix) => HostPattern::Below(suffix),
                // An address has no names below it.
                Host::Ipv4(_) | Host::Ipv6(_) => return Err(refusal()),
            },
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Exact(host) => write!(f, "{host}")?,
            HostPattern::Below(suffix) => write!(f, "*.{suffix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, url: &str) -> bool {
        rule.parse::<HostRule>().unwrap().allows_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_rule_lists_its_host_and_its_port_and_nothing_beside_them() {
        for (rule, url) in [
            ("api.example", "https://api.example/x"),
            ("API.example", "https://api.example:443/"),
            ("api.example", "http://api.example/"),
            ("api.example.", "https://api.example/"),
            ("api.example", "https://api.example./"),
            ("api.example:8443", "https://api.example:8443/"),
            ("*.example", "https://a.b.example/"),
            ("*.shop.example:8443", "https://api.shop.example:8443/"),
            ("bücher.example", "https://xn--bcher-kva.example/"),
            ("127.0.0.1:81", "http://127.1:81/"),
            ("[::1]:81", "http://[0::1]:81/"),
            ("[::1]", "https://[::1]/"),
        ] {
            assert!(allows(rule, url), "{rule} {url}");
        }
        for (rule, url) in [
            ("api.example", "https://api.example.evil/"),
            ("api.example", "https://xapi.example/"),
            ("api.example", "https://api.example:8443/"),
            ("api.example", "http://api.example:443/"),
            ("api.example:8443", "https://api.example/"),
            ("*.shop.example", "https://shop.example/"),
            ("*.shop.example", "https://evilshop.example/"),
            ("*.shop.example", "https://a.shop.example.evil/"),
            ("1.example", "https://127.0.0.1/"),
        ] {
            assert!(!allows(rule, url), "{rule} {url}");
        }
    }

    #[test]
    fn a_rule_that_would_list_everything_is_refused() {
        for bad in
            ["", "*", "*.", ".", "*.*.example", "a.*.example", "*:443", "a.example:0", "a.example:x", "::1"]
        {
            assert!(bad.parse::<HostRule>().unwrap_err().contains("allowed: a host"), "{bad}");
        }
        for bad in ["https://a.example", "a.example/x", "u@a.example", "a.example:65536", "*.127.0.0.1"] {
            bad.parse::<HostRule>().unwrap_err();
        }
        assert_eq!("*.Shop.example:8443".parse::<HostRule>().unwrap().to_string(), "*.shop.example:8443");
    }
}
