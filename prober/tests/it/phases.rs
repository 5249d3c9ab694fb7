//! Each phase is measured, and a delay shows in its own phase.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use picket_harness::targets::{CertificateAuthority, FullBacklog, Identity, Target, Validity};
use picket_prober::check::{CheckLimits, Checker, Lookup, Observation};
use picket_proto::{CheckRequest, Outcome, Timing};
use tokio::task::JoinSet;

use crate::http::{check_with_limits, test_limits};

pub(crate) fn trusting_checker(authority: &CertificateAuthority) -> Checker {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    Checker::new(&CheckLimits { ca_file: Some(file.path().to_owned()), ..test_limits() }).unwrap()
}

pub(crate) fn certify_localhost(authority: &CertificateAuthority) -> Identity {
    authority.issue_identity(&["localhost"], Validity::Current)
}

#[track_caller]
fn assert_phases_add_up(seen: &Observation) {
    let Timing { dns_us, connect_us, tls_us, first_byte_us, transfer_us, total_us } = seen.timing;
    let phases = [dns_us, connect_us, tls_us, first_byte_us, transfer_us]
        .map(|phase| phase.unwrap_or_else(|| panic!("{seen:?}")));
    assert_eq!(seen.outcome, Outcome::Up);
    assert!(phases[..4].iter().all(|micros| *micros > 0), "{seen:?}");
    assert!(phases.iter().sum::<u32>() <= total_us.unwrap(), "{seen:?}");
}

#[tokio::test]
async fn a_check_over_tls_by_name_has_every_phase() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_https(&certify_localhost(&authority)).await;
    let request = CheckRequest::new(target.localhost_url("/ok"));

    let seen = trusting_checker(&authority).run_check(&request.validate().unwrap()).await;

    assert_phases_add_up(&seen);
}

#[tokio::test]
async fn a_check_over_http_2_has_every_phase_too() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_http2(&certify_localhost(&authority)).await;
    let request = CheckRequest::new(target.localhost_url("/ok"));

    let seen = trusting_checker(&authority).run_check(&request.validate().unwrap()).await;

    assert_phases_add_up(&seen);
    assert_eq!(seen.http_version, Some("2"));
}

#[tokio::test]
async fn plain_http_has_no_tls_and_a_literal_address_no_dns() {
    let target = Target::serve_http().await;

    let named = check_with_limits(&CheckRequest::new(target.localhost_url("/ok"))).await.timing;
    let literal = check_with_limits(&CheckRequest::new(target.url("/ok"))).await.timing;

    assert!(named.dns_us.is_some() && named.tls_us.is_none(), "{named:?}");
    assert!(literal.dns_us.is_none() && literal.tls_us.is_none(), "{literal:?}");
    assert!(literal.connect_us.is_some() && literal.first_byte_us.is_some() && literal.transfer_us.is_some());
}

#[tokio::test]
async fn each_of_300_concurrent_checks_has_complete_phases() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_https(&certify_localhost(&authority)).await;
    let checker = Arc::new(trusting_checker(&authority));

    let mut checks = JoinSet::new();
    for _ in 0..300 {
        let (checker, request) = (Arc::clone(&checker), CheckRequest::new(target.localhost_url("/ok")));
        checks.spawn(async move { checker.run_check(&request.validate().unwrap()).await });
    }
    let all = checks.join_all().await;

    assert_eq!(all.len(), 300);
    all.iter().for_each(assert_phases_add_up);
    assert_eq!(target.received_requests().len(), 300);
}

/// In milliseconds; put into one phase at a time.
const DELAY_MS: u64 = 300;

/// A way to delay one phase, and that phase's place among the five.
async fn check_delayed(phase: usize, authority: &CertificateAuthority) -> Observation {
    let delay = Duration::from_millis(DELAY_MS);
    let identity = certify_localhost(authority);
    let lookup: Lookup = match phase {
        0 => Arc::new(move |_| {
            std::thread::sleep(delay);
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        }),
        _ => Arc::new(|_| Ok(vec![Ipv4Addr::LOCALHOST.into()])),
    };
    let (target, path) = match phase {
        1 => {
            let crowded = FullBacklog::listen_at("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let url = format!("http://localhost:{}/ok", crowded.address().port());
            let opening = tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                crowded.clear_and_serve()
            });
            let seen = check_url(authority, lookup, url).await;
            drop(opening.await);
            return seen;
        }
        2 => (Target::serve_slow_https(&identity, delay).await, "/ok".to_owned()),
        3 => (Target::serve_https(&identity).await, format!("/slow/{DELAY_MS}")),
        4 => (Target::serve_https(&identity).await, format!("/slow-body/{DELAY_MS}")),
        _ => (Target::serve_https(&identity).await, "/ok".to_owned()),
    };
    check_url(authority, lookup, target.localhost_url(&path)).await
}

async fn check_url(authority: &CertificateAuthority, lookup: Lookup, url: String) -> Observation {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let limits = CheckLimits { ca_file: Some(file.path().to_owned()), ..test_limits() };
    Checker::with_lookup(&limits, lookup)
        .unwrap()
        .run_check(&CheckRequest::new(url).validate().unwrap())
        .await
}

fn phase_times(timing: &Timing) -> [Option<u32>; 5] {
    [timing.dns_us, timing.connect_us, timing.tls_us, timing.first_byte_us, timing.transfer_us]
}

#[tokio::test]
async fn a_delay_is_attributed_to_its_phase_alone() {
    const LEAST: u32 = DELAY_MS as u32 * 1_000;
    let authority = CertificateAuthority::new();
    for delayed_phase in 0..5 {
        let seen = check_delayed(delayed_phase, &authority).await;

        assert_eq!(seen.outcome, Outcome::Up, "{seen:?}");
        for (phase, micros) in phase_times(&seen.timing).into_iter().enumerate() {
            match phase == delayed_phase {
                true => assert!(micros.unwrap() >= LEAST, "phase {phase} has not its delay: {seen:?}"),
                false => assert!(micros.unwrap_or(0) < LEAST / 2, "phase {phase} has another's: {seen:?}"),
            }
        }
    }
}

/// How exact the phases are: `cargo test -p picket-prober --test it -- --ignored --nocapture measure_phase_accuracy`.
#[tokio::test]
#[ignore = "a measurement, for a quiet machine"]
async fn measure_phase_accuracy() {
    const CHECKS: usize = 21;
    const NO_PHASE: usize = 5;
    // While the first SYN goes unanswered, the kernel's next comes after a second.
    const EXPECTED_MS: [u64; 5] = [DELAY_MS, 1_000, DELAY_MS, DELAY_MS, DELAY_MS];
    let authority = CertificateAuthority::new();
    let mut control = [0; 5];
    eprintln!("median (and largest) difference to checks without a delay, in ms, of {CHECKS} checks");
    for (delayed_phase, name) in
        [(NO_PHASE, "none"), (0, "dns"), (1, "connect"), (2, "tls"), (3, "first byte"), (4, "transfer")]
    {
        let mut seen: [Vec<i64>; 5] = Default::default();
        for _ in 0..CHECKS {
            let timing = check_delayed(delayed_phase, &authority).await.timing;
            for (micros, seen) in phase_times(&timing).into_iter().zip(&mut seen) {
                seen.push(micros.map_or(0, i64::from));
            }
        }
        let line: Vec<String> = (0..5)
            .map(|phase| {
                let delay = if phase == delayed_phase { EXPECTED_MS[phase] } else { 0 };
                let usual = i64::try_from(delay).unwrap() * 1_000 + control[phase];
                seen[phase].sort_unstable();
                let (median, most) = (seen[phase][CHECKS / 2], seen[phase][CHECKS - 1]);
                if delayed_phase == NO_PHASE {
                    control[phase] = median;
                }
                format!("{:6.2} ({:6.2})", (median - usual) as f64 / 1e3, (most - usual) as f64 / 1e3)
            })
            .collect();
        eprintln!("{name:>10}: {}", line.join("  "));
    }
}

#[tokio::test]
async fn a_failed_check_keeps_the_phases_before_its_failure() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_https(&certify_localhost(&authority)).await;
    let foreign = Target::serve_https(&certify_localhost(&CertificateAuthority::new())).await;
    let closed = Target::closed_address().await.port();
    for (url, done) in [
        ("https://no-such-host.invalid/".to_owned(), 1),
        (format!("https://localhost:{closed}/"), 2),
        (foreign.localhost_url("/ok"), 3),
        (target.localhost_url("/close"), 4),
        (target.localhost_url("/status/500"), 4),
        (target.localhost_url("/broken-body"), 5),
    ] {
        let request = CheckRequest::new(url.clone());
        let seen = trusting_checker(&authority).run_check(&request.validate().unwrap()).await;

        assert_eq!(seen.outcome, Outcome::Down, "{seen:?}");
        for (phase, micros) in phase_times(&seen.timing).into_iter().enumerate() {
            assert_eq!(micros.is_some(), phase < done, "phase {phase} of {url}: {seen:?}");
        }
        assert!(
            phase_times(&seen.timing).into_iter().flatten().sum::<u32>() <= seen.timing.total_us.unwrap()
        );
    }
}

#[test]
fn waiting_for_a_resolver_thread_is_not_dns_time() {
    const WAIT: Duration = Duration::from_secs(1);
    let lookup: Lookup = Arc::new(|_| Ok(vec![Ipv4Addr::LOCALHOST.into()]));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();

    let timing = runtime.block_on(async {
        let target = Target::serve_http().await;
        let request = CheckRequest::new(target.localhost_url("/ok")).validate().unwrap();
        let checker = Checker::with_lookup(&test_limits(), lookup).unwrap();
        tokio::task::spawn_blocking(|| std::thread::sleep(WAIT));
        checker.run_check(&request).await.timing
    });

    assert!(timing.total_us.unwrap() >= 900_000, "{timing:?}");
    assert!(timing.dns_us.unwrap() < 500_000, "{timing:?}");
}

#[tokio::test]
async fn the_phases_of_all_hops_are_summed() {
    let (target, slow) = (Target::serve_http().await, Target::serve_http().await);
    let url = target.url(&format!("/to/{}", slow.url(&format!("/to/{}", target.url("/slow/200")))));

    let seen = check_with_limits(&CheckRequest::new(url)).await;

    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 2));
    assert!(seen.timing.first_byte_us.unwrap() >= 200_000 && seen.timing.connect_us.is_some(), "{seen:?}");
}
