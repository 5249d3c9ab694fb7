//! Bodies: the limit of reading, decoding, and assertions.

use std::time::Duration;

use picket_harness::targets::{Step, Target, gzip_bomb};
use picket_prober::check::{CheckLimits, Checker, Observation};
use picket_proto::{Cause, CheckRequest, Outcome};
use tokio::time::Instant;

use crate::http::{assert_down, check_with_limits, get_request, test_limits};

async fn serve_encoded(coding: &str, body: &[u8]) -> Target {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = [head.as_bytes(), body].concat();
    Target::serve_script(move |_| vec![Step::Send(answer.clone())]).await
}

async fn serve_head_then(steps: Vec<Step>) -> Target {
    let steps = [vec![Step::send("HTTP/1.1 200 OK\r\n\r\n")], steps].concat();
    Target::serve_script(move |_| steps.clone()).await
}

fn request_matching(target: &Target, regex: Option<&str>, not_regex: Option<&str>) -> CheckRequest {
    CheckRequest {
        regex: regex.map(Into::into),
        not_regex: not_regex.map(Into::into),
        timeout_ms: 5_000,
        ..CheckRequest::new(target.url("/"))
    }
}

/// Checks, in less than the time allowed.
async fn check_decided_early(request: &CheckRequest) -> Observation {
    let began = Instant::now();
    let seen = check_with_limits(request).await;
    assert!(began.elapsed() < Duration::from_millis(4_000), "{seen:?}");
    seen
}

#[tokio::test]
async fn a_compressed_body_is_requested_and_matched_after_decoding() {
    let target = Target::serve_http().await;
    let request = CheckRequest {
        regex: Some("^compressed and well$".into()),
        ..CheckRequest::new(target.url("/gzip"))
    };

    assert_eq!(check_with_limits(&request).await.outcome, Outcome::Up);
    assert!(target.received_requests()[0].contains("accept-encoding: gzip, deflate\r\n"));

    let head = CheckRequest { method: "HEAD".into(), regex: None, ..request.clone() };
    assert_eq!(
        check_with_limits(&head).await.outcome,
        Outcome::Up,
        "an answer to HEAD has no body to decode"
    );
    let own = [("Accept-Encoding".to_owned(), "identity".to_owned())].into();
    check_with_limits(&CheckRequest { headers: own, ..request }).await;
    assert!(target.received_requests()[2].contains("accept-encoding: identity\r\n"));
}

#[tokio::test]
async fn a_body_that_contradicts_its_encoding_is_down_by_http() {
    for (coding, body, message) in [
        ("gzip", b"all is well".as_slice(), "the body is not what its content-encoding says: no valid gzip"),
        ("deflate", b"all is well", "the body is not what its content-encoding says: no valid deflate"),
        ("gzip", &[0x1f, 0x8b, 8, 0], "the body's gzip breaks off before its end"),
    ] {
        let target = serve_encoded(coding, body).await;
        assert_down(&get_request(target.url("/")).await, Cause::Http, message);
        assert_down(
            &check_with_limits(&request_matching(&target, Some("well"), None)).await,
            Cause::Http,
            message,
        );
    }
    let empty = serve_encoded("gzip", b"").await;
    assert_eq!(get_request(empty.url("/")).await.outcome, Outcome::Up, "no body needs no decoding");
}

#[tokio::test]
async fn an_unrequested_encoding_is_down_where_the_body_is_matched() {
    for coding in ["br", "zstd"] {
        let target = serve_encoded(coding, b"all is well").await;
        let seen = check_with_limits(&request_matching(&target, Some("well"), None)).await;
        let message = format!("the body's content-encoding is {coding}, which was not asked for");
        assert_down(&seen, Cause::Http, &message);
        assert_eq!(get_request(target.url("/")).await.outcome, Outcome::Up);
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_the_limit_and_matched_that_far() {
    let endless = serve_head_then(vec![Step::Repeat(vec![b'x'; 8 << 10])]).await;

    let seen = check_decided_early(&request_matching(&endless, Some("end"), None)).await;
    let undecided = "regex is not decided after the first 100000 bytes, and no more is read";
    assert_down(&seen, Cause::BodyTooLarge, undecided);
    assert_eq!((seen.body_bytes, seen.regex_matched), (100_000, None));
    let seen = check_decided_early(&request_matching(&endless, None, Some("error"))).await;
    assert_down(&seen, Cause::BodyTooLarge, "not_regex is not decided");
    let seen = check_decided_early(&request_matching(&endless, Some("x$"), None)).await;
    assert_down(&seen, Cause::BodyTooLarge, "regex is not decided");

    let target = Target::serve_http().await;
    let request =
        CheckRequest { regex: Some("end$".into()), ..CheckRequest::new(target.url("/large/99997")) };
    let seen = check_with_limits(&request).await;
    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 100_000), "the limit itself is within it");
}

#[tokio::test]
async fn a_compression_bomb_is_read_up_to_the_decoded_limit() {
    let target = serve_encoded("gzip", &gzip_bomb(64)).await;

    let seen = check_decided_early(&request_matching(&target, Some("well"), None)).await;

    assert_down(&seen, Cause::BodyTooLarge, "regex is not decided after the first 100000 bytes");
    assert_eq!(seen.body_bytes, 100_000);
}

#[tokio::test]
async fn a_body_that_decodes_to_zero_bytes_is_read_up_to_the_encoded_limit() {
    // A head of gzip, then stored blocks of no bytes, without end.
    let mut start = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n".to_vec();
    start.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    let nothing = [0, 0, 0, 0xff, 0xff].repeat(1_000);
    let target =
        Target::serve_script(move |_| vec![Step::Send(start.clone()), Step::Repeat(nothing.clone())]).await;

    let seen = check_decided_early(&request_matching(&target, Some("well"), None)).await;

    assert_down(&seen, Cause::BodyTooLarge, "regex is not decided after the first 0 bytes");
}

#[tokio::test]
async fn an_endless_body_is_read_to_the_limit_or_the_timeout_wherever_the_regex_matches() {
    let endless =
        serve_head_then(vec![Step::send("all is well here"), Step::Repeat(vec![b'x'; 1 << 10])]).await;
    let seen = check_decided_early(&request_matching(&endless, Some("is w[e]ll"), None)).await;
    assert_eq!((seen.outcome, seen.regex_matched), (Outcome::Up, Some(true)), "{seen:?}");
    assert_eq!(seen.body_bytes, 100_000);
    let seen = check_decided_early(&request_matching(&endless, Some("absent"), Some("well"))).await;
    assert_down(&seen, Cause::Body, "not_regex matches the body");
    assert_eq!(seen.regex_matched, None, "that was not decided");

    let stalls = serve_head_then(vec![Step::send("all is well here"), Step::Stall]).await;
    let request = CheckRequest { timeout_ms: 300, ..request_matching(&stalls, Some("is w[e]ll"), None) };
    let seen = check_with_limits(&request).await;
    assert_down(&seen, Cause::Timeout, "no end of the body within 300 ms (reading the body: 16 bytes came)");
    assert_eq!(seen.regex_matched, None, "a body that has not ended is not matched");
}

#[tokio::test]
async fn the_transfer_lasts_until_the_body_has_ended_wherever_the_regex_matches() {
    const PAUSE_MS: u32 = 300;
    let target = serve_head_then(vec![
        Step::send("first"),
        Step::wait_ms(u64::from(PAUSE_MS)),
        Step::send(" and last"),
    ])
    .await;

    for (regex, not_regex) in
        [(None, None), (Some("first"), None), (Some("last"), None), (Some("first"), Some("error"))]
    {
        let seen = check_with_limits(&request_matching(&target, regex, not_regex)).await;
        assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 14), "{seen:?}");
        assert!(seen.timing.transfer_us.is_some_and(|us| us >= (PAUSE_MS - 100) * 1_000), "{seen:?}");
    }
}

#[tokio::test]
async fn a_regex_that_must_not_match_needs_the_whole_body() {
    let target =
        serve_head_then(vec![Step::send("all is well"), Step::wait_ms(300), Step::send(", no error")]).await;
    let seen = check_with_limits(&request_matching(&target, Some("well"), Some("error"))).await;
    assert_down(&seen, Cause::Body, "not_regex matches the body");
    assert_eq!(seen.regex_matched, Some(true));

    let stalls = serve_head_then(vec![Step::send("all is well here"), Step::Stall]).await;
    let request = CheckRequest { timeout_ms: 300, ..request_matching(&stalls, Some("well"), Some("error")) };
    let seen = check_with_limits(&request).await;
    assert_down(&seen, Cause::Timeout, "no end of the body within 300 ms (reading the body: 16 bytes came)");
    assert_eq!(seen.regex_matched, None);
}

#[tokio::test]
async fn a_match_undone_by_later_bytes_is_no_match() {
    let target =
        serve_head_then(vec![Step::send("all is well"), Step::wait_ms(300), Step::send("ington")]).await;

    for regex in ["well$", r"well\b"] {
        let seen = check_with_limits(&request_matching(&target, Some(regex), None)).await;
        assert_down(&seen, Cause::Body, "regex does not match the body (17 bytes)");
    }
}

#[tokio::test]
async fn only_the_beginning_of_a_body_without_assertions_is_read() {
    let checker = Checker::new(&CheckLimits { max_body_bytes: 1 << 20, ..test_limits() }).unwrap();
    let endless = serve_head_then(vec![Step::Repeat(vec![b'x'; 8 << 10])]).await;

    let seen = checker.run_check(&CheckRequest::new(endless.url("/")).validate().unwrap()).await;

    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 64 << 10), "{seen:?}");
    assert!(seen.timing.transfer_us.is_some());
}

#[tokio::test]
async fn a_long_body_is_matched_as_a_whole() {
    let body = [vec![b'x'; 99_000], b"all is well".to_vec()].concat();
    let target = serve_head_then(vec![Step::Send(body)]).await;

    let seen = check_with_limits(&request_matching(&target, Some("x+all is well$"), Some("error"))).await;

    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 99_011), "{seen:?}");
}

#[tokio::test]
async fn bytes_are_matched_and_not_text() {
    let target = serve_head_then(vec![Step::send(b"caf\xe9 \0\xff ferm\xe9")]).await;

    for regex in [r"(?-u)^caf\xe9 \x00\xff ferm\xe9$", "ferm", r"(?-u)caf. "] {
        let seen = check_with_limits(&request_matching(&target, Some(regex), None)).await;
        assert_eq!(seen.outcome, Outcome::Up, "{regex}: {seen:?}");
    }
    let seen = check_with_limits(&request_matching(&target, Some("café"), None)).await;
    assert_down(&seen, Cause::Body, "regex does not match the body (13 bytes)");
}
