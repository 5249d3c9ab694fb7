//! Where a check connects, and what it negotiates there, if its options say so.

use std::{io, net::IpAddr, sync::Arc};

use picket_harness::targets::{CertificateAuthority, Identity, Step, Target, TlsQuirk, Validity};
use picket_prober::check::{CheckLimits, Checker, ClientOptions, Observation};
use picket_proto::{Cause, CheckRequest, HttpOptions, IpVersion, Outcome, http_options::HttpVersion};

use crate::http::{assert_down, test_limits};

/// A checker that trusts `authority`, may go to 127.0.0.1 alone, and knows these names.
fn build_checker(authority: &CertificateAuthority, names: &[(&'static str, &[&str])]) -> Checker {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let limits = CheckLimits {
        allowed_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ca_file: Some(file.path().to_owned()),
        ..test_limits()
    };
    let parse = |address: &&str| address.parse::<IpAddr>().unwrap();
    let names: Vec<(&str, Vec<IpAddr>)> =
        names.iter().map(|(name, addresses)| (*name, addresses.iter().map(parse).collect())).collect();
    let lookup = move |asked: &str| {
        let known = names.iter().find(|(name, _)| *name == asked);
        known.map(|(_, addresses)| addresses.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let options =
        ClientOptions { lookup: Arc::new(lookup), name_servers: Vec::new(), ..ClientOptions::default() };
    Checker::with_options(&limits, options).unwrap()
}

fn connecting_to(url: &str, connect_to: impl ToString) -> CheckRequest {
    let options = HttpOptions { connect_to: Some(connect_to.to_string()), ..HttpOptions::default() };
    CheckRequest { options, ..CheckRequest::new(url) }
}

async fn check(checker: &Checker, request: &CheckRequest) -> Observation {
    checker.run_check(&request.validate().unwrap()).await
}

fn certify(authority: &CertificateAuthority, name: &str) -> Identity {
    authority.issue_identity(&[name], Validity::Current)
}

/// The `Host` of the last request to `target`.
fn last_host(target: &Target) -> String {
    let request = target.received_requests().pop().unwrap();
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| name.eq_ignore_ascii_case("host")).unwrap().1.to_owned()
}

#[tokio::test]
async fn connect_to_changes_the_place_and_nothing_of_the_request() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let checker = build_checker(&CertificateAuthority::new(), &[("origin.example", &["127.0.0.1"])]);

    for (url, connect_to, host) in [
        ("http://shop.example/ok".to_owned(), format!("127.0.0.1:{port}"), "shop.example".to_owned()),
        ("http://shop.example:81/ok".to_owned(), format!("127.0.0.1:{port}"), "shop.example:81".to_owned()),
        (format!("http://shop.example:{port}/ok"), "127.0.0.1".to_owned(), format!("shop.example:{port}")),
        ("http://shop.example/ok".to_owned(), format!("origin.example:{port}"), "shop.example".to_owned()),
        // Not even an address in the URL is connected to.
        ("http://203.0.113.9/ok".to_owned(), format!("127.0.0.1:{port}"), "203.0.113.9".to_owned()),
        ("http://[2001:db8::9]:81/ok".to_owned(), format!("0x7f.1:{port}"), "[2001:db8::9]:81".to_owned()),
    ] {
        let seen = check(&checker, &connecting_to(&url, &connect_to)).await;

        assert_eq!(
            (seen.outcome, seen.remote_addr),
            (Outcome::Up, Some(target.address())),
            "{url}: {seen:?}"
        );
        assert_eq!(last_host(&target), host);
        assert_eq!(seen.timing.dns_us.is_some(), connect_to.starts_with("origin"), "{seen:?}");
        assert!(seen.timing.connect_us.is_some() && seen.timing.first_byte_us.is_some(), "{seen:?}");
        assert_eq!((seen.http_version, seen.body_bytes), (Some("1.1"), 11));
    }
}

#[tokio::test]
async fn tls_is_verified_for_the_name_in_the_url_wherever_the_check_connects() {
    let authority = CertificateAuthority::new();
    let checker = build_checker(&authority, &[("origin.example", &["127.0.0.1"])]);
    let target = Target::serve_http2(&certify(&authority, "shop.example")).await;
    let other = Target::serve_https(&certify(&authority, "origin.example")).await;

    let seen = check(&checker, &connecting_to("https://shop.example/ok", target.address())).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
    assert_eq!(seen.http_version, Some("2"));
    assert!(seen.timing.tls_us.is_some() && seen.tls_expires_at.is_some(), "{seen:?}");
    assert!(target.received_requests()[0].starts_with("GET https://shop.example/ok HTTP/2"));

    let there = format!("origin.example:{}", other.address().port());
    let seen = check(&checker, &connecting_to("https://shop.example/ok", &there)).await;
    assert_down(&seen, Cause::Tls, "certificate is for origin.example, not shop.example");
    let unverified =
        CheckRequest { tls_verify: false, ..connecting_to("https://shop.example/ok", other.address()) };
    let seen = check(&checker, &unverified).await;
    assert_eq!((seen.outcome, last_host(&other).as_str()), (Outcome::Up, "shop.example"), "{seen:?}");
}

#[tokio::test]
async fn connect_to_leads_to_no_address_that_is_not_allowed() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let private = tokio::net::TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let names: &[(&str, &[&str])] =
        &[("private.example", &["127.0.0.2"]), ("mixed.example", &["127.0.0.2", "127.0.0.1"])];
    let checker = build_checker(&CertificateAuthority::new(), names);

    for place in
        ["127.0.0.2", "2130706434", "0x7f.2", "[::ffff:127.0.0.2]", "[::1]", "private.example", "10.0.0.1"]
    {
        // The address of the URL itself is allowed.
        let url = format!("http://127.0.0.1:{port}/ok");
        let seen = check(&checker, &connecting_to(&url, format!("{place}:{port}"))).await;
        assert_down(&seen, Cause::Blocked, "checks may not connect");
        assert_eq!(seen.timing.connect_us, None, "{place}");
    }
    assert_eq!(target.accepted_connections(), 0);
    let seen = check(&checker, &connecting_to("http://a.example/ok", format!("mixed.example:{port}"))).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
    assert!(futures_util::FutureExt::now_or_never(private.accept()).is_none());
}

#[tokio::test]
async fn connect_to_keeps_to_the_ip_version() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let checker =
        build_checker(&CertificateAuthority::new(), &[("both.example", &["2001:db8::1", "127.0.0.1"])]);
    let request = |place: &str, ip_version| CheckRequest {
        ip_version,
        ..connecting_to("http://a.example/ok", format!("{place}:{port}"))
    };

    let seen = check(&checker, &request("both.example", IpVersion::V4)).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
    let seen = check(&checker, &request("127.0.0.1", IpVersion::V6)).await;
    assert_down(&seen, Cause::Dns, "127.0.0.1 is no IPv6 address");
}

#[tokio::test]
async fn a_failed_connection_names_the_place_that_it_went_to() {
    let closed = Target::closed_address().await;
    let checker = build_checker(&CertificateAuthority::new(), &[]);

    let seen = check(&checker, &connecting_to("https://shop.example/", closed)).await;
    assert_down(&seen, Cause::Connect, &format!("connection refused (connecting to {closed})"));
    let seen = check(&checker, &connecting_to("https://shop.example/", "nowhere.example")).await;
    assert_down(&seen, Cause::Dns, "could not resolve nowhere.example");
}

#[tokio::test]
async fn only_the_origin_of_the_url_is_connected_elsewhere() {
    let (own, other) = (Target::serve_http().await, Target::serve_http().await);
    let checker = build_checker(&CertificateAuthority::new(), &[("other.example", &["127.0.0.1"])]);
    let back = "http://shop.example/ok";
    let there = format!("http://other.example:{}/to/{back}", other.address().port());
    let options = HttpOptions {
        connect_to: Some(own.address().to_string()),
        host_header: Some("virtual.example".into()),
        ..HttpOptions::default()
    };
    let request = CheckRequest { options, ..CheckRequest::new(format!("http://shop.example/to/{there}")) };

    let seen = check(&checker, &request).await;

    assert_eq!(
        (seen.outcome, seen.redirects, seen.remote_addr),
        (Outcome::Up, 2, Some(own.address())),
        "{seen:?}"
    );
    assert_eq!(own.received_requests().len(), 2, "the way back leads there too");
    assert!(own.received_requests().iter().all(|request| request.contains("host: virtual.example\r\n")));
    assert_eq!(last_host(&other), format!("other.example:{}", other.address().port()));

    // The same name with another port or scheme is another origin.
    let elsewhere = format!("http://shop.example/to/http://shop.example:{}/ok", other.address().port());
    let seen = check(&checker, &connecting_to(&elsewhere, own.address())).await;
    assert_down(&seen, Cause::Dns, "could not resolve shop.example");
}

#[tokio::test]
async fn host_header_names_a_virtual_host_in_either_version_of_http() {
    let authority = CertificateAuthority::new();
    let checker = build_checker(&authority, &[]);
    let plain = Target::serve_http().await;
    let https = Target::serve_https(&certify(&authority, "127.0.0.1")).await;
    let http2 = Target::serve_http2(&certify(&authority, "127.0.0.1")).await;
    let request = |target: &Target, host: &str| {
        let options = HttpOptions { host_header: Some(host.into()), ..HttpOptions::default() };
        CheckRequest { options, ..CheckRequest::new(target.url("/ok")) }
    };

    for host in ["virtual.example", "virtual_host.example:8080", "[2001:db8::1]:80"] {
        for target in [&plain, &https] {
            let seen = check(&checker, &request(target, host)).await;
            assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
            assert_eq!(last_host(target), host);
        }
        let seen = check(&checker, &request(&http2, host)).await;
        assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("2")), "{seen:?}");
        let seen = http2.received_requests().pop().unwrap();
        assert!(seen.starts_with(&format!("GET https://{host}/ok HTTP/2")), "{seen}");
        assert!(!seen.contains("\"host\""), "{seen}");
    }
    let seen = check(&checker, &request(&http2, "a:b:c")).await;
    assert_down(&seen, Cause::Invalid, "options.host_header cannot be sent with HTTP/2");
}

fn with_version(url: String, http_version: HttpVersion) -> CheckRequest {
    let options = HttpOptions { http_version, ..HttpOptions::default() };
    CheckRequest { options, ..CheckRequest::new(url) }
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_version_asked_for_is_down_by_http() {
    let authority = CertificateAuthority::new();
    let checker = build_checker(&authority, &[("localhost", &["127.0.0.1"])]);
    let identity = || certify(&authority, "localhost");
    let http1 = Target::serve_https(&identity()).await;
    let http2 = Target::serve_http2(&identity()).await;
    let other = Target::serve_odd_https(&identity(), TlsQuirk::OtherProtocol).await;

    for (target, version, spoken) in [(&http1, HttpVersion::Http1, "1.1"), (&http2, HttpVersion::Http2, "2")]
    {
        let seen = check(&checker, &with_version(target.localhost_url("/ok"), version)).await;
        assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some(spoken)), "{seen:?}");
        let phases =
            [seen.timing.dns_us, seen.timing.connect_us, seen.timing.tls_us, seen.timing.first_byte_us];
        assert!(phases.iter().all(Option::is_some), "{seen:?}");
    }
    for (target, version, message) in [
        (&http1, HttpVersion::Http2, "the server does not speak HTTP/2"),
        (&other, HttpVersion::Http2, "the server does not speak HTTP/2"),
        (&http2, HttpVersion::Http1, "the server does not speak HTTP/1.1"),
    ] {
        let seen = check(&checker, &with_version(target.localhost_url("/ok"), version)).await;
        assert_down(&seen, Cause::Http, message);
        assert!(seen.timing.tls_us.is_some() && seen.timing.first_byte_us.is_none(), "{seen:?}");
    }
    let plain =
        Target::serve_script(|_| vec![Step::send("HTTP/1.1 400 Bad Request\r\n\r\n"), Step::Stall]).await;
    let seen = check(&checker, &with_version(plain.localhost_url("/"), HttpVersion::Http2)).await;
    assert_down(&seen, Cause::Http, "the server does not speak HTTP/2");
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_to_a_server_that_is_known_to_speak_it() {
    let target = Target::serve_plain_http2().await;
    let checker = build_checker(&CertificateAuthority::new(), &[]);

    let seen = check(&checker, &with_version(target.url("/large/90000"), HttpVersion::Http2)).await;

    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("2")), "{seen:?}");
    assert_eq!((seen.remote_addr, seen.timing.tls_us), (Some(target.address()), None));
    let seen = check(&checker, &with_version(target.url("/ok"), HttpVersion::Any)).await;
    assert_eq!(seen.cause, Some(Cause::Http), "without the option the check speaks HTTP/1.1: {seen:?}");
}

#[tokio::test]
async fn a_version_is_asked_for_at_each_hop() {
    let authority = CertificateAuthority::new();
    let checker = build_checker(&authority, &[]);
    let other = Target::serve_https(&certify(&authority, "127.0.0.1")).await;
    let first = Target::serve_https(&certify(&authority, "127.0.0.1")).await;
    let url = first.url(&format!("/to/{}", other.url("/ok")));

    let seen = check(&checker, &with_version(url.clone(), HttpVersion::Http1)).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");
    let seen = check(&checker, &with_version(url, HttpVersion::Http2)).await;
    assert_down(&seen, Cause::Http, "the server does not speak HTTP/2");
}

/// The limits of checks without options hold on these connections as well.
#[tokio::test]
async fn a_flood_on_such_a_connection_is_down_by_http() {
    let authority = CertificateAuthority::new();
    let checker = build_checker(&authority, &[]);
    let hints = vec![Step::Repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())];
    let frames =
        vec![Step::send(b"\0\0\0\x04\0\0\0\0\0"), Step::Repeat(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01".to_vec())];
    let plain = Target::serve_script({
        let hints = hints.clone();
        move |_| hints.clone()
    })
    .await;
    let https = Target::serve_script_https(&certify(&authority, "a.example"), move |_| hints.clone()).await;
    let http2 = Target::serve_script_http2(&certify(&authority, "a.example"), move |_| frames.clone()).await;

    for (url, target, message) in [
        ("http://a.example/", &plain, "the server sent more than 1024 KiB and no final answer among them"),
        ("https://a.example/", &https, "the server sent more than 1024 KiB and no final answer among them"),
        ("https://a.example/", &http2, "HTTP/2 frames beside the body, the last one of type WINDOW_UPDATE"),
    ] {
        let seen = check(&checker, &connecting_to(url, target.address())).await;
        assert_down(&seen, Cause::Http, message);
    }
}

#[tokio::test]
async fn a_check_with_options_sends_what_others_send_and_ends_in_time() {
    let target = Target::serve_http().await;
    let checker = build_checker(&CertificateAuthority::new(), &[]);
    let post = CheckRequest {
        method: "POST".into(),
        headers: [("X-Own".to_owned(), "1".to_owned())].into(),
        body: Some("the body".into()),
        ..connecting_to("http://a.example/echo/a?q=1", target.address())
    };

    assert_eq!(check(&checker, &post).await.outcome, Outcome::Up);
    let sent = target.received_requests().pop().unwrap();
    assert!(sent.starts_with("POST /echo/a?q=1 HTTP/1.1\r\n"), "{sent}");
    for part in [
        "x-own: 1\r\n",
        "accept: */*\r\n",
        "user-agent: Picket/",
        "content-length: 8\r\n",
        "\r\n\r\nthe body",
    ] {
        assert!(sent.contains(part), "{part}: {sent}");
    }
    let late = CheckRequest { timeout_ms: 300, ..connecting_to("http://a.example/drip", target.address()) };
    assert_down(
        &check(&checker, &late).await,
        Cause::Timeout,
        "no answer within 300 ms (waiting for the first byte)",
    );
    picket_harness::eventually(crate::bus::STATE_TIMEOUT, "no connection left", async || {
        match target.open_connections() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}
