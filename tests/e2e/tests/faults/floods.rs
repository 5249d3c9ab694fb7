//! Sites that flood, and costly regexes.

use std::time::Duration;

use picket_e2e::fault_test::{FaultTest, Topology};
use picket_harness::targets::{CertificateAuthority, Step, Target, Validity};

/// Permitted growth of a process that reads floods and matches bodies, in KiB.
const MAX_GROWTH_KIB: u64 = 48 << 10;

/// A frame of HTTP/2 of less than 256 bytes.
fn build_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

async fn start_frame_flood(frame_again: Vec<u8>) -> Target {
    let settings = [build_frame(4, 0, 0, &[]), build_frame(4, 1, 0, &[])].concat();
    let steps = vec![Step::Send(settings), Step::Repeat(frame_again)];
    let identity = CertificateAuthority::new().issue_identity(&["localhost"], Validity::Current);
    Target::serve_script_http2(&identity, move |_| steps.clone()).await
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f25_flooding_sites_and_costly_regexes_do_not_affect_other_checks() {
    let topology = Topology { prober_options: &["--per-host", "200"], ..Topology::default() };
    let description = "sites that flood with 103 and HTTP/2 frames, and costly regexes, for 30 s";
    let mut drill = FaultTest::start("F25", description, topology).await;
    let hints = vec![Step::Repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())];
    let hints = Target::serve_script(move |_| hints.clone()).await;
    let windows = start_frame_flood(build_frame(8, 0, 0, &[0, 0, 0, 1])).await;
    let informational = start_frame_flood(build_frame(1, 4, 1, &[8, 3, b'1', b'0', b'3'])).await;
    // Letters that the regex consumes, and one outside ASCII.
    let body: Vec<u8> = "\u{e9}".bytes().chain(b"ab".iter().copied().cycle()).take(64 << 10).collect();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let costly = vec![Step::send(head), Step::Send(body)];
    let costly = Target::serve_script(move |_| costly.clone()).await;
    let insert = |url: String, regex: &str, count: u32| {
        format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms, tls_verify, regex)
             SELECT '{url}' || n, 2, 5000, false, {regex} FROM generate_series(1, {count}) AS n;"
        )
    };
    drill.stack.execute_sql(&insert(drill.target.url("/ok/neighbour/"), "'all is well'", 40)).await;
    drill.wait_served().await;
    let memory = drill.memory_by_process();

    let bad = [
        insert(hints.url("/bad/"), "NULL", 3),
        insert(windows.localhost_url("/bad/"), "NULL", 3),
        insert(informational.localhost_url("/bad/"), "NULL", 3),
        insert(costly.url("/bad/"), r"'(?:[ab]{0,99}b?){5}\b!'", 3),
    ];
    drill.stack.execute_sql(&bad.concat()).await;
    let injured = drill.mark_fault_started().await;
    drill.run_for(Duration::from_secs(30)).await;
    drill.assert_memory_flat(&memory, MAX_GROWTH_KIB);
    drill.stack.execute_sql("UPDATE picket.sites SET enabled = false WHERE url LIKE '%/bad/%'").await;
    let healed = drill.mark_fault_ended().await;
    drill.wait_served().await;

    drill.verify_account().await;
    let count = async |condition: &str| {
        let rows = format!(
            "SELECT count(*) FROM picket.check_results AS result
             JOIN picket.known_sites AS site ON site.id = result.site_id
             WHERE kind = 'scheduled' AND scheduled_at BETWEEN '{injured}' AND '{healed}' AND {condition}"
        );
        drill.stack.query_number(&rows).await
    };
    let due = count("url LIKE '%/ok/%'").await;
    let up = count("url LIKE '%/ok/%' AND outcome = 'up'").await;
    assert!(due > 1_000 && up * 100 >= due * 99, "{up} of {due} checks of neighbours were up");
    assert_eq!(count("url LIKE '%/bad/%' AND outcome = 'up'").await, 0);
    let flooded = count("url LIKE '%/bad/%' AND cause = 'http'").await;
    assert!(flooded > 100, "{flooded} checks reported a flood");
    drill.stop().await;
}
