//! Memory cost of hostile bodies and heads, measured in a separate process.

use std::sync::Arc;

use picket_harness::{
    proc,
    targets::{Step, Target, gzip_bomb},
};
use picket_prober::check::{CheckLimits, Checker};
use picket_proto::{CheckRequest, Outcome};
use tokio::task::JoinSet;

use crate::http::test_limits;

/// Runs one of the tests here that are left out otherwise, by itself, with variables set.
pub(crate) fn run_alone(test: &str, variables: &[(&str, &std::ffi::OsStr)]) {
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.contains("measured")).for_each(|line| eprintln!("{line}"));
}

#[test]
fn hostile_responses_do_not_grow_memory() {
    run_alone("memory::measure_hostile_responses", &[]);
}

/// The most memory that this process has had so far, in KiB.
fn peak_memory() -> u64 {
    proc::peak_resident_kib(std::process::id()).unwrap()
}

/// Checks `target` so often, so many at once.
async fn check_repeatedly(checker: &Arc<Checker>, target: &Target, outcome: Outcome) {
    const TIMES: usize = 200;
    const AT_ONCE: usize = 8;
    let mut checks = JoinSet::new();
    for i in 0..TIMES {
        if i >= AT_ONCE {
            assert_eq!(checks.join_next().await.unwrap().unwrap(), outcome);
        }
        let request = CheckRequest { regex: Some("well".into()), ..CheckRequest::new(target.url("/ok")) };
        let checker = Arc::clone(checker);
        checks.spawn(async move { checker.run_check(&request.validate().unwrap()).await.outcome });
    }
    for seen in checks.join_all().await {
        assert_eq!(seen, outcome);
    }
}

#[tokio::test]
#[ignore = "run by hostile_responses_do_not_grow_memory in a process of its own"]
async fn measure_hostile_responses() {
    /// For 8 concurrent checks with 1 MiB of body each, copies while it grows, and the buffers of
    /// servers and sockets.
    const ALLOWED: u64 = 64 << 10;
    let checker = Arc::new(Checker::new(&CheckLimits { max_body_bytes: 1 << 20, ..test_limits() }).unwrap());
    let ok = Target::serve_http().await;
    check_repeatedly(&checker, &ok, Outcome::Up).await;
    let head = |rest: &str| Step::send(format!("HTTP/1.1 200 OK\r\n{rest}\r\n"));
    let bomb = gzip_bomb(64);
    let hostile: [(&str, Vec<Step>); 4] = [
        ("64 MiB by gzip, again and again", vec![head("content-encoding: gzip\r\n"), Step::Repeat(bomb)]),
        ("an endless body", vec![head(""), Step::Repeat(vec![b'x'; 64 << 10])]),
        (
            "an endless head",
            vec![Step::send("HTTP/1.1 200 OK\r\n"), Step::Repeat(b"x-a: b\r\n".repeat(1_000))],
        ),
        (
            "a header without end",
            vec![Step::send("HTTP/1.1 200 OK\r\nx: "), Step::Repeat(vec![b'x'; 64 << 10])],
        ),
    ];

    for (what, steps) in hostile {
        let target = Target::serve_script(move |_| steps.clone()).await;
        let before = peak_memory();
        check_repeatedly(&checker, &target, Outcome::Down).await;
        let grown = peak_memory() - before;
        eprintln!("measured: {what}: peak {} KiB, {grown} KiB more than before", peak_memory());
        assert!(grown < ALLOWED, "{what}: {grown} KiB");
    }
}
