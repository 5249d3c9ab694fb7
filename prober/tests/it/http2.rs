//! Failures specific to HTTP/2: reset streams, ended connections, oversized heads.

use picket_harness::targets::{CertificateAuthority, Step, Target, TlsQuirk, Validity};
use picket_prober::check::Observation;
use picket_proto::{Cause, CheckRequest, Outcome};

use crate::{
    http::assert_down,
    phases::{certify_localhost, trusting_checker},
};

async fn check_path(path: &str, with: impl FnOnce(CheckRequest) -> CheckRequest) -> Observation {
    let authority = CertificateAuthority::new();
    let target = Target::serve_http2(&certify_localhost(&authority)).await;
    let request = CheckRequest { timeout_ms: 2_000, ..CheckRequest::new(target.localhost_url(path)) };
    trusting_checker(&authority).run_check(&with(request).validate().unwrap()).await
}

#[tokio::test]
async fn a_stream_or_connection_that_the_server_ends_is_down_by_http() {
    for (path, message) in [
        (
            "/refuse",
            "the server reset the HTTP/2 stream (RST_STREAM, REFUSED_STREAM) (waiting for the first byte)",
        ),
        (
            "/break",
            "the server reset the HTTP/2 stream (RST_STREAM, INTERNAL_ERROR) (reading the body: 6 bytes came)",
        ),
        ("/go-away", "connection closed before the answer was complete (waiting for the first byte)"),
    ] {
        let seen = check_path(path, |request| request).await;
        assert_down(&seen, Cause::Http, message);
        assert!(seen.timing.tls_us.is_some() && seen.timing.first_byte_us.is_some(), "{seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_streams_is_down_by_http() {
    let authority = CertificateAuthority::new();
    // Its settings, then a farewell from before our request, with the reason "calm down".
    let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";
    let steps = move |_: &str| vec![Step::send(frames), Step::wait_ms(100)];
    let target = Target::serve_script_http2(&certify_localhost(&authority), steps).await;

    let seen = trusting_checker(&authority)
        .run_check(&CheckRequest::new(target.localhost_url("/")).validate().unwrap())
        .await;

    let message =
        "the server ended the HTTP/2 connection (GOAWAY, ENHANCE_YOUR_CALM) (waiting for the first byte)";
    assert_down(&seen, Cause::Http, message);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_down_by_http() {
    let seen = check_path("/headers/10000", |request| request).await;
    assert_down(&seen, Cause::Http, "HTTP/2, or its head is larger than 256 KiB (PROTOCOL_ERROR)");

    let seen = check_path("/headers/400", |request| request).await;
    assert_eq!(seen.outcome, Outcome::Up, "{seen:?}");
}

#[tokio::test]
async fn an_http_2_body_is_read_and_matched() {
    let seen =
        check_path("/large/90000", |request| CheckRequest { regex: Some("^x{90}x+$".into()), ..request })
            .await;
    assert_eq!(
        (seen.outcome, seen.body_bytes, seen.http_version),
        (Outcome::Up, 90_000, Some("2")),
        "{seen:?}"
    );
    let seen =
        check_path("/large/9000000", |request| CheckRequest { regex: Some("end".into()), ..request }).await;
    assert_down(&seen, Cause::BodyTooLarge, "regex is not decided after the first 100000 bytes");
    let seen =
        check_path("/trailers", |request| CheckRequest { regex: Some("well$".into()), ..request }).await;
    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 11), "{seen:?}");
    let seen = check_path("/never", |request| CheckRequest { timeout_ms: 300, ..request }).await;
    assert_down(&seen, Cause::Timeout, "no answer within 300 ms (waiting for the first byte)");
}

#[tokio::test]
async fn a_server_limited_to_tls_1_2_is_up() {
    let authority = CertificateAuthority::new();
    let identity = authority.issue_identity(&["localhost"], Validity::Current);
    let target = Target::serve_odd_https(&identity, TlsQuirk::Tls12Only).await;

    let seen = trusting_checker(&authority)
        .run_check(&CheckRequest::new(target.localhost_url("/ok")).validate().unwrap())
        .await;

    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("1.1")), "{seen:?}");
    assert!(seen.timing.tls_us.is_some());
}
