//! A prober that has no network says so, and not that the sites are down. "No network" is made of listeners that die.

use picket_prober::Config;
use picket_proto::{Cause, CheckResult, Outcome, SiteId, subject};
use picket_testkit::{
    eventually,
    target::{Identity, Target},
};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    bus::{Place, SOON},
    server::Server,
};

fn canaries(config: &mut Config, canaries: &[&Server]) {
    config.manners.canaries = canaries.iter().map(|server| server.url().parse().unwrap()).collect();
}

async fn servers(number: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..number {
        servers.push(Server::open().await);
    }
    servers
}

fn of(results: &[CheckResult], site: i64) -> (Outcome, Option<Cause>) {
    let result = results.iter().find(|result| result.site_id == Some(SiteId(site))).unwrap();
    (result.outcome, result.cause)
}

#[tokio::test]
async fn when_no_canary_answers_nothing_is_down_and_no_jobs_are_taken_until_one_does() {
    let place = Place::shared("canary-dies").await;
    let (sites, canary) = (servers(7).await, Server::open().await);
    let urls: Vec<String> = sites.iter().map(Server::url).collect();
    let prober = place.ready_prober_with("one", 20, |config| canaries(config, &[&canary])).await;
    for (site, url) in urls.iter().enumerate() {
        place.queue(site as i64, url).await;
    }
    assert!(place.results(7).await.iter().all(|result| result.outcome == Outcome::Up));

    let canary = canary.die().await;
    let mut addresses = Vec::new();
    for site in sites {
        addresses.push(site.die().await);
    }
    for (site, url) in urls.iter().enumerate() {
        place.queue(100 + site as i64, url).await;
    }
    let results = place.results(14).await;
    for site in 100..107 {
        assert_eq!(of(&results, site), (Outcome::Missed, Some(Cause::ProberOffline)), "{results:?}");
    }
    let (name, why) = eventually(SOON, "a prober that says why it is not ready", async || {
        prober.health.missing().into_iter().find(|(name, _)| *name == "network")
    })
    .await;
    assert_eq!((name, why.as_str()), ("network", "offline: none of 1 canaries answers"));
    assert_eq!(prober.metric("picket_prober_offline"), 1.0);

    eventually(SOON, "a prober that takes no jobs", async || {
        prober.health.missing().contains(&("jobs", "this prober has no network".into()))
    })
    .await;
    let _back = Server::at(addresses[0]).await;
    place.queue(200, &urls[0]).await;
    // The canary is asked again and again meanwhile; the job waits for somebody with a network.
    let rounds = prober.metric("picket_prober_canary_rounds_total");
    eventually(SOON, "another round", async || prober.metric("picket_prober_canary_rounds_total") > rounds)
        .await;
    assert_eq!(place.jobs_left().await, 1);

    let _canary = Server::at(canary).await;
    let results = place.results(15).await;
    assert_eq!(of(&results, 200), (Outcome::Up, None));
    eventually(SOON, "a prober that is ready", async || prober.is_ready()).await;
    assert_eq!(prober.metric("picket_prober_offline"), 0.0);
}

#[tokio::test]
async fn when_a_canary_answers_the_sites_are_down() {
    let place = Place::shared("canary-lives").await;
    let (sites, dead, canary) = (servers(6).await, Server::open().await, Server::open().await);
    let urls: Vec<String> = sites.iter().map(Server::url).collect();
    let prober = place.ready_prober_with("one", 20, |config| canaries(config, &[&dead, &canary])).await;
    dead.die().await;
    for site in sites {
        site.die().await;
    }

    for (site, url) in urls.iter().enumerate() {
        place.queue(site as i64, url).await;
    }
    let results = place.results(6).await;

    assert!(results.iter().all(|result| result.cause == Some(Cause::Connect)), "{results:?}");
    assert!(results.iter().all(|result| result.timing.connect_us.is_some()), "what was measured is kept");
    assert!(prober.is_ready().is_ok());
}

/// Somebody answers, and is nobody who was asked.
#[tokio::test]
async fn behind_a_captive_portal_a_prober_is_offline_and_no_site_has_a_bad_certificate() {
    let place = Place::shared("canary-portal").await;
    let portal = Target::https(&Identity::self_signed(&["portal.example"])).await;
    let canary = portal.named_url("/ok").parse().unwrap();
    let _prober = place.ready_prober_with("one", 20, |config| config.manners.canaries = vec![canary]).await;

    place.queue(1, &portal.named_url("/ok")).await;
    let results = place.results(1).await;

    assert_eq!(of(&results, 1), (Outcome::Missed, Some(Cause::ProberOffline)), "{results:?}");
}

#[tokio::test]
async fn a_bad_certificate_is_the_sites_where_a_canary_answers() {
    let place = Place::shared("canary-certificate").await;
    let (canary, site) = (Server::open().await, Target::https(&Identity::self_signed(&["a.example"])).await);
    let _prober = place.ready_prober_with("one", 20, |config| canaries(config, &[&canary])).await;

    place.queue(1, &site.named_url("/ok")).await;
    let results = place.results(1).await;

    assert_eq!(of(&results, 1), (Outcome::Down, Some(Cause::Tls)), "{results:?}");
}

#[tokio::test]
async fn a_failure_beside_sites_that_answer_is_the_sites_and_keeps_what_was_measured() {
    let place = Place::shared("canary-beside").await;
    let (well, canary) = (Target::http().await, Server::open().await);
    let prober = place.ready_prober_with("one", 20, |config| canaries(config, &[&canary])).await;
    let dead = Server::open().await.die().await;

    place.queue(1, &format!("http://{dead}/")).await;
    for site in 100..140 {
        place.queue(site, &well.url("/slow/50")).await;
    }
    let results = place.results(41).await;

    assert_eq!(of(&results, 1), (Outcome::Down, Some(Cause::Connect)));
    assert_eq!(results.iter().filter(|result| result.outcome == Outcome::Up).count(), 40);
    assert!(prober.is_ready().is_ok());
}

#[tokio::test]
async fn a_prober_with_a_network_takes_over_from_one_without() {
    let place = Place::shared("canary-other").await;
    let (site, canary) = (Server::open().await, Server::open().await);
    let alone = place.ready_prober_with("without", 20, |config| canaries(config, &[&canary])).await;
    let (url, _) = (site.url(), canary.die().await);
    let address = site.die().await;
    place.queue(1, &url).await;
    let results = place.results(1).await;
    assert_eq!(of(&results, 1), (Outcome::Missed, Some(Cause::ProberOffline)));

    // For an ad-hoc request too; nobody is asked in vain.
    let asked =
        place.bus.client.request(subject::check(&place.region), json!({"url": url}).to_string().into());
    let answer = timeout(SOON, asked).await.unwrap().unwrap();
    let answer: CheckResult = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.cause, Some(Cause::ProberOffline));

    let _site = Server::at(address).await;
    let _other = place.ready_prober("with", 20).await;
    for site in 2..12 {
        place.queue(site, &url).await;
    }
    let results = place.results(12).await;

    for result in results.iter().filter(|result| result.site_id > Some(SiteId(1))) {
        assert_eq!((result.outcome, result.prober.as_str()), (Outcome::Up, "with"));
    }
    assert!(alone.is_ready().is_err());
}

#[tokio::test]
async fn without_canaries_a_failure_is_the_sites() {
    let place = Place::shared("canary-none").await;
    let _prober = place.ready_prober("one", 20).await;
    let mut urls = Vec::new();
    for site in servers(6).await {
        urls.push(site.url());
        site.die().await;
    }

    for (site, url) in urls.iter().enumerate() {
        place.queue(site as i64, url).await;
    }

    assert!(place.results(6).await.iter().all(|result| result.cause == Some(Cause::Connect)));
}
