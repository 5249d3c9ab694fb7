//! The client of a request: its address and whether it uses https, also behind reverse proxies.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Headers that reverse proxies and content delivery networks add to the requests of their clients. Each of them
/// alone shows that a request came from elsewhere.
const FORWARDING_HEADERS: [&str; 14] = [
    "cdn-loop",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-host",
    "x-original-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-scheme",
];
/// Beginnings of the names of further such headers, such as X-Forwarded-Proto and CF-Connecting-IP.
const FORWARDING_PREFIXES: [&str; 5] = ["cf-", "x-amzn-", "x-envoy-", "x-forwarded", "x-original-forwarded"];

/// True for the name of a header that a proxy adds. Header names are lower case.
fn is_forwarding_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORWARDING_HEADERS.contains(&name) || FORWARDING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// Address of the client, by the forwarding headers of trusted proxies.
    pub(crate) address: Option<IpAddr>,
    /// True if the client's connection uses https, as a trusted proxy says.
    pub(crate) is_https: bool,
    /// True if the request came through a reverse proxy, trusted or not.
    pub(crate) is_forwarded: bool,
}

impl Client {
    /// Addresses are believed from right to left, as far as each was added by a trusted proxy.
    pub(crate) fn resolve(peer: Option<SocketAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
        let mut address = peer.map(|peer| peer.ip().to_canonical());
        let is_peer_trusted = address.as_ref().is_some_and(is_trusted);
        if is_peer_trusted {
            let forwarded = headers.get_all("x-forwarded-for").into_iter().rev();
            for hop in forwarded.flat_map(|value| value.to_str().unwrap_or("?").rsplit(',')) {
                // An unreadable address ends the search: those to the left of it may be forged.
                let Some(hop) = parse_address(hop.trim()) else { break };
                address = Some(hop);
                if !is_trusted(&hop) {
                    break;
                }
            }
        }
        let last_protocol = headers.get_all("x-forwarded-proto").into_iter().next_back();
        let last_protocol =
            last_protocol.and_then(|value| value.to_str().ok()?.rsplit(',').next().map(str::trim));
        Self {
            address,
            is_https: is_peer_trusted && last_protocol.is_some_and(|name| name.eq_ignore_ascii_case("https")),
            is_forwarded: headers.keys().any(is_forwarding_header),
        }
    }

    /// True if cookies of this client carry `Secure`: always, but for requests within this machine.
    pub(crate) fn is_secure(&self, is_local: bool) -> bool {
        self.is_https || !is_local
    }
}

/// Parses an address with or without a port, such as `[2001:db8::1]:443`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse());
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(peer: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> Client {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        Client::resolve(Some(SocketAddr::new(peer.parse().unwrap(), 1)), &map, &trusted)
    }

    #[test]
    fn an_address_is_believed_only_from_trusted_proxies_and_from_right_to_left() {
        let proxy = "10.0.0.0/8";
        for (peer, forwarded, trusted, address) in [
            ("192.0.2.1", "198.51.100.7", &[proxy][..], "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", &[proxy], "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7", &[], "10.0.0.1"),
            // The client itself sent the first address.
            ("10.0.0.1", "127.0.0.1, 198.51.100.7, 10.0.0.2", &[proxy], "198.51.100.7"),
            ("10.0.0.1", "127.0.0.1, unknown", &[proxy], "10.0.0.1"),
            ("10.0.0.1", "[2001:db8::1]:443", &[proxy], "2001:db8::1"),
            ("::ffff:10.0.0.1", "2001:db8::1", &[proxy], "2001:db8::1"),
        ] {
            let client = resolve(peer, &[("x-forwarded-for", forwarded)], trusted);
            assert_eq!(client.address, Some(address.parse().unwrap()), "{peer} {forwarded}");
            assert!(client.is_forwarded);
        }
    }

    #[test]
    fn the_addresses_of_several_header_lines_are_read_from_the_last_line_on() {
        let client = resolve(
            "10.0.0.1",
            &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.7")],
            &["10.0.0.0/8"],
        );

        assert_eq!(client.address, Some("198.51.100.7".parse().unwrap()));
    }

    #[test]
    fn any_usual_header_of_a_proxy_alone_shows_that_a_request_was_forwarded() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded",
            "x-real-ip",
            "via",
            "cf-connecting-ip",
            "cf-ray",
            "true-client-ip",
            "x-amzn-trace-id",
            "x-envoy-external-address",
        ] {
            assert!(resolve("127.0.0.1", &[(name, "x")], &[]).is_forwarded, "{name}");
        }
        let own = [("host", "localhost"), ("user-agent", "curl"), ("accept", "*/*"), ("x-request-id", "1")];
        assert!(!resolve("127.0.0.1", &own, &[]).is_forwarded);
    }

    #[test]
    fn https_is_believed_only_from_a_trusted_proxy() {
        let header = [("x-forwarded-proto", "http, https")];

        assert!(resolve("10.0.0.1", &header, &["10.0.0.1/32"]).is_https);
        assert!(!resolve("10.0.0.2", &header, &["10.0.0.1/32"]).is_https);
        assert!(!resolve("10.0.0.1", &[], &["10.0.0.1/32"]).is_https);
    }
}
