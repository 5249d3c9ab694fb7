//! Confirming checks have permits and a wait queue of their own: sites that are well are checked as before.

use picket_harness::{builders::confirmation_job_subject, eventually, targets::Target};
use picket_proto::{Cause, CheckKind, CheckRequest, CheckResult, Outcome, SiteId};

use crate::bus::{STATE_TIMEOUT, TestRegion, scheduled_request};

/// Queues a confirming check of `url` for `site`.
async fn queue_confirmation(place: &TestRegion, site: i64, url: &str) {
    let request = CheckRequest { kind: Some(CheckKind::Confirm), ..scheduled_request(site, url) };
    place.publish_request(&confirmation_job_subject(&place.region, SiteId(site)), &request).await;
}

#[tokio::test]
async fn hanging_confirming_checks_leave_every_slot_to_the_ticks_of_other_sites() {
    let (place, hanging) = (TestRegion::on_shared_nats("confirm-hang").await, Target::serve_withheld().await);
    let target = Target::serve_http().await;
    let prober = place.start_ready_with("one", 8, |config| config.behaviour.per_host = 100).await;

    for site in 0..12 {
        queue_confirmation(&place, site, &hanging.url("/ok")).await;
    }
    eventually(STATE_TIMEOUT, "a quarter of the slots at work", async || {
        let seen = (hanging.waiting_requests(), prober.read_metric("picket_prober_confirmations_waiting"));
        if seen == (2, 10.0) { Ok(()) } else { Err(seen) }
    })
    .await;
    for site in 100..120 {
        place.queue_check(site, &target.url("/ok")).await;
    }
    let results = place.read_results(20).await;

    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert!(results.iter().all(|result| result.kind == CheckKind::Scheduled), "{results:?}");
    assert_eq!(hanging.waiting_requests(), 2);
    hanging.release_responses(12);
    let confirmed = place.read_results(32).await.split_off(20);
    assert!(confirmed.iter().all(|result| result.outcome == Outcome::Up), "{confirmed:?}");
    assert_eq!(hanging.max_waiting_requests(), 2);
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

#[tokio::test]
async fn a_confirming_check_beyond_the_wait_queue_is_missed_and_counted() {
    let (place, hanging) = (TestRegion::on_shared_nats("confirm-full").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 4, |config| config.behaviour.per_host = 100).await;

    // One check runs; the wait queue has ten entries, of which one host may have half.
    for site in 0..20 {
        queue_confirmation(&place, site, &hanging.url("/ok")).await;
    }
    let results = place.read_results(14).await;

    let refused = |result: &CheckResult| {
        (result.kind, result.outcome, result.cause)
            == (CheckKind::Confirm, Outcome::Missed, Some(Cause::Overloaded))
    };
    assert!(results.iter().all(refused), "{results:?}");
    let message = results[0].message.as_deref().unwrap_or_default();
    assert!(message.contains("confirming checks"), "{message}");
    assert_eq!(prober.read_metric("picket_prober_confirmations_rejected_total"), 14.0);
    assert_eq!(prober.read_metric("picket_prober_host_rejections_total"), 0.0);
    assert_eq!(hanging.waiting_requests(), 1);
}
