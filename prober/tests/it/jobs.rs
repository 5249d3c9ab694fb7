//! Queued jobs: taken, done, stored, and only then acknowledged.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{consumer::PullConsumer, message::PublishMessage};
use futures_util::StreamExt;
use picket_harness::{builders::scheduled_job_subject, eventually, servers, targets::Target};
use picket_proto::{Cause, CheckKind, CheckRequest, Outcome, Shard, SiteId, subject};
use picket_runtime::clock;
use serde_json::{Value, json};

use crate::bus::{STATE_TIMEOUT, TestRegion, scheduled_request};

#[tokio::test]
async fn a_job_is_performed_its_result_stored_and_then_it_is_acknowledged() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-done").await, Target::serve_http().await);
    let _prober = place.start_prober("one", 10).await;

    place.queue_check(42, &target.url("/ok")).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.kind), (Outcome::Up, CheckKind::Scheduled));
    assert_eq!((result.site_id, result.shard), (Some(SiteId(42)), Some(Shard(7))));
    assert_eq!((result.region, result.prober.as_str()), (place.region.clone(), "one"));
    assert!(result.timing.first_byte_us.is_some() && result.started_at.is_some());
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

#[tokio::test]
async fn an_expired_job_is_missed_without_a_request_to_the_site() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-expired").await, Target::serve_http().await);
    let _prober = place.start_prober("one", 10).await;
    let now = clock::wall_clock_now();
    let late = CheckRequest {
        scheduled_at: Some(now.saturating_sub(Duration::from_secs(70))),
        expires_at: Some(now.saturating_sub(Duration::from_secs(10))),
        ..scheduled_request(42, &target.url("/ok"))
    };

    place.publish_request(&scheduled_job_subject(&place.region, SiteId(42)), &late).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Expired)));
    assert_eq!((result.started_at, result.scheduled_at), (None, late.scheduled_at.unwrap()));
    assert_eq!(target.accepted_connections(), 0);
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

#[tokio::test]
async fn a_job_in_the_stream_is_performed_regardless_of_the_local_clock() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-clock").await, Target::serve_http().await);
    let _prober = place.start_prober("one", 10).await;
    // As a coordinator writes it whose database's clock is five minutes behind ours, or ours ahead of its.
    let tick = clock::wall_clock_now().saturating_sub(Duration::from_secs(300));
    let job = CheckRequest {
        scheduled_at: Some(tick),
        expires_at: Some(tick.saturating_add(Duration::from_secs(60))),
        ..scheduled_request(42, &target.url("/ok"))
    };

    let message = PublishMessage::build().payload(serde_json::to_vec(&job).unwrap().into());
    let message = message.ttl(Duration::from_secs(61));
    let subject = scheduled_job_subject(&place.region, SiteId(42));
    place.bus.jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!(result.outcome, Outcome::Up);
    assert!(result.lateness().is_some_and(|late| late < Duration::from_secs(60)), "{result:?}");
}

#[tokio::test]
async fn a_job_is_acknowledged_only_when_its_result_is_stored() {
    let nats = servers::start_nats().await;
    let place = TestRegion::without_streams(&nats.url(), "eu").await;
    place.create_jobs_stream().await;
    let target = Target::serve_http().await;
    let prober = place.start_prober("one", 10).await;

    place.queue_check(42, &target.url("/ok")).await;
    eventually(STATE_TIMEOUT, "a publish that was tried again", async || {
        prober.read_metric("picket_prober_publish_retries_total") > 0.0
    })
    .await;
    assert_eq!(place.count_unacked_jobs().await, 1, "the job is not acknowledged");
    place.create_results_stream().await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!(result.outcome, Outcome::Up);
    assert_eq!(target.accepted_connections(), 1, "the check was not repeated");
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

#[tokio::test]
async fn simultaneous_results_are_bundled_and_each_job_is_acknowledged_after_storage() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-bundle").await, Target::serve_http().await);
    let url = target.url("/ok");
    for site in 0..100 {
        place.queue_check(site, &url).await;
    }
    let prober = place.start_ready_prober("one", 100).await;

    let results = place.read_results(100).await;

    let sites: BTreeSet<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert_eq!(sites, (0..100).collect());
    assert!(place.count_messages().await < 100, "some share one");
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
    assert_eq!(prober.read_metric("picket_prober_results_published_total"), 100.0);
}

#[tokio::test]
async fn an_invalid_job_becomes_a_dead_letter_and_the_next_is_performed() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-bad").await, Target::serve_http().await);
    let mut parked = place.bus.client.subscribe(subject::rejected_request(&place.region)).await.unwrap();
    let _prober = place.start_prober("one", 10).await;

    let without_tick = format!(r#"{{"url":"{}","site_id":2}}"#, target.url("/ok"));
    for (site, payload, field) in [(1, "not json", "request"), (2, &without_tick, "kind")] {
        let place_of_job = scheduled_job_subject(&place.region, SiteId(site));
        place.publish_payload(&place_of_job, payload.as_bytes()).await;
        let message = tokio::time::timeout(STATE_TIMEOUT, parked.next()).await.unwrap().unwrap();
        let said: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(
            (said["field"].as_str(), said["subject"].as_str()),
            (Some(field), Some(place_of_job.as_str()))
        );
        assert_eq!(said["payload"], payload);
    }
    place.queue_check(3, &target.url("/ok")).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!(result.site_id, Some(SiteId(3)));
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
}

#[tokio::test]
async fn a_scheduled_job_with_an_invalid_field_is_missed_as_invalid() {
    let place = TestRegion::on_shared_nats("jobs-invalid").await;
    let _prober = place.start_prober("one", 10).await;
    let request = CheckRequest { regex: Some("(".into()), ..scheduled_request(42, "http://127.0.0.1/") };

    place.publish_request(&scheduled_job_subject(&place.region, SiteId(42)), &request).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Invalid)));
    assert!(result.message.unwrap().contains("regex: '('"));
}

#[tokio::test]
async fn a_queued_ad_hoc_check_takes_its_id_from_the_subject() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-adhoc").await, Target::serve_http().await);
    let _prober = place.start_prober("one", 10).await;

    let request = CheckRequest::new(target.url("/ok"));
    place.publish_request(&format!("picket.job.{}.adhoc.my-id", place.region), &request).await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.id.as_str(), result.kind, result.site_id), ("my-id", CheckKind::Adhoc, None));
}

#[tokio::test]
async fn two_probers_of_a_region_share_its_jobs() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-shared").await, Target::serve_http().await);
    let _probers = (place.start_ready_prober("one", 5).await, place.start_ready_prober("two", 5).await);

    for site in 0..40 {
        place.queue_check(site, &target.url("/slow/50")).await;
    }
    let results = place.read_results(40).await;

    let sites: BTreeSet<_> = results.iter().map(|result| result.site_id).collect();
    let probers: BTreeSet<_> = results.iter().map(|result| result.prober.as_str()).collect();
    assert_eq!(sites.len(), 40);
    assert_eq!(probers, BTreeSet::from(["one", "two"]));
    assert_eq!(target.accepted_connections(), 40, "each job was done once");
}

#[tokio::test]
async fn a_prober_pulls_no_more_jobs_than_it_has_slots() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-slots").await, Target::serve_http().await);
    let prober = place.start_ready_prober("one", 3).await;

    for site in 0..10 {
        place.queue_check(site, &target.url("/slow/1000")).await;
    }
    eventually(STATE_TIMEOUT, "checks in every slot", async || target.accepted_connections() == 3).await;
    let consumer: PullConsumer = place
        .bus
        .jetstream
        .get_consumer_from_stream(subject::prober_consumer(&place.region), subject::JOBS_STREAM)
        .await
        .unwrap();

    assert_eq!(consumer.cached_info().num_ack_pending, 3, "the others wait in the stream");
    assert_eq!(prober.read_metric("picket_prober_slots_free"), 0.0);
    assert_eq!(place.read_results(10).await.len(), 10);
    assert_eq!(target.accepted_connections(), 10);
}

#[tokio::test]
async fn a_prober_waits_for_its_consumer_and_resumes_after_its_deletion() {
    let nats = servers::start_nats().await;
    let place = TestRegion::without_streams(&nats.url(), "eu").await;
    let target = Target::serve_http().await;
    let prober = place.start_prober("one", 10).await;

    eventually(STATE_TIMEOUT, "a reason with a remedy", async || {
        prober.health.unready_checks().into_iter().find(|(_, why)| why.contains("picket region add eu"))
    })
    .await;
    place.create_streams().await;
    eventually(STATE_TIMEOUT, "a prober that is ready", async || prober.check_ready()).await;
    let name = subject::prober_consumer(&place.region);
    place.bus.jetstream.delete_consumer_from_stream(&name, subject::JOBS_STREAM).await.unwrap();
    eventually(STATE_TIMEOUT, "a prober that is not ready", async || prober.check_ready().is_err()).await;
    place.create_streams().await;
    place.queue_check(42, &target.url("/ok")).await;

    assert_eq!(place.read_results(1).await.len(), 1);
    place.bus.jetstream.delete_stream(subject::JOBS_STREAM).await.unwrap();
    eventually(STATE_TIMEOUT, "a prober that is not ready", async || prober.check_ready().is_err()).await;
    place.create_streams().await;
    place.queue_check(43, &target.url("/ok")).await;
    assert_eq!(place.read_results(2).await.len(), 2);
}

#[tokio::test]
async fn a_prober_resumes_after_nats_was_killed_and_restarted() {
    let mut nats = servers::start_nats().await;
    let place = TestRegion::without_streams(&nats.url(), "eu").await;
    place.create_streams().await;
    let target = Target::serve_http().await;
    let prober = place.start_ready_prober("one", 10).await;

    nats.kill().await;
    eventually(STATE_TIMEOUT, "a prober that is not ready", async || prober.check_ready().is_err()).await;
    nats.start().await;
    place.bus.wait_connected().await.unwrap();
    place.queue_check(42, &target.url("/ok")).await;

    assert_eq!(place.read_results(1).await.len(), 1);
}

#[tokio::test]
async fn a_stopping_prober_finishes_running_checks_and_pulls_no_more() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-drain").await, Target::serve_http().await);
    let prober = place.start_ready_prober("one", 2).await;
    let health = prober.health.clone();
    place.queue_check(1, &target.url("/slow/1000")).await;
    eventually(STATE_TIMEOUT, "a check under way", async || target.accepted_connections() == 1).await;

    let stopping = tokio::spawn(prober.running.drain());
    eventually(STATE_TIMEOUT, "a prober that takes no more", async || {
        health.unready_checks().contains(&("jobs", "draining".into()))
    })
    .await;
    place.queue_check(2, &target.url("/ok")).await;
    stopping.await.unwrap();

    eventually(STATE_TIMEOUT, "the first job gone, the second waiting", async || {
        match place.count_unacked_jobs().await {
            1 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(target.accepted_connections(), 1);
    let _other = place.start_prober("two", 1).await;
    let results = place.read_results(2).await;
    assert_eq!((results[0].prober.as_str(), results[0].outcome), ("one", Outcome::Up));
    assert_eq!((results[1].prober.as_str(), results[1].site_id), ("two", Some(SiteId(2))));
}

#[tokio::test]
async fn a_job_with_an_unknown_feature_is_given_back_once_and_then_missed_by_the_name_of_the_feature() {
    let (place, target) = (TestRegion::on_shared_nats("jobs-newer").await, Target::serve_http().await);
    // Acknowledgements are messages to these subjects, whose fifth part counts the deliveries.
    let consumer = subject::prober_consumer(&place.region);
    let acks = format!("$JS.ACK.{}.{consumer}.>", subject::JOBS_STREAM);
    let mut acks = place.bus.client.subscribe(acks).await.unwrap();
    place.bus.client.flush().await.unwrap();
    let _probers = (place.start_prober("one", 10).await, place.start_prober("other", 10).await);
    let newer = |site: i64, fields: Value| {
        let mut job = serde_json::to_value(scheduled_request(site, "requires:assertions.future")).unwrap();
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        job
    };

    for (site, fields) in [
        (
            41,
            json!({"requires": ["assertions.future"], "check": {"url": target.url("/ok"), "assertions": {"future": 1}}}),
        ),
        (42, json!({"requires": ["options.future"], "url": target.url("/ok"), "options": {"future": 1}})),
    ] {
        let kind = if site == 41 { "scheduled" } else { "confirm" };
        let mut job = newer(site, fields);
        job["kind"] = json!(kind);
        let place_of_job = match site {
            41 => scheduled_job_subject(&place.region, SiteId(site)),
            _ => format!("picket.job.{}.{site}.confirm", place.region),
        };
        place.publish_payload(&place_of_job, job.to_string().as_bytes()).await;
    }
    let mut results = place.read_results(2).await;
    results.sort_by_key(|result| result.site_id);

    for (result, word) in results.iter().zip(["assertions.future", "options.future"]) {
        assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Unsupported)), "{result:?}");
        let message = result.message.as_deref().unwrap();
        assert!(message.contains(word) && message.contains(env!("CARGO_PKG_VERSION")), "{message}");
        assert_eq!(result.url, target.url("/ok"));
    }
    assert_eq!(target.accepted_connections(), 0);
    eventually(STATE_TIMEOUT, "no job left", async || place.count_unacked_jobs().await == 0).await;
    let mut given_back = Vec::new();
    for _ in 0..4 {
        let ack = tokio::time::timeout(STATE_TIMEOUT, acks.next()).await.unwrap().unwrap();
        let deliveries = ack.subject.split('.').nth(4).unwrap().to_owned();
        given_back.push((deliveries, String::from_utf8_lossy(&ack.payload).starts_with("-NAK")));
    }
    given_back.sort();
    let (first, second) = (("1".to_owned(), true), ("2".to_owned(), false));
    assert_eq!(given_back, [first.clone(), first, second.clone(), second]);
}
