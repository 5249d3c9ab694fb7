//! Misbehaving servers: each check has the right outcome, cause and message within its timeout.

use std::time::Duration;

use picket_harness::targets::{Step, Target};
use picket_proto::{Cause, CheckRequest, Outcome};
use tokio::time::Instant;

use crate::http::{assert_down, check_with_limits, get_request};

fn head_step(rest: &str) -> Step {
    Step::send(format!("HTTP/1.1 200 OK\r\n{rest}\r\n"))
}

async fn serve_steps(steps: Vec<Step>) -> Target {
    Target::serve_script(move |_| steps.clone()).await
}

#[tokio::test]
async fn a_truncated_response_is_down_by_http_and_names_the_position() {
    for (steps, message) in [
        (vec![], "connection closed before the answer was complete (waiting for the first byte)"),
        (vec![Step::Reset], "connection reset (waiting for the first byte)"),
        (
            vec![Step::send("HTTP/1.1 200 OK\r\nx-a: b")],
            "connection closed before the answer was complete (waiting for the first byte)",
        ),
        (
            vec![Step::send("HTTP/1.1 200 OK\r\nx-a"), Step::wait_ms(50), Step::Reset],
            "connection reset (waiting for the first byte)",
        ),
        (
            vec![head_step("content-length: 100\r\n"), Step::send("only this")],
            "connection closed before the answer was complete (reading the body: 9 of 100 bytes came)",
        ),
        (
            vec![
                head_step("content-length: 100\r\n"),
                Step::send("only this"),
                Step::wait_ms(50),
                Step::Reset,
            ],
            "connection reset (reading the body: 9 of 100 bytes came)",
        ),
        (
            vec![head_step("transfer-encoding: chunked\r\n"), Step::send("5\r\nhello\r\n")],
            "connection closed before the answer was complete (reading the body: 5 bytes came)",
        ),
        (
            vec![head_step("transfer-encoding: chunked\r\n"), Step::send("5\r\nhello\r\nxyz\r\n")],
            "the answer is not HTTP",
        ),
        (
            vec![head_step(""), Step::send("until the end"), Step::wait_ms(50), Step::Reset],
            "connection reset",
        ),
    ] {
        let target = serve_steps(steps.clone()).await;
        let seen = get_request(target.url("/")).await;
        assert_down(&seen, Cause::Http, message);
        assert!(seen.timing.connect_us.is_some() && seen.timing.first_byte_us.is_some(), "{seen:?}");
        assert_eq!(seen.timing.transfer_us.is_some(), seen.http_status.is_some(), "{seen:?}");
        assert_eq!(seen.remote_addr, Some(target.address()), "{steps:?}");
    }
}

#[tokio::test]
async fn a_response_that_is_not_http_is_down_by_http() {
    for first in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "220 mail.example ESMTP\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "\x15\x03\x01\x00\x02\x02\x46",
        "\0\0\0\0\0\0\0\0",
    ] {
        let target = serve_steps(vec![Step::send(first)]).await;
        let seen = get_request(target.url("/")).await;
        assert_down(&seen, Cause::Http, "the answer is not HTTP");
    }
}

/// Found by comparing with blackbox_exporter, to which these were up.
#[tokio::test]
async fn a_header_that_browsers_tolerate_is_up() {
    for header in ["x-a: b\r\n c", "x-a : b", "x a@b: c", "x-a: b\x01c", "no header at all"] {
        let steps =
            vec![head_step(&format!("{header}\r\ncontent-length : 2\r\n")), Step::send("ok, and more")];
        let target = serve_steps(steps).await;

        let seen = get_request(target.url("/")).await;

        assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 2), "{header:?}: {seen:?}");
    }
}

#[tokio::test]
async fn an_oversized_head_is_down_by_http() {
    let endless = vec![Step::send("HTTP/1.1 200 OK\r\n"), Step::Repeat(b"x-again: and again\r\n".to_vec())];
    let long = vec![head_step(&format!("x-long: {}\r\n", "x".repeat(1 << 20)))];
    let many = vec![head_step(&(0..10_000).map(|i| format!("x-{i}: {i}\r\n")).collect::<String>())];
    for steps in [endless, long, many] {
        let seen = get_request(serve_steps(steps).await.url("/")).await;
        assert_down(&seen, Cause::Http, "the answer's head is too large: more than 256 headers");
    }

    let large = (0..200).map(|i| format!("x-{i}: {}\r\n", "x".repeat(1_000))).collect::<String>();
    let seen =
        get_request(serve_steps(vec![head_step(&format!("{large}content-length: 0\r\n"))]).await.url("/"))
            .await;
    assert_eq!(seen.outcome, Outcome::Up, "200 headers of 1,000 bytes are not too many: {seen:?}");
}

#[tokio::test]
async fn an_endless_response_is_down_by_timeout_within_the_timeout() {
    let drip = |bytes: &str| -> Vec<Step> {
        bytes.bytes().flat_map(|byte| [Step::Send(vec![byte]), Step::wait_ms(100)]).collect()
    };
    let waiting = "no answer within 400 ms (waiting for the first byte)";
    let reading = "no end of the body within 400 ms (reading the body";
    let slow_body = [vec![head_step("content-length: 1000\r\n")], drip(&"x".repeat(100))].concat();
    for (steps, message) in [
        (vec![Step::Stall], waiting),
        (drip("HTTP/1.1 200 OK\r\nx-header: value\r\n\r\n"), waiting),
        (slow_body, reading),
        (vec![head_step("content-length: 10\r\n"), Step::Stall], reading),
        (
            vec![head_step("transfer-encoding: chunked\r\n"), Step::send("5\r\nhello\r\n"), Step::Stall],
            reading,
        ),
        (vec![head_step(""), Step::send("and then nothing"), Step::Stall], reading),
    ] {
        let target = serve_steps(steps.clone()).await;
        let began = Instant::now();

        let seen =
            check_with_limits(&CheckRequest { timeout_ms: 400, ..CheckRequest::new(target.url("/")) }).await;

        assert_down(&seen, Cause::Timeout, message);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert!(seen.timing.total_us >= Some(400_000) && seen.timing.connect_us.is_some(), "{seen:?}");
    }
}

#[tokio::test]
async fn an_unusual_but_valid_response_is_up() {
    let latin =
        [b"HTTP/1.1 200 OK\r\nx-odd: caf\xe9\r\ncontent-length: 5\r\n\r\n".as_slice(), b"caf\xe9s"].concat();
    for (what, steps, bytes) in [
        ("no reason", vec![Step::send("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok")], 2),
        ("HTTP/1.0", vec![Step::send("HTTP/1.0 200 OK\r\n\r\nto the end")], 10),
        ("an empty body", vec![head_step("content-length: 0\r\n")], 0),
        ("an empty body to the end", vec![head_step("")], 0),
        ("204", vec![Step::send("HTTP/1.1 204 No Content\r\n\r\n"), Step::Stall], 0),
        (
            "204 with a content-length",
            vec![Step::send("HTTP/1.1 204 No Content\r\ncontent-length: 10\r\n\r\n"), Step::Stall],
            0,
        ),
        (
            "chunks with trailers",
            vec![
                head_step("transfer-encoding: chunked\r\ntrailer: x-sum\r\n"),
                Step::send("5;ext=1\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"),
            ],
            5,
        ),
        (
            "hints first",
            vec![Step::send("HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n"), head_step("content-length: 0\r\n")],
            0,
        ),
        ("bytes that are no text", vec![Step::Send(latin)], 5),
        ("more than announced", vec![head_step("content-length: 2\r\n"), Step::send("ok and more")], 2),
        ("bytes of zero", vec![head_step("content-length: 3\r\n"), Step::send("\0\0\0")], 3),
    ] {
        let seen = get_request(serve_steps(steps).await.url("/")).await;
        assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, bytes), "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn a_response_without_a_body_has_no_transfer_phase() {
    let target =
        serve_steps(vec![head_step("content-length: 1000\r\ncontent-encoding: gzip\r\n"), Step::Stall]).await;
    let request = CheckRequest { method: "HEAD".into(), ..CheckRequest::new(target.url("/")) };

    let seen = check_with_limits(&request).await;

    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 0), "{seen:?}");
    assert_eq!(seen.timing.transfer_us, None);
    let regex = CheckRequest { regex: Some("well".into()), ..request };
    assert_down(&check_with_limits(&regex).await, Cause::Body, "regex does not match the body (0 bytes)");
}
