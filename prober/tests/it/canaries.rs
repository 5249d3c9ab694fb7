//! A prober without a network is offline and reports no site as down. Listeners that close each
//! connection stand for a missing network.

use picket_harness::{
    eventually,
    targets::{Identity, Target},
};
use picket_prober::Config;
use picket_proto::{Cause, CheckResult, Outcome, SiteId, subject};
use serde_json::json;
use tokio::time::timeout;

use crate::bus::{STATE_TIMEOUT, TestRegion};

fn set_canaries(config: &mut Config, canaries: &[&Target]) {
    config.behaviour.canaries = canaries.iter().map(|server| server.url("/ok").parse().unwrap()).collect();
}

async fn open_servers(number: usize) -> Vec<Target> {
    let mut servers = Vec::new();
    for _ in 0..number {
        servers.push(Target::serve_http().await);
    }
    servers
}

fn outcome_of(results: &[CheckResult], site: i64) -> (Outcome, Option<Cause>) {
    let result = results.iter().find(|result| result.site_id == Some(SiteId(site))).unwrap();
    (result.outcome, result.cause)
}

#[tokio::test]
async fn without_an_answering_canary_no_site_is_down_and_no_job_is_pulled() {
    let place = TestRegion::on_shared_nats("canary-dies").await;
    let (sites, canary) = (open_servers(7).await, Target::serve_http().await);
    let urls: Vec<String> = sites.iter().map(|site| site.url("/ok")).collect();
    let prober = place.start_ready_with("one", 20, |config| set_canaries(config, &[&canary])).await;
    for (site, url) in urls.iter().enumerate() {
        place.queue_check(site as i64, url).await;
    }
    assert!(place.read_results(7).await.iter().all(|result| result.outcome == Outcome::Up));

    let canary = canary.shut_down().await;
    let mut addresses = Vec::new();
    for site in sites {
        addresses.push(site.shut_down().await);
    }
    for (site, url) in urls.iter().enumerate() {
        place.queue_check(100 + site as i64, url).await;
    }
    let results = place.read_results(14).await;
    for site in 100..107 {
        assert_eq!(outcome_of(&results, site), (Outcome::Missed, Some(Cause::ProberOffline)), "{results:?}");
    }
    let (name, why) = eventually(STATE_TIMEOUT, "a prober that is unready with a reason", async || {
        prober.health.unready_checks().into_iter().find(|(name, _)| *name == "network")
    })
    .await;
    assert_eq!((name, why.as_str()), ("network", "offline: none of 1 canaries answers"));
    assert_eq!(prober.read_metric("picket_prober_offline"), 1.0);

    eventually(STATE_TIMEOUT, "a prober that takes no jobs", async || {
        prober.health.unready_checks().contains(&("jobs", "this prober has no network".into()))
    })
    .await;
    let _back = Target::serve_http_at(addresses[0]).await.unwrap();
    place.queue_check(200, &urls[0]).await;
    // The canary is checked repeatedly meanwhile; the job waits for a prober with a network.
    let rounds = prober.read_metric("picket_prober_canary_rounds_total");
    eventually(STATE_TIMEOUT, "another round", async || {
        prober.read_metric("picket_prober_canary_rounds_total") > rounds
    })
    .await;
    assert_eq!(place.count_unacked_jobs().await, 1);

    let _canary = Target::serve_http_at(canary).await.unwrap();
    let results = place.read_results(15).await;
    assert_eq!(outcome_of(&results, 200), (Outcome::Up, None));
    eventually(STATE_TIMEOUT, "a prober that is ready", async || prober.check_ready()).await;
    assert_eq!(prober.read_metric("picket_prober_offline"), 0.0);
}

#[tokio::test]
async fn failing_sites_are_down_when_a_canary_answers() {
    let place = TestRegion::on_shared_nats("canary-lives").await;
    let (sites, dead, canary) =
        (open_servers(6).await, Target::serve_http().await, Target::serve_http().await);
    let urls: Vec<String> = sites.iter().map(|site| site.url("/ok")).collect();
    let prober = place.start_ready_with("one", 20, |config| set_canaries(config, &[&dead, &canary])).await;
    dead.shut_down().await;
    for site in sites {
        site.shut_down().await;
    }

    for (site, url) in urls.iter().enumerate() {
        place.queue_check(site as i64, url).await;
    }
    let results = place.read_results(6).await;

    assert!(results.iter().all(|result| result.cause == Some(Cause::Connect)), "{results:?}");
    assert!(results.iter().all(|result| result.timing.connect_us.is_some()), "measurements are kept");
    assert!(prober.check_ready().is_ok());
}

/// A captive portal answers in place of the site.
#[tokio::test]
async fn a_captive_portal_makes_the_prober_offline_and_no_certificate_invalid() {
    let place = TestRegion::on_shared_nats("canary-portal").await;
    let portal = Target::serve_https(&Identity::self_signed(&["portal.example"])).await;
    let canary = portal.localhost_url("/ok").parse().unwrap();
    let _prober = place.start_ready_with("one", 20, |config| config.behaviour.canaries = vec![canary]).await;

    place.queue_check(1, &portal.localhost_url("/ok")).await;
    let results = place.read_results(1).await;

    assert_eq!(outcome_of(&results, 1), (Outcome::Missed, Some(Cause::ProberOffline)), "{results:?}");
}

#[tokio::test]
async fn an_invalid_certificate_is_down_when_a_canary_answers() {
    let place = TestRegion::on_shared_nats("canary-certificate").await;
    let (canary, site) =
        (Target::serve_http().await, Target::serve_https(&Identity::self_signed(&["a.example"])).await);
    let _prober = place.start_ready_with("one", 20, |config| set_canaries(config, &[&canary])).await;

    place.queue_check(1, &site.localhost_url("/ok")).await;
    let results = place.read_results(1).await;

    assert_eq!(outcome_of(&results, 1), (Outcome::Down, Some(Cause::Tls)), "{results:?}");
}

#[tokio::test]
async fn a_failure_beside_answering_sites_is_down_and_keeps_its_measurements() {
    let place = TestRegion::on_shared_nats("canary-beside").await;
    let (well, canary) = (Target::serve_http().await, Target::serve_http().await);
    let prober = place.start_ready_with("one", 20, |config| set_canaries(config, &[&canary])).await;
    let dead = Target::serve_http().await.shut_down().await;

    place.queue_check(1, &format!("http://{dead}/")).await;
    for site in 100..140 {
        place.queue_check(site, &well.url("/slow/50")).await;
    }
    let results = place.read_results(41).await;

    assert_eq!(outcome_of(&results, 1), (Outcome::Down, Some(Cause::Connect)));
    assert_eq!(results.iter().filter(|result| result.outcome == Outcome::Up).count(), 40);
    assert!(prober.check_ready().is_ok());
}

#[tokio::test]
async fn a_prober_with_a_network_takes_over_from_an_offline_one() {
    let place = TestRegion::on_shared_nats("canary-other").await;
    let (site, canary) = (Target::serve_http().await, Target::serve_http().await);
    let alone = place.start_ready_with("without", 20, |config| set_canaries(config, &[&canary])).await;
    let (url, _) = (site.url("/ok"), canary.shut_down().await);
    let address = site.shut_down().await;
    place.queue_check(1, &url).await;
    let results = place.read_results(1).await;
    assert_eq!(outcome_of(&results, 1), (Outcome::Missed, Some(Cause::ProberOffline)));

    // For an ad-hoc request too; the requester gets an answer.
    let asked = place
        .bus
        .client
        .request(subject::region_check(&place.region), json!({"url": url}).to_string().into());
    let answer = timeout(STATE_TIMEOUT, asked).await.unwrap().unwrap();
    let answer: CheckResult = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.cause, Some(Cause::ProberOffline));

    let _site = Target::serve_http_at(address).await.unwrap();
    let _other = place.start_ready_prober("with", 20).await;
    for site in 2..12 {
        place.queue_check(site, &url).await;
    }
    let results = place.read_results(12).await;

    for result in results.iter().filter(|result| result.site_id > Some(SiteId(1))) {
        assert_eq!((result.outcome, result.prober.as_str()), (Outcome::Up, "with"));
    }
    assert!(alone.check_ready().is_err());
}

#[tokio::test]
async fn without_canaries_a_failure_is_down() {
    let place = TestRegion::on_shared_nats("canary-none").await;
    let _prober = place.start_ready_prober("one", 20).await;
    let mut urls = Vec::new();
    for site in open_servers(6).await {
        urls.push(site.url("/ok"));
        site.shut_down().await;
    }

    for (site, url) in urls.iter().enumerate() {
        place.queue_check(site as i64, url).await;
    }

    assert!(place.read_results(6).await.iter().all(|result| result.cause == Some(Cause::Connect)));
}
