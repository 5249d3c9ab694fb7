//! Observations of websites, and addresses that are refused.

use std::time::Duration;

use picket_harness::targets::Target;
use picket_prober::check::{CheckLimits, Checker, Observation};
use picket_proto::{Cause, CheckRequest, Outcome};
use tokio::time::Instant;

/// May go to loopback, and reads at most 100,000 bytes.
pub(crate) fn test_limits() -> CheckLimits {
    CheckLimits {
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ca_file: None,
        max_body_bytes: 100_000,
    }
}

pub(crate) async fn check_with_limits(request: &CheckRequest) -> Observation {
    let checker = Checker::new(&test_limits()).unwrap();
    checker.run_check(&request.validate().unwrap()).await
}

pub(crate) async fn get_request(url: String) -> Observation {
    check_with_limits(&CheckRequest::new(url)).await
}

#[track_caller]
pub(crate) fn assert_down(seen: &Observation, cause: Cause, message: &str) {
    assert_eq!((Some(seen.outcome), seen.cause), (cause.outcome(), Some(cause)), "{seen:?}");
    let said = seen.message.as_deref().unwrap_or_default();
    assert!(said.contains(message), "'{said}' does not say '{message}'");
}

#[tokio::test]
async fn a_healthy_site_is_up() {
    let target = Target::serve_http().await;

    let seen = get_request(target.url("/ok")).await;

    assert_eq!((seen.outcome, seen.cause, seen.message), (Outcome::Up, None, None));
    assert_eq!((seen.http_status, seen.http_version), (Some(200), Some("1.1")));
    assert_eq!(seen.remote_addr, Some(target.address()));
    assert_eq!((seen.body_bytes, seen.redirects, seen.regex_matched), (11, 0, None));
}

#[tokio::test]
async fn an_allowed_status_is_up_and_any_other_is_down() {
    let target = Target::serve_http().await;
    let request = CheckRequest::new(target.url("/status/503"));

    assert_down(&check_with_limits(&request).await, Cause::Status, "status 503, not 200-299");

    let lenient = CheckRequest { status: "503".into(), ..request };
    assert_eq!(check_with_limits(&lenient).await.outcome, Outcome::Up);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_down_by_dns() {
    let seen = get_request("http://no-such-host.invalid/".into()).await;

    assert_down(&seen, Cause::Dns, "could not resolve no-such-host.invalid");
    assert!(seen.timing.dns_us.is_some() && seen.timing.connect_us.is_none(), "{:?}", seen.timing);
}

#[tokio::test]
async fn a_closed_port_is_down_by_connect() {
    let seen = get_request(format!("http://{}/", Target::closed_address().await)).await;

    assert_down(&seen, Cause::Connect, "connection refused");
    assert!(seen.timing.connect_us.is_some() && seen.timing.first_byte_us.is_none(), "{:?}", seen.timing);
}

#[tokio::test]
async fn a_site_that_does_not_answer_in_time_is_down_by_timeout_and_the_phase_is_named() {
    let target = Target::serve_http().await;

    for (path, message) in [
        ("/never", "no answer within 300 ms (waiting for the first byte)"),
        ("/drip", "no answer within 300 ms (waiting for the first byte)"),
        ("/drip-body", "no end of the body within 300 ms (reading the body: 1 of 1000 bytes came)"),
        ("/slow-body/60000", "no end of the body within 300 ms (reading the body: 0 of 4 bytes came)"),
    ] {
        let request = CheckRequest { timeout_ms: 300, ..CheckRequest::new(target.url(path)) };
        let began = Instant::now();
        let seen = check_with_limits(&request).await;
        assert_down(&seen, Cause::Timeout, message);
        assert!(began.elapsed() < Duration::from_secs(3), "{path}: {:?}", began.elapsed());
        assert!(seen.timing.total_us >= Some(300_000), "{:?}", seen.timing);
        assert!(seen.timing.connect_us.is_some() && seen.timing.first_byte_us.is_some());
    }
}

#[tokio::test]
async fn a_matching_regex_is_up_and_any_other_is_down() {
    let target = Target::serve_http().await;
    let request = |regex: Option<&str>, not_regex: Option<&str>| CheckRequest {
        regex: regex.map(Into::into),
        not_regex: not_regex.map(Into::into),
        ..CheckRequest::new(target.url("/ok"))
    };

    let up = check_with_limits(&request(Some("is w[e]ll"), Some("error"))).await;
    assert_eq!((up.outcome, up.regex_matched), (Outcome::Up, Some(true)));

    let down = check_with_limits(&request(Some("is ill"), None)).await;
    assert_down(&down, Cause::Body, "regex does not match");
    assert_eq!(down.regex_matched, Some(false));

    assert_down(&check_with_limits(&request(None, Some("well"))).await, Cause::Body, "not_regex matches");
}

#[tokio::test]
async fn a_private_address_in_a_url_is_refused_in_every_notation() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let checker = Checker::new(&CheckLimits { allowed_networks: Vec::new(), ..test_limits() }).unwrap();

    for host in
        ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"]
    {
        let request = CheckRequest::new(format!("http://{host}:{port}/ok"));
        let seen = checker.run_check(&request.validate().unwrap()).await;
        assert_down(&seen, Cause::Blocked, "checks may not connect");
        assert_eq!((seen.outcome, seen.timing.connect_us), (Outcome::Missed, None), "{host}");
    }
    assert_eq!(target.accepted_connections(), 0);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let (target, private) = (Target::serve_http().await, Target::serve_http().await);
    let limits = CheckLimits { allowed_networks: vec!["127.0.0.1/32".parse().unwrap()], ..test_limits() };
    let checker = Checker::new(&limits).unwrap();
    let url = target.url(&format!("/to/http://127.0.0.2:{}/ok", private.address().port()));

    let seen = checker.run_check(&CheckRequest::new(url).validate().unwrap()).await;

    assert_down(&seen, Cause::Blocked, "checks may not connect to 127.0.0.2");
    assert_eq!(private.accepted_connections(), 0);
}

#[tokio::test]
async fn the_requested_ip_version_is_used() {
    let target = Target::serve_http().await;
    let request = |url: String, version: &str| {
        let version = picket_proto::IpVersion::parse(version).unwrap();
        CheckRequest { ip_version: version, ..CheckRequest::new(url) }
    };

    let seen = check_with_limits(&request(target.localhost_url("/ok"), "4")).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())));

    let seen = check_with_limits(&request(target.url("/ok"), "6")).await;
    assert_down(&seen, Cause::Dns, "127.0.0.1 is no IPv6 address");
}
