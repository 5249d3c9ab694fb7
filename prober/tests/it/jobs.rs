//! Queued jobs: taken, done, stored, and only then acknowledged.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{consumer::PullConsumer, message::PublishMessage};
use futures_util::StreamExt;
use picket_proto::{Cause, CheckRequest, Kind, Outcome, Shard, SiteId, subject};
use picket_runtime::clock;
use picket_testkit::{eventually, servers, target::Target};
use serde_json::Value;

use crate::bus::{Place, SOON, scheduled};

#[tokio::test]
async fn a_job_is_done_its_result_stored_and_then_it_is_gone() {
    let (place, target) = (Place::shared("jobs-done").await, Target::http().await);
    let _prober = place.prober("one", 10).await;

    place.queue(42, &target.url("/ok")).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.kind), (Outcome::Up, Kind::Scheduled));
    assert_eq!((result.site_id, result.shard), (Some(SiteId(42)), Some(Shard(7))));
    assert_eq!((result.region, result.prober.as_str()), (place.region.clone(), "one"));
    assert!(result.timing.first_byte_us.is_some() && result.started_at.is_some());
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
}

#[tokio::test]
async fn an_expired_job_is_missed_without_a_request_to_the_site() {
    let (place, target) = (Place::shared("jobs-expired").await, Target::http().await);
    let _prober = place.prober("one", 10).await;
    let now = clock::wall();
    let late = CheckRequest {
        scheduled_at: Some(now.minus(Duration::from_secs(70))),
        expires_at: Some(now.minus(Duration::from_secs(10))),
        ..scheduled(42, &target.url("/ok"))
    };

    place.publish(&subject::job(&place.region, SiteId(42)), &late).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Expired)));
    assert_eq!((result.started_at, result.scheduled_at), (None, late.scheduled_at.unwrap()));
    assert_eq!(target.connections(), 0);
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
}

#[tokio::test]
async fn a_job_that_the_stream_still_holds_is_done_whatever_this_machines_clock_says() {
    let (place, target) = (Place::shared("jobs-clock").await, Target::http().await);
    let _prober = place.prober("one", 10).await;
    // As a coordinator writes it whose database's clock is five minutes behind ours, or ours ahead of its.
    let tick = clock::wall().minus(Duration::from_secs(300));
    let job = CheckRequest {
        scheduled_at: Some(tick),
        expires_at: Some(tick.plus(Duration::from_secs(60))),
        ..scheduled(42, &target.url("/ok"))
    };

    let message = PublishMessage::build().payload(serde_json::to_vec(&job).unwrap().into());
    let message = message.ttl(Duration::from_secs(61));
    let subject = subject::job(&place.region, SiteId(42));
    place.bus.jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!(result.outcome, Outcome::Up);
    assert!(result.lateness().is_some_and(|late| late < Duration::from_secs(60)), "{result:?}");
}

#[tokio::test]
async fn a_job_is_acknowledged_only_when_its_result_is_stored() {
    let nats = servers::nats().await;
    let place = Place::bare(&nats.url(), "eu").await;
    place.provide_jobs().await;
    let target = Target::http().await;
    let prober = place.prober("one", 10).await;

    place.queue(42, &target.url("/ok")).await;
    eventually(SOON, "a publish that was tried again", async || {
        metric(&prober.health, "picket_prober_publish_retries_total") > 0.0
    })
    .await;
    assert_eq!(place.jobs_left().await, 1, "the job is not acknowledged");
    place.provide_results().await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!(result.outcome, Outcome::Up);
    assert_eq!(target.connections(), 1, "the check was not repeated");
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
}

#[tokio::test]
async fn results_of_the_same_moment_share_a_message_and_each_job_is_done_once_its_result_is_stored() {
    let (place, target) = (Place::shared("jobs-bundle").await, Target::http().await);
    let together = |config: &mut picket_prober::Config| config.bundle_from = 2;
    let url = target.url("/ok");
    for site in 0..100 {
        place.queue(site, &url).await;
    }
    let prober = place.ready_prober_with("one", 100, together).await;

    let results = place.results(100).await;

    let sites: BTreeSet<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert_eq!(sites, (0..100).collect());
    assert!(place.messages().await < 100, "some share one");
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
    assert_eq!(prober.metric("picket_prober_results_published_total"), 100.0);
}

#[tokio::test]
async fn a_job_that_cannot_be_used_is_parked_with_the_reason_and_the_next_is_done() {
    let (place, target) = (Place::shared("jobs-bad").await, Target::http().await);
    let mut parked = place.bus.client.subscribe(subject::rejected(&place.region)).await.unwrap();
    let _prober = place.prober("one", 10).await;

    let without_tick = format!(r#"{{"url":"{}","site_id":2}}"#, target.url("/ok"));
    for (site, payload, field) in [(1, "not json", "request"), (2, &without_tick, "kind")] {
        let place_of_job = subject::job(&place.region, SiteId(site));
        place.put(&place_of_job, payload.as_bytes()).await;
        let message = tokio::time::timeout(SOON, parked.next()).await.unwrap().unwrap();
        let said: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(
            (said["field"].as_str(), said["subject"].as_str()),
            (Some(field), Some(place_of_job.as_str()))
        );
        assert_eq!(said["payload"], payload);
    }
    place.queue(3, &target.url("/ok")).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!(result.site_id, Some(SiteId(3)));
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
}

#[tokio::test]
async fn a_scheduled_job_with_a_field_that_makes_no_sense_is_missed_as_invalid() {
    let place = Place::shared("jobs-invalid").await;
    let _prober = place.prober("one", 10).await;
    let request = CheckRequest { regex: Some("(".into()), ..scheduled(42, "http://127.0.0.1/") };

    place.publish(&subject::job(&place.region, SiteId(42)), &request).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Invalid)));
    assert!(result.message.unwrap().contains("regex: '('"));
}

#[tokio::test]
async fn a_queued_ad_hoc_check_takes_its_id_from_the_subject() {
    let (place, target) = (Place::shared("jobs-adhoc").await, Target::http().await);
    let _prober = place.prober("one", 10).await;

    let request = CheckRequest::new(target.url("/ok"));
    place.publish(&format!("picket.job.{}.adhoc.my-id", place.region), &request).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!((result.id.as_str(), result.kind, result.site_id), ("my-id", Kind::Adhoc, None));
}

#[tokio::test]
async fn two_probers_of_a_region_share_its_jobs() {
    let (place, target) = (Place::shared("jobs-shared").await, Target::http().await);
    let _probers = (place.ready_prober("one", 5).await, place.ready_prober("two", 5).await);

    for site in 0..40 {
        place.queue(site, &target.url("/slow/50")).await;
    }
    let results = place.results(40).await;

    let sites: BTreeSet<_> = results.iter().map(|result| result.site_id).collect();
    let probers: BTreeSet<_> = results.iter().map(|result| result.prober.as_str()).collect();
    assert_eq!(sites.len(), 40);
    assert_eq!(probers, BTreeSet::from(["one", "two"]));
    assert_eq!(target.connections(), 40, "each job was done once");
}

#[tokio::test]
async fn no_more_jobs_are_taken_than_there_are_slots() {
    let (place, target) = (Place::shared("jobs-slots").await, Target::http().await);
    let prober = place.ready_prober("one", 3).await;

    for site in 0..10 {
        place.queue(site, &target.url("/slow/1000")).await;
    }
    eventually(SOON, "checks in every slot", async || target.connections() == 3).await;
    let consumer: PullConsumer = place
        .bus
        .jetstream
        .get_consumer_from_stream(subject::prober_consumer(&place.region), subject::JOBS)
        .await
        .unwrap();

    assert_eq!(consumer.cached_info().num_ack_pending, 3, "the others wait in the stream");
    assert_eq!(metric(&prober.health, "picket_prober_slots_free"), 0.0);
    assert_eq!(place.results(10).await.len(), 10);
    assert_eq!(target.connections(), 10);
}

#[tokio::test]
async fn a_prober_waits_for_its_consumer_and_finds_it_again_when_it_was_deleted() {
    let nats = servers::nats().await;
    let place = Place::bare(&nats.url(), "eu").await;
    let target = Target::http().await;
    let prober = place.prober("one", 10).await;

    eventually(SOON, "a condition that says what to do", async || {
        prober.health.missing().into_iter().find(|(_, why)| why.contains("picket region add eu"))
    })
    .await;
    place.provide().await;
    eventually(SOON, "a prober that is ready", async || prober.is_ready()).await;
    let name = subject::prober_consumer(&place.region);
    place.bus.jetstream.delete_consumer_from_stream(&name, subject::JOBS).await.unwrap();
    eventually(SOON, "a prober that is not ready", async || prober.is_ready().is_err()).await;
    place.provide().await;
    place.queue(42, &target.url("/ok")).await;

    assert_eq!(place.results(1).await.len(), 1);
    place.bus.jetstream.delete_stream(subject::JOBS).await.unwrap();
    eventually(SOON, "a prober that is not ready", async || prober.is_ready().is_err()).await;
    place.provide().await;
    place.queue(43, &target.url("/ok")).await;
    assert_eq!(place.results(2).await.len(), 2);
}

#[tokio::test]
async fn a_prober_goes_on_after_nats_was_killed_and_came_back() {
    let mut nats = servers::nats().await;
    let place = Place::bare(&nats.url(), "eu").await;
    place.provide().await;
    let target = Target::http().await;
    let prober = place.ready_prober("one", 10).await;

    nats.kill().await;
    eventually(SOON, "a prober that is not ready", async || prober.is_ready().is_err()).await;
    nats.start().await;
    place.bus.connected().await.unwrap();
    place.queue(42, &target.url("/ok")).await;

    assert_eq!(place.results(1).await.len(), 1);
}

#[tokio::test]
async fn a_prober_that_stops_finishes_what_runs_and_takes_no_more() {
    let (place, target) = (Place::shared("jobs-drain").await, Target::http().await);
    let prober = place.ready_prober("one", 2).await;
    let health = prober.health.clone();
    place.queue(1, &target.url("/slow/1000")).await;
    eventually(SOON, "a check under way", async || target.connections() == 1).await;

    let stopping = tokio::spawn(prober.running.drain());
    eventually(SOON, "a prober that takes no more", async || {
        health.missing().contains(&("jobs", "draining".into()))
    })
    .await;
    place.queue(2, &target.url("/ok")).await;
    stopping.await.unwrap();

    eventually(SOON, "the first job gone, the second waiting", async || match place.jobs_left().await {
        1 => Ok(()),
        left => Err(left),
    })
    .await;
    assert_eq!(target.connections(), 1);
    let _other = place.prober("two", 1).await;
    let results = place.results(2).await;
    assert_eq!((results[0].prober.as_str(), results[0].outcome), ("one", Outcome::Up));
    assert_eq!((results[1].prober.as_str(), results[1].site_id), ("two", Some(SiteId(2))));
}

/// The number of a metric that there is one of.
fn metric(health: &picket_runtime::Health, name: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &health.registry()).unwrap();
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
