//! That each phase is measured, and where a delay shows.

use std::sync::Arc;

use picket_prober::http::{Checker, Limits, Observation};
use picket_proto::{CheckRequest, Outcome, Timing};
use picket_testkit::target::{Authority, Identity, Target, Validity};
use tokio::task::JoinSet;

use crate::http::{check, limits};

fn trusting(authority: &Authority) -> Checker {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    Checker::new(&Limits { ca_file: Some(file.path().to_owned()), ..limits() }).unwrap()
}

fn localhost(authority: &Authority) -> Identity {
    authority.certify(&["localhost"], Validity::Good)
}

#[track_caller]
fn assert_whole(seen: &Observation) {
    let Timing { dns_us, connect_us, tls_us, first_byte_us, transfer_us, total_us } = seen.timing;
    let phases = [dns_us, connect_us, tls_us, first_byte_us, transfer_us]
        .map(|phase| phase.unwrap_or_else(|| panic!("{seen:?}")));
    assert_eq!(seen.outcome, Outcome::Up);
    assert!(phases[..4].iter().all(|micros| *micros > 0), "{seen:?}");
    assert!(phases.iter().sum::<u32>() <= total_us.unwrap(), "{seen:?}");
}

#[tokio::test]
async fn a_check_over_tls_by_name_has_every_phase() {
    let authority = Authority::new();
    let target = Target::https(&localhost(&authority)).await;
    let request = CheckRequest::new(target.named_url("/ok"));

    let seen = trusting(&authority).check(&request.validate().unwrap()).await;

    assert_whole(&seen);
}

#[tokio::test]
async fn a_check_over_http_2_has_every_phase_too() {
    let authority = Authority::new();
    let target = Target::http2(&localhost(&authority)).await;
    let request = CheckRequest::new(target.named_url("/ok"));

    let seen = trusting(&authority).check(&request.validate().unwrap()).await;

    assert_whole(&seen);
    assert_eq!(seen.http_version, Some("2"));
}

#[tokio::test]
async fn plain_http_has_no_tls_and_a_literal_address_no_dns() {
    let target = Target::http().await;

    let named = check(&CheckRequest::new(target.named_url("/ok"))).await.timing;
    let literal = check(&CheckRequest::new(target.url("/ok"))).await.timing;

    assert!(named.dns_us.is_some() && named.tls_us.is_none(), "{named:?}");
    assert!(literal.dns_us.is_none() && literal.tls_us.is_none(), "{literal:?}");
    assert!(literal.connect_us.is_some() && literal.first_byte_us.is_some() && literal.transfer_us.is_some());
}

#[tokio::test]
async fn of_300_checks_at_once_each_has_its_own_phases_whole() {
    let authority = Authority::new();
    let target = Target::https(&localhost(&authority)).await;
    let checker = Arc::new(trusting(&authority));

    let mut checks = JoinSet::new();
    for _ in 0..300 {
        let (checker, request) = (Arc::clone(&checker), CheckRequest::new(target.named_url("/ok")));
        checks.spawn(async move { checker.check(&request.validate().unwrap()).await });
    }
    let all = checks.join_all().await;

    assert_eq!(all.len(), 300);
    all.iter().for_each(assert_whole);
    assert_eq!(target.requests().len(), 300);
}

#[tokio::test]
async fn a_delay_shows_in_the_phase_that_it_is_in_and_in_no_other() {
    const DELAY: u32 = 300_000;
    let target = Target::http().await;

    let first = check(&CheckRequest::new(target.named_url("/slow/300"))).await.timing;
    let body = check(&CheckRequest::new(target.named_url("/slow-body/300"))).await.timing;

    let quick = |phase: Option<u32>| phase.is_some_and(|micros| micros < DELAY / 2);
    assert!(first.first_byte_us.unwrap() >= DELAY, "{first:?}");
    assert!(quick(first.dns_us) && quick(first.connect_us) && quick(first.transfer_us), "{first:?}");
    assert!(body.transfer_us.unwrap() >= DELAY, "{body:?}");
    assert!(quick(body.dns_us) && quick(body.connect_us) && quick(body.first_byte_us), "{body:?}");
}

#[tokio::test]
async fn the_phases_of_all_hops_are_summed() {
    let (target, slow) = (Target::http().await, Target::http().await);
    let url = target.url(&format!("/to/{}", slow.url(&format!("/to/{}", target.url("/slow/200")))));

    let seen = check(&CheckRequest::new(url)).await;

    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 2));
    assert!(seen.timing.first_byte_us.unwrap() >= 200_000 && seen.timing.connect_us.is_some(), "{seen:?}");
}
