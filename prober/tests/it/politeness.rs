//! The limit of concurrent checks for one host: waiting delays no other host, and is in no timing.

use std::{collections::BTreeSet, time::Duration};

use picket_harness::{builders::scheduled_job_subject, eventually, targets::Target};
use picket_proto::{Cause, CheckRequest, CheckResult, Outcome, SiteId, subject};
use picket_runtime::clock;
use serde_json::json;

use crate::bus::{STATE_TIMEOUT, TestRegion, scheduled_request};

#[tokio::test]
async fn concurrent_checks_of_a_host_are_limited_and_all_are_performed() {
    let (place, server) = (TestRegion::on_shared_nats("polite-turns").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 100, |config| config.behaviour.per_host = 3).await;

    for site in 0..20 {
        place.queue_check(site, &server.url("/ok")).await;
    }
    eventually(STATE_TIMEOUT, "three at work, the rest waiting", async || {
        let seen = (server.waiting_requests(), prober.read_metric("picket_prober_checks_waiting"));
        if seen == (3, 17.0) { Ok(()) } else { Err(seen) }
    })
    .await;
    server.release_responses(20);
    let results = place.read_results(20).await;

    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!((server.max_waiting_requests(), server.accepted_connections()), (3, 20));
    assert_eq!(prober.read_metric("picket_prober_host_wait_seconds_count"), 17.0);
    assert_eq!(prober.read_metric("picket_prober_checks_waiting"), 0.0);
    eventually(STATE_TIMEOUT, "no slot taken", async || {
        prober.read_metric("picket_prober_checks_running") == 0.0
    })
    .await;
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

/// Without its own slots, a host with many sites would take all of the prober's.
#[tokio::test]
async fn a_hanging_host_with_many_sites_does_not_delay_others() {
    let (place, hanging) =
        (TestRegion::on_shared_nats("polite-others").await, Target::serve_withheld().await);
    let target = Target::serve_http().await;
    let prober = place.start_ready_with("one", 4, |config| config.behaviour.per_host = 2).await;

    for site in 0..20 {
        place.queue_check(site, &hanging.url("/ok")).await;
    }
    eventually(STATE_TIMEOUT, "all of them taken", async || {
        prober.read_metric("picket_prober_checks_waiting") == 18.0
    })
    .await;
    for site in 100..120 {
        place.queue_check(site, &target.url("/ok")).await;
    }
    let results = place.read_results(20).await;

    let sites: BTreeSet<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert_eq!(sites, (100..120).collect(), "no check of the hanging host has ended");
    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!(hanging.waiting_requests(), 2);
}

#[tokio::test]
async fn the_wait_for_a_turn_is_not_in_the_times() {
    let (place, server) = (TestRegion::on_shared_nats("polite-times").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 10, |config| config.behaviour.per_host = 1).await;
    let waited = Duration::from_millis(700);

    place.queue_check(1, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the first at work", async || server.waiting_requests() == 1).await;
    place.queue_check(2, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the second waiting", async || {
        prober.read_metric("picket_prober_checks_waiting") == 1.0
    })
    .await;
    // Not for a state: this is the wait that must not be found in the times.
    tokio::time::sleep(waited).await;
    server.release_responses(2);
    let [first, second] = place.read_results(2).await.try_into().unwrap();

    assert_eq!((first.site_id, second.site_id), (Some(SiteId(1)), Some(SiteId(2))));
    let total = |result: &CheckResult| Duration::from_micros(result.timing.total_us.unwrap().into());
    assert!(total(&first) >= waited, "{first:?}");
    let late = second.started_at.unwrap().saturating_duration_since(second.scheduled_at);
    assert!(late >= waited, "the wait is lateness: {second:?}");
    assert!(
        total(&second) <= clock::wall_clock_now().saturating_duration_since(second.started_at.unwrap()),
        "{second:?}"
    );
}

#[tokio::test]
async fn a_check_that_waits_until_it_expires_is_missed_and_never_sent() {
    let (place, server) =
        (TestRegion::on_shared_nats("polite-expired").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 10, |config| config.behaviour.per_host = 1).await;
    place.queue_check(1, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the first at work", async || server.waiting_requests() == 1).await;

    let expires_at = Some(clock::wall_clock_now().saturating_add(Duration::from_millis(300)));
    let request = CheckRequest { expires_at, ..scheduled_request(2, &server.url("/ok")) };
    place.publish_request(&scheduled_job_subject(&place.region, SiteId(2)), &request).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.site_id, result.outcome), (Some(SiteId(2)), Outcome::Missed));
    assert_eq!((result.cause, result.started_at), (Some(Cause::Expired), None));
    let message = result.message.unwrap();
    assert!(message.contains(&format!("its turn at {}, where 1 checks", server.address())), "{message}");
    assert_eq!(
        (server.accepted_connections(), prober.read_metric("picket_prober_host_rejections_total")),
        (1, 1.0)
    );
}

#[tokio::test]
async fn jobs_waiting_when_a_prober_stops_are_performed_by_another() {
    let (place, server) = (TestRegion::on_shared_nats("polite-stop").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 10, |config| config.behaviour.per_host = 1).await;
    place.queue_check(1, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the first at work", async || server.waiting_requests() == 1).await;
    place.queue_check(2, &server.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the second waiting", async || {
        prober.read_metric("picket_prober_checks_waiting") == 1.0
    })
    .await;

    let stopping = tokio::spawn(prober.running.drain());
    let _other = place.start_ready_prober("two", 10).await;
    eventually(STATE_TIMEOUT, "the second at work elsewhere", async || server.waiting_requests() == 2).await;
    server.release_responses(2);
    stopping.await.unwrap();

    let results = place.read_results(2).await;
    let by =
        |site| results.iter().find(|result| result.site_id == Some(SiteId(site))).unwrap().prober.as_str();
    assert_eq!((by(1), by(2)), ("one", "two"));
}

#[tokio::test]
async fn a_check_that_waits_for_a_slot_holds_no_turn_at_its_host_meanwhile() {
    let place = TestRegion::on_shared_nats("polite-turn-slot").await;
    let (busy, other) = (Target::serve_withheld().await, Target::serve_withheld().await);
    // One slot for checks that have waited.
    let prober = place.start_ready_with("one", 4, |config| config.behaviour.per_host = 1).await;
    for (server, sites) in [(&busy, [1, 2]), (&other, [3, 4])] {
        place.queue_check(sites[0], &server.url("/ok")).await;
        eventually(STATE_TIMEOUT, "the first at work", async || server.waiting_requests() == 1).await;
        place.queue_check(sites[1], &server.url("/ok")).await;
    }
    eventually(STATE_TIMEOUT, "two waiting", async || {
        prober.read_metric("picket_prober_checks_waiting") == 2.0
    })
    .await;

    busy.release_responses(1);
    eventually(STATE_TIMEOUT, "the second in the only slot", async || {
        busy.accepted_connections() == 2 && busy.waiting_requests() == 1
    })
    .await;
    other.release_responses(1);
    place.read_results(2).await;
    // The fourth could have its turn and has no slot; the fifth has both.
    place.queue_check(5, &other.url("/ok")).await;
    eventually(STATE_TIMEOUT, "the fifth at work", async || {
        other.accepted_connections() == 2 && other.waiting_requests() == 1
    })
    .await;
    busy.release_responses(1);
    other.release_responses(2);
    let results = place.read_results(5).await;

    let sites: Vec<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert!(sites.iter().position(|site| *site == 5) < sites.iter().position(|site| *site == 4), "{sites:?}");
    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!((busy.max_waiting_requests(), other.max_waiting_requests()), (1, 1));
}

#[tokio::test]
async fn ad_hoc_checks_respect_the_host_limit() {
    let (place, server) = (TestRegion::on_shared_nats("polite-adhoc").await, Target::serve_withheld().await);
    let prober = place.start_ready_with("one", 10, |config| config.behaviour.per_host = 2).await;
    let payload = json!({"url": server.url("/ok")}).to_string();

    for _ in 0..4 {
        place.bus.client.publish(subject::region_check(&place.region), payload.clone().into()).await.unwrap();
    }
    eventually(STATE_TIMEOUT, "two at work, two waiting", async || {
        let seen = (server.waiting_requests(), prober.read_metric("picket_prober_checks_waiting"));
        if seen == (2, 2.0) { Ok(()) } else { Err(seen) }
    })
    .await;
    server.release_responses(4);

    assert!(place.read_results(4).await.iter().all(|result| result.outcome == Outcome::Up));
    assert_eq!(server.max_waiting_requests(), 2);
}

#[tokio::test]
async fn a_check_sends_pickets_user_agent_unless_its_site_sets_one() {
    let (place, target) = (TestRegion::on_shared_nats("polite-agent").await, Target::serve_http().await);
    let agent = "Picket/1 (+https://status.example/bot)";
    let _prober = place
        .start_ready_with("one", 10, |config| config.behaviour.user_agent = Some(agent.to_owned()))
        .await;

    let own = [("User-Agent".to_owned(), "Mozilla/5.0 (mine)".to_owned())].into();
    place.queue_check(1, &target.url("/ok")).await;
    place.read_results(1).await;
    let request = CheckRequest { headers: own, ..scheduled_request(2, &target.url("/ok")) };
    place.publish_request(&scheduled_job_subject(&place.region, SiteId(2)), &request).await;
    place.read_results(2).await;

    let agents: Vec<String> = target
        .received_requests()
        .iter()
        .flat_map(|head| head.lines())
        .filter_map(|line| Some(line.to_lowercase().strip_prefix("user-agent: ")?.to_owned()))
        .collect();
    assert_eq!(agents, [agent.to_lowercase(), "mozilla/5.0 (mine)".to_owned()]);
}
