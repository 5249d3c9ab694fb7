//! Recognises requests from within this machine, for the open mode on loopback.
//!
//! A website that a person visits can send requests to loopback: to its own name that it lets resolve to
//! 127.0.0.1 (DNS rebinding), or to 127.0.0.1 from its pages. Both show in the headers.

use std::net::IpAddr;

use http::{HeaderMap, Uri, Version, header, uri::Authority};

use super::client::Client;

/// True if a program of this machine sent the request, on its own or for a person, and no website did.
pub(crate) fn is_local_request(client: &Client, version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    let is_loopback = client.address.is_some_and(|address| address.is_loopback());
    is_loopback
        && !client.is_forwarded
        // nginx without further configuration forwards by HTTP/1.0, under the name of the backend and without a
        // header of its own.
        && version >= Version::HTTP_11
        && !is_followed_from_elsewhere(headers)
        && find_host(uri, headers).is_some_and(|host| is_loopback_host(&host))
        && headers.get_all(header::ORIGIN).iter().all(|origin| {
            let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
            origin.is_some_and(|origin| origin.host().is_some_and(is_loopback_host))
        })
        && !is_sent_by_other_site(headers)
}

/// Host of a request without its port; `None` if it is missing, ambiguous or unreadable.
fn find_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(host) = uri.host() {
        return Some(host.to_owned());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().ok()?.parse::<Authority>().ok()?.host().to_owned()),
        _ => None,
    }
}

/// True for a loopback address, `localhost` and names below it, which no DNS server decides (RFC 6761).
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// True if the page that sent the request has another host than this machine although the browser took both for one
/// origin: a proxy has replaced the host.
fn is_followed_from_elsewhere(headers: &HeaderMap) -> bool {
    let is_same_origin = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"same-origin");
    is_same_origin
        && headers.get(header::REFERER).is_some_and(|page| {
            let page = page.to_str().ok().and_then(|page| page.parse::<Uri>().ok());
            page.is_none_or(|page| !page.host().is_some_and(is_loopback_host))
        })
}

/// True for what a page of another site loads, such as an image. A link that a person follows is none.
fn is_sent_by_other_site(headers: &HeaderMap) -> bool {
    let value_of = |name| headers.get(name).map(|value| value.as_bytes());
    match value_of("sec-fetch-site") {
        None | Some(b"same-origin" | b"none") => false,
        Some(_) => value_of("sec-fetch-mode") != Some(b"navigate"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn is_local(address: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let peer = SocketAddr::new(address.parse().unwrap(), 1);
        let client = Client::resolve(Some(peer), &map, &[]);
        is_local_request(&client, Version::HTTP_11, &Uri::from_static("/"), &map)
    }

    #[test]
    fn requests_to_a_loopback_name_from_loopback_are_local() {
        for host in
            ["127.0.0.1:8088", "localhost:8088", "LOCALHOST", "[::1]:8088", "127.8.0.1", "picket.localhost"]
        {
            assert!(is_local("127.0.0.1", &[("host", host)]), "{host}");
        }
        assert!(is_local("::1", &[("host", "localhost"), ("origin", "http://localhost:8088")]));
        assert!(is_local(
            "127.0.0.1",
            &[("host", "localhost"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
        ));
    }

    #[test]
    fn requests_of_a_website_or_through_a_proxy_are_not_local() {
        let host = ("host", "127.0.0.1:8088");
        for headers in [
            // A name that resolves to 127.0.0.1.
            &[("host", "rebound.example")][..],
            &[("host", "127.0.0.1.example")],
            &[("host", "notlocalhost")],
            &[],
            &[host, ("host", "rebound.example")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            &[host, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")],
            &[host, ("x-forwarded-for", "127.0.0.1")],
            &[host, ("x-forwarded-proto", "https")],
            &[host, ("forwarded", "proto=https")],
            &[host, ("cf-visitor", "{}")],
        ] {
            assert!(!is_local("127.0.0.1", headers), "{headers:?}");
        }
        assert!(!is_local("192.0.2.1", &[host]));
    }

    #[test]
    fn a_request_through_a_proxy_without_a_header_of_its_own_is_not_local() {
        let peer = SocketAddr::new("127.0.0.1".parse().unwrap(), 1);
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:8088".parse().unwrap());
        let client = Client::resolve(Some(peer), &headers, &[]);
        for (version, expected) in [(Version::HTTP_10, false), (Version::HTTP_11, true)] {
            let uri = Uri::from_static("/");
            assert_eq!(is_local_request(&client, version, &uri, &headers), expected, "{version:?}");
        }
        let host = ("host", "127.0.0.1:8088");
        let same = ("sec-fetch-site", "same-origin");
        assert!(!is_local("127.0.0.1", &[host, same, ("referer", "https://picket.example/sites")]));
        assert!(is_local("127.0.0.1", &[host, same, ("referer", "http://127.0.0.1:8088/sites")]));
    }
}
