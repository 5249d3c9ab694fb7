//! Servers that send endless data beside the answer: interim responses, HTTP/2 frames, TLS records.

use std::time::Duration;

use picket_harness::{
    builders::scheduled_job_subject,
    eventually,
    targets::{CertificateAuthority, Step, Target},
};
use picket_prober::check::Observation;
use picket_proto::{Cause, CheckRequest, Outcome};
use tokio::time::Instant;

use crate::{
    bus::{TestRegion, scheduled_request},
    http::{assert_down, check_with_limits},
    overload::start_process,
    phases::{certify_localhost, trusting_checker},
};

/// More than this is in the buffers of sockets on the way.
const MAX_READ_BYTES: u64 = 24 << 20;
/// No check here takes as long.
const TIMEOUT_MS: i64 = 20_000;

/// The check is over long before its time, and so is the connection: the server was read no further.
async fn assert_cut_short(seen: &Observation, began: Instant, target: &Target, message: &str) {
    assert_down(seen, Cause::Http, message);
    assert!(began.elapsed() < Duration::from_millis(TIMEOUT_MS.unsigned_abs()), "{:?}", began.elapsed());
    let closed = async || match target.open_connections() {
        0 => Ok(()),
        open => Err(format!("{open} connections are open")),
    };
    eventually(Duration::from_secs(10), "the connection's end", closed).await;
    assert!(target.sent_bytes() < MAX_READ_BYTES, "{} bytes were read", target.sent_bytes());
}

#[tokio::test]
async fn endless_informational_responses_are_down_by_http_and_read_up_to_a_limit() {
    for hint in ["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "HTTP/1.1 100\r\n\r\n"] {
        let steps = vec![Step::Repeat(hint.into())];
        let plain = Target::serve_script(move |_| steps.clone()).await;
        let began = Instant::now();

        let seen =
            check_with_limits(&CheckRequest { timeout_ms: TIMEOUT_MS, ..CheckRequest::new(plain.url("/")) })
                .await;

        let message =
            "the server sent more than 1024 KiB and no final answer among them (waiting for the first byte)";
        assert_cut_short(&seen, began, &plain, message).await;

        let authority = CertificateAuthority::new();
        let steps = vec![Step::Repeat(hint.into())];
        let target = Target::serve_script_https(&certify_localhost(&authority), move |_| steps.clone()).await;
        let request = CheckRequest { timeout_ms: TIMEOUT_MS, ..CheckRequest::new(target.localhost_url("/")) };
        let began = Instant::now();

        let seen = trusting_checker(&authority).run_check(&request.validate().unwrap()).await;

        assert_cut_short(&seen, began, &target, message).await;
    }
}

fn http2_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The server's settings, and its acknowledgement of the client's.
fn settings_frame() -> Vec<u8> {
    [http2_frame(4, 0, 0, &[]), http2_frame(4, 1, 0, &[])].concat()
}

async fn check_http2(script: Vec<Step>) -> (Observation, Instant, Target) {
    let authority = CertificateAuthority::new();
    let target = Target::serve_script_http2(&certify_localhost(&authority), move |_| script.clone()).await;
    let request = CheckRequest {
        timeout_ms: TIMEOUT_MS,
        regex: Some("never there".into()),
        ..CheckRequest::new(target.localhost_url("/"))
    };
    let began = Instant::now();
    let seen = trusting_checker(&authority).run_check(&request.validate().unwrap()).await;
    (seen, began, target)
}

/// The frames that h2 reads for as long as they come.
fn endless_frames() -> [(&'static str, Vec<u8>); 4] {
    [
        ("WINDOW_UPDATE", http2_frame(8, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", http2_frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("0x5a", http2_frame(0x5a, 0, 0, &[])),
        // `:status: 103`, as a literal without indexing whose name is the eighth of the static table.
        ("HEADERS", http2_frame(1, 4, 1, &[8, 3, b'1', b'0', b'3'])),
    ]
}

#[tokio::test]
async fn endless_http_2_frames_before_the_response_are_down_by_http() {
    for (name, flood) in endless_frames() {
        let (seen, began, target) =
            check_http2(vec![Step::Send(settings_frame()), Step::Repeat(flood)]).await;

        let message = format!(
            "the server sent more than 4096 HTTP/2 frames beside the body, the last one of type {name} (waiting"
        );
        assert_cut_short(&seen, began, &target, &message).await;
    }
}

#[tokio::test]
async fn endless_http_2_frames_within_the_body_are_down_by_http() {
    // `:status: 200`, the eighth of the static table.
    let answer =
        [settings_frame(), http2_frame(1, 4, 1, &[0x88]), http2_frame(0, 0, 1, b"all is well")].concat();
    for (name, flood) in endless_frames().into_iter().take(3) {
        let script = vec![Step::Send(answer.clone()), Step::wait_ms(50), Step::Repeat(flood)];
        let (seen, began, target) = check_http2(script).await;

        let message = format!(
            "the server sent more than 4096 HTTP/2 frames beside the body, the last one of type {name} (reading \
             the body: 11 bytes came)"
        );
        assert_cut_short(&seen, began, &target, &message).await;
    }
}

#[tokio::test]
async fn an_endless_body_of_one_byte_chunks_is_down_by_http() {
    let head = Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let steps = vec![head, Step::Repeat(b"1\r\nx\r\n".to_vec())];
    let target = Target::serve_script(move |_| steps.clone()).await;
    let request = CheckRequest {
        timeout_ms: TIMEOUT_MS,
        regex: Some("never there".into()),
        ..CheckRequest::new(target.url("/"))
    };
    let began = Instant::now();

    let seen = check_with_limits(&request).await;

    assert_cut_short(&seen, began, &target, "the server sent the body in more than 65536 pieces").await;
}

#[tokio::test]
async fn a_few_informational_responses_are_no_flood() {
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1_000);
    let steps = vec![Step::send(hint), Step::send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")];
    let target = Target::serve_script(move |_| steps.clone()).await;
    assert_eq!(check_with_limits(&CheckRequest::new(target.url("/"))).await.outcome, Outcome::Up);

    let hints = endless_frames()[3].1.repeat(1_000);
    let answer =
        [settings_frame(), hints, http2_frame(1, 4, 1, &[0x88]), http2_frame(0, 1, 1, b"never there")]
            .concat();
    let (seen, ..) = check_http2(vec![Step::Send(answer)]).await;
    assert_eq!((seen.outcome, seen.body_bytes), (Outcome::Up, 11), "{seen:?}");
}

/// Sends `frame` without end.
async fn serve_flood(authority: &CertificateAuthority, frame: Vec<u8>) -> Target {
    let steps = vec![Step::Send(settings_frame()), Step::Repeat(frame)];
    Target::serve_script_http2(&certify_localhost(authority), move |_| steps.clone()).await
}

/// A regex of about the maximum cost, and a body that causes it: 64 KiB of letters that the regex
/// consumes, and a first one outside ASCII, which rules out the lazy DFA.
const COSTLY_REGEX: &str = r"(?:[ab]{0,99}b?){5}\b!";

fn costly_answer() -> Vec<Step> {
    let body: Vec<u8> = "\u{e9}".bytes().chain(b"ab".iter().copied().cycle()).take(64 << 10).collect();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    vec![Step::send(head), Step::Send(body)]
}

/// A process with one thread for checks, as in production. Each round begins when the round before
/// has ended, so that the number of concurrent floods does not depend on the speed of the machine.
#[tokio::test]
async fn flooding_sites_and_costly_regexes_do_not_affect_other_checks() {
    const ROUNDS: i64 = 5;
    const FLOODS: usize = 4;
    const NEIGHBOURS: i64 = 20;
    /// Id of the site with the costly regex within its round, and the first id of the neighbours.
    const COSTLY_ID: i64 = 0;
    const FIRST_NEIGHBOUR_ID: i64 = 50;
    /// A check may take this long on a machine that builds something else meanwhile.
    const SLOW_TIMEOUT_MS: i64 = 40_000;
    let region = TestRegion::on_shared_nats("floods").await;
    let authority = CertificateAuthority::new();
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), authority.pem()).unwrap();
    let healthy = Target::serve_http().await;
    let hints = vec![Step::Repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())];
    let hints = Target::serve_script(move |_| hints.clone()).await;
    let [(_, window), _, _, (_, informational)] = endless_frames();
    let windows = serve_flood(&authority, window).await;
    let informational = serve_flood(&authority, informational).await;
    let costly = Target::serve_script(|_| costly_answer()).await;
    let roots = roots.path().to_str().unwrap();
    let options = ["--concurrency", "200", "--per-host", "200", "--max-drift", "20s", "--ca-file", roots];
    let _process = start_process(&region, &options).await;
    let publish = async |request: CheckRequest| {
        let subject = scheduled_job_subject(&region.region, request.site_id.unwrap());
        region.publish_request(&subject, &request).await;
    };

    let floods = [hints.url("/"), windows.localhost_url("/"), informational.localhost_url("/")];
    let (mut results, mut before_costly) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let request = |id: i64, url: &str, timeout_ms: i64, regex: Option<&str>| CheckRequest {
            timeout_ms,
            regex: regex.map(str::to_owned),
            ..scheduled_request(round * 100 + id, url)
        };
        publish(request(COSTLY_ID, &costly.url("/"), 10_000, Some(COSTLY_REGEX))).await;
        for (id, url) in (COSTLY_ID + 1..).zip(floods.iter().cycle()).take(floods.len() * FLOODS) {
            publish(request(id, url, SLOW_TIMEOUT_MS, None)).await;
        }
        for id in FIRST_NEIGHBOUR_ID..FIRST_NEIGHBOUR_ID + NEIGHBOURS {
            publish(request(id, &healthy.url("/ok"), SLOW_TIMEOUT_MS, Some("all is well"))).await;
        }
        let per_round = 1 + floods.len() * FLOODS + usize::try_from(NEIGHBOURS).unwrap();
        let expected = per_round * usize::try_from(round + 1).unwrap();
        results = region.read_results_within(Duration::from_secs(60), expected).await;
        let ids = results.iter().map(|result| result.site_id.unwrap().0);
        let of_round = ids.filter(|id| id / 100 == round).map(|id| id % 100);
        before_costly +=
            of_round.take_while(|id| *id != COSTLY_ID).filter(|id| *id >= FIRST_NEIGHBOUR_ID).count();
    }

    let neighbours = usize::try_from(ROUNDS * NEIGHBOURS).unwrap();
    assert!(
        before_costly * 10 >= neighbours * 9,
        "{before_costly} of {neighbours} ended before a costly search"
    );
    for result in &results {
        let message = result.message.as_deref().unwrap_or_default();
        match result.site_id.unwrap().0 % 100 {
            // A slow build does not finish the search within the timeout. The site is not up in
            // either case.
            COSTLY_ID => assert_ne!(result.outcome, Outcome::Up, "{result:?}"),
            id if id >= FIRST_NEIGHBOUR_ID => assert_eq!(result.outcome, Outcome::Up, "{result:?}"),
            _ => assert!(message.starts_with("the server sent more than "), "{result:?}"),
        }
    }
}
