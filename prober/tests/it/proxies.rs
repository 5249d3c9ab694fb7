//! Proxies, which sites name and probers have.

use std::net::SocketAddr;

use picket_harness::targets::{CertificateAuthority, ConnectProxy, ProxyBehaviour, Step, Target};
use picket_prober::{
    SecretsOptions,
    check::{CheckLimits, Checker, ClientOptions},
};
use picket_proto::{Cause, CheckRequest, CheckResult, HttpOptions, Outcome, subject};
use picket_runtime::Secrets;

use crate::{
    bus::TestRegion,
    http::{assert_down, test_limits},
    named_files::{Prober, certify, write_private},
};

/// A prober with `proxy.office` at `address`.
fn prober_behind(authority: &CertificateAuthority, address: SocketAddr, login: &str) -> Prober {
    let toml = format!("[proxy.office]\nurl = \"http://{address}\"\n{login}");
    Prober::new(authority, &toml, &[])
}

const BY_PROXY: &str = r#"{"proxy": "office"}"#;

#[tokio::test]
async fn a_proxy_resolves_the_name_and_tls_is_the_sites_own() {
    let authority = CertificateAuthority::new();
    let https = Target::serve_http2(&certify(&authority, "shop.example")).await;
    let other = Target::serve_https(&certify(&authority, "other.example")).await;
    let plain = Target::serve_http().await;
    let names = [
        ("shop.example:443", https.address()),
        ("wrong.example:8443", other.address()),
        ("plain.example:80", plain.address()),
    ];
    let proxy = ConnectProxy::start(&names, ProxyBehaviour::Forward).await;
    let prober = prober_behind(&authority, proxy.address(), "");

    let seen = prober.check("https://shop.example/ok", BY_PROXY).await;
    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("2")), "{seen:?}");
    assert_eq!((seen.remote_addr, seen.timing.dns_us), (Some(proxy.address()), None));
    assert!(
        seen.timing.connect_us.is_some() && seen.timing.tls_us.is_some() && seen.tls_expires_at.is_some()
    );
    assert_eq!(
        proxy.received_requests(),
        ["CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n"]
    );
    let seen = prober.check("https://wrong.example:8443/ok", BY_PROXY).await;
    assert_down(&seen, Cause::Tls, "certificate is for other.example, not wrong.example");

    let seen = prober.check("http://plain.example/echo/a?q=1", BY_PROXY).await;
    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("1.1")), "{seen:?}");
    let sent = proxy.received_requests().pop().unwrap();
    assert!(sent.starts_with("GET http://plain.example/echo/a?q=1 HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("host: plain.example\r\n"), "{sent}");

    // Each hop goes through the proxy.
    let seen = prober.check("http://plain.example/to/https://shop.example/ok", BY_PROXY).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");
    assert_eq!(proxy.received_requests().len(), 5);
}

#[tokio::test]
async fn the_password_of_a_proxy_is_sent_to_the_proxy_alone() {
    let authority = CertificateAuthority::new();
    let (https, plain) =
        (Target::serve_https(&certify(&authority, "shop.example")).await, Target::serve_http().await);
    let names = [("shop.example:443", https.address()), ("plain.example:80", plain.address())];
    let expected = ProxyBehaviour::RequireCredentials("Basic bWU6cGFzc3dvcmQ=".into());
    let proxy = ConnectProxy::start(&names, expected).await;
    let login = "user = \"me\"\npassword = \"password\"";
    let knowing = prober_behind(&authority, proxy.address(), login);
    let wrong =
        prober_behind(&authority, proxy.address(), &login.replace("\"password\"", "\"other-password\""));

    for url in ["https://shop.example/ok", "http://plain.example/ok"] {
        let seen = knowing.check(url, BY_PROXY).await;
        assert_eq!(seen.outcome, Outcome::Up, "{url}: {seen:?}");
        let seen = wrong.check(url, BY_PROXY).await;
        assert_down(&seen, Cause::SecretUnavailable, "proxy 'office' requires other credentials");
        assert_eq!(seen.http_status, None);
    }
    for target in [https, plain] {
        let requests = target.received_requests();
        assert_eq!(requests.len(), 1);
        assert!(!requests[0].to_lowercase().contains("proxy-authorization"), "{requests:?}");
    }
}

#[tokio::test]
async fn trouble_of_a_proxy_says_nothing_of_the_site_and_trouble_behind_it_does() {
    let authority = CertificateAuthority::new();
    let closed = Target::closed_address().await;
    let respond = |text: &str| ProxyBehaviour::Respond(text.as_bytes().to_vec());
    for (behaviour, cause, message) in [
        (
            ProxyBehaviour::Forward,
            Cause::Connect,
            "proxy 'office' could not connect to shop.example:443 (status 502)",
        ),
        (
            respond("HTTP/1.1 503 Busy\r\n\r\n"),
            Cause::Connect,
            "could not connect to shop.example:443 (status 503)",
        ),
        (
            respond("HTTP/1.1 504 Late\r\n\r\n"),
            Cause::Connect,
            "could not connect to shop.example:443 (status 504)",
        ),
        (
            respond("HTTP/1.1 403 No\r\n\r\n"),
            Cause::SourceUnavailable,
            "refused to connect to shop.example:443 (status 403)",
        ),
        (respond("HTTP/1.1 407 Who\r\n\r\n"), Cause::SecretUnavailable, "requires other credentials"),
        (
            respond("SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            Cause::SourceUnavailable,
            "did not answer CONNECT as a proxy does",
        ),
        (respond(&"x".repeat(20_000)), Cause::SourceUnavailable, "did not answer CONNECT as a proxy does"),
        (respond(""), Cause::SourceUnavailable, "proxy 'office': connection closed"),
        (
            ProxyBehaviour::Stall,
            Cause::SourceUnavailable,
            "proxy 'office': no response, and none to a request for the proxy itself (waiting for the proxy to \
             connect)",
        ),
        // It responds to requests for itself: the site leaves it waiting.
        (
            ProxyBehaviour::StallMethods(&["CONNECT"]),
            Cause::Timeout,
            "no answer within 5 s (waiting for the proxy to connect)",
        ),
    ] {
        let proxy = ConnectProxy::start(&[("shop.example:443", closed)], behaviour).await;
        let seen =
            prober_behind(&authority, proxy.address(), "").check("https://shop.example/", BY_PROXY).await;
        assert_down(&seen, cause, message);
        assert!(seen.timing.connect_us.is_some() && seen.timing.tls_us.is_none(), "{seen:?}");
    }
    for url in ["https://shop.example/", "http://shop.example/"] {
        let seen = prober_behind(&authority, closed, "").check(url, BY_PROXY).await;
        let message = format!("proxy 'office': connection refused (connecting to {closed})");
        assert_down(&seen, Cause::SourceUnavailable, &message);
        let seen = prober_behind(&authority, closed, "").check(url, r#"{"proxy": "other"}"#).await;
        assert_down(&seen, Cause::SecretUnavailable, "proxy 'other' is not in the secrets file");
    }
}

#[tokio::test]
async fn a_proxy_that_forwards_no_request_says_nothing_of_the_site_and_a_silent_site_is_down() {
    let authority = CertificateAuthority::new();
    let plain = Target::serve_http().await;
    let names = [("plain.example:80", plain.address())];
    let no_response =
        "proxy 'office': no response, and none to a request for the proxy itself (waiting for the first";
    for (behaviour, path, cause, message) in [
        (ProxyBehaviour::Stall, "/ok", Cause::SourceUnavailable, no_response),
        (ProxyBehaviour::Respond(Vec::new()), "/ok", Cause::SourceUnavailable, no_response),
        (ProxyBehaviour::Respond(b"SSH-2.0-x\r\n".to_vec()), "/ok", Cause::SourceUnavailable, no_response),
        (ProxyBehaviour::StallMethods(&["OPTIONS"]), "/never", Cause::SourceUnavailable, no_response),
        (
            ProxyBehaviour::Forward,
            "/never",
            Cause::Timeout,
            "no answer within 1 s (waiting for the first byte)",
        ),
        (ProxyBehaviour::Forward, "/close", Cause::Http, "(waiting for the first byte)"),
        (ProxyBehaviour::Forward, "/drip-body", Cause::Timeout, "no end of the body within 1 s"),
    ] {
        let proxy = ConnectProxy::start(&names, behaviour.clone()).await;
        let prober = prober_behind(&authority, proxy.address(), "");
        let seen = prober.check_within(format!("http://plain.example{path}"), BY_PROXY, 1_000).await;
        assert_down(&seen, cause, message);
        // The time in which the proxy was probed is not the site's.
        let total = seen.timing.total_us.unwrap();
        assert!(total < 1_900_000, "{behaviour:?}: {total}");
        let probes =
            proxy.received_requests().into_iter().filter(|request| request.starts_with("OPTIONS * "));
        assert_eq!(probes.count(), usize::from(path != "/drip-body"), "{behaviour:?} {path}");
    }
}

#[tokio::test]
async fn a_site_that_responds_407_through_a_proxy_is_judged_by_its_status() {
    let authority = CertificateAuthority::new();
    let (https, plain) =
        (Target::serve_https(&certify(&authority, "shop.example")).await, Target::serve_http().await);
    let names = [("shop.example:443", https.address()), ("plain.example:80", plain.address())];
    let proxy = ConnectProxy::start(&names, ProxyBehaviour::Forward).await;
    let prober = prober_behind(&authority, proxy.address(), "");

    for url in ["https://shop.example/status/407", "http://plain.example/status/407"] {
        let seen = prober.check(url, BY_PROXY).await;
        assert_down(&seen, Cause::Status, "status 407, not 200-299");
        assert_eq!((seen.outcome, seen.http_status), (Outcome::Down, Some(407)), "{url}");
    }
    // A challenge behind a proxy that forwards cannot be told from one of the proxy.
    let challenge = b"HTTP/1.1 407 Who\r\nproxy-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n";
    let challenging = Target::serve_script(|_| vec![Step::Send(challenge.to_vec())]).await;
    let names = [("plain.example:80", challenging.address())];
    let proxy = ConnectProxy::start(&names, ProxyBehaviour::Forward).await;
    let seen = prober_behind(&authority, proxy.address(), "").check("http://plain.example/", BY_PROXY).await;
    assert_down(&seen, Cause::SecretUnavailable, "proxy 'office' requires other credentials");
}

/// The operator named the proxy, so the rules for sites do not apply to its address.
#[tokio::test]
async fn a_proxy_may_be_at_an_address_that_checks_may_not_go_to() {
    let plain = Target::serve_http().await;
    let proxy = ConnectProxy::start(&[("a.example:80", plain.address())], ProxyBehaviour::Forward).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secrets.toml");
    let port = proxy.address().port();
    write_private(&file, &format!("[proxy.office]\nurl = \"http://localhost:{port}\""));
    let options = ClientOptions { secrets: Secrets::load(&file).unwrap(), ..ClientOptions::default() };
    let limits = CheckLimits { allowed_networks: Vec::new(), ..test_limits() };
    let checker = Checker::with_options(&limits, options).unwrap();
    let options = HttpOptions { proxy: Some("office".into()), ..HttpOptions::default() };
    let request = CheckRequest { options, ..CheckRequest::new("http://a.example/ok") };

    let seen = checker.run_check(&request.validate().unwrap()).await;

    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(proxy.address())), "{seen:?}");
}

#[tokio::test]
async fn an_ad_hoc_request_uses_a_proxy_only_where_the_prober_allows_it() {
    let plain = Target::serve_http().await;
    let proxy = ConnectProxy::start(&[("a.example:80", plain.address())], ProxyBehaviour::Forward).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secrets.toml");
    write_private(&file, &format!("[proxy.office]\nurl = \"http://{}\"", proxy.address()));
    let request = r#"{"url": "http://a.example/ok", "options": {"proxy": "office"}}"#;

    for (allowed, name) in [(false, "proxy-adhoc-no"), (true, "proxy-adhoc-yes")] {
        let region = TestRegion::on_shared_nats(name).await;
        let secrets = SecretsOptions { secrets_file: Some(file.clone()), adhoc_secrets: allowed };
        let _prober = region.start_ready_with("p1", 4, |config| config.secrets = secrets).await;

        let subject = subject::region_check(&region.region);
        let reply = region.bus.client.request(subject, request.into()).await.unwrap();
        let result: CheckResult = serde_json::from_slice(&reply.payload).unwrap();

        match allowed {
            true => assert_eq!(result.outcome, Outcome::Up, "{result:?}"),
            false => {
                assert_eq!(result.cause, Some(Cause::SecretUnavailable), "{result:?}");
                let message = result.message.unwrap();
                assert!(
                    message.contains("options.proxy: proxy 'office' is not for ad-hoc requests"),
                    "{message}"
                );
            }
        }
        assert_eq!(proxy.received_requests().len(), usize::from(allowed));
    }
}
