//! At most so many checks at once to one host; who waits does not hold up others, and its wait is in no times.

use std::{collections::BTreeSet, time::Duration};

use picket_proto::{Cause, CheckRequest, CheckResult, Outcome, SiteId, subject};
use picket_runtime::clock;
use picket_testkit::{eventually, target::Target};
use serde_json::json;

use crate::{
    bus::{Place, SOON, scheduled},
    server::Server,
};

#[tokio::test]
async fn no_more_checks_run_at_once_at_a_host_than_allowed_and_all_get_their_turn() {
    let (place, server) = (Place::shared("polite-turns").await, Server::shut().await);
    let prober = place.ready_prober_with("one", 100, |config| config.manners.per_host = 3).await;

    for site in 0..20 {
        place.queue(site, &server.url()).await;
    }
    eventually(SOON, "three at work, the rest waiting", async || {
        let seen = (server.now(), prober.metric("picket_prober_checks_waiting"));
        if seen == (3, 17.0) { Ok(()) } else { Err(seen) }
    })
    .await;
    server.release(20);
    let results = place.results(20).await;

    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!((server.most(), server.connections()), (3, 20));
    assert_eq!(prober.metric("picket_prober_host_wait_seconds_count"), 17.0);
    assert_eq!(prober.metric("picket_prober_checks_waiting"), 0.0);
    eventually(SOON, "no slot taken", async || prober.metric("picket_prober_checks_running") == 0.0).await;
    eventually(SOON, "no job left", async || place.jobs_left().await == 0).await;
}

/// Without its own slots, a host with many sites would take all of the prober's.
#[tokio::test]
async fn a_host_with_many_sites_that_hangs_does_not_hold_up_others() {
    let (place, hanging) = (Place::shared("polite-others").await, Server::shut().await);
    let target = Target::http().await;
    let prober = place.ready_prober_with("one", 4, |config| config.manners.per_host = 2).await;

    for site in 0..20 {
        place.queue(site, &hanging.url()).await;
    }
    eventually(SOON, "all of them taken", async || prober.metric("picket_prober_checks_waiting") == 18.0)
        .await;
    for site in 100..120 {
        place.queue(site, &target.url("/ok")).await;
    }
    let results = place.results(20).await;

    let sites: BTreeSet<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert_eq!(sites, (100..120).collect(), "none of the hanging host is done");
    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!(hanging.now(), 2);
}

#[tokio::test]
async fn the_wait_for_a_turn_is_not_in_the_times() {
    let (place, server) = (Place::shared("polite-times").await, Server::shut().await);
    let prober = place.ready_prober_with("one", 10, |config| config.manners.per_host = 1).await;
    let waited = Duration::from_millis(700);

    place.queue(1, &server.url()).await;
    eventually(SOON, "the first at work", async || server.now() == 1).await;
    place.queue(2, &server.url()).await;
    eventually(SOON, "the second waiting", async || prober.metric("picket_prober_checks_waiting") == 1.0)
        .await;
    // Not for a state: this is the wait that must not be found in the times.
    tokio::time::sleep(waited).await;
    server.release(2);
    let [first, second] = place.results(2).await.try_into().unwrap();

    assert_eq!((first.site_id, second.site_id), (Some(SiteId(1)), Some(SiteId(2))));
    let total = |result: &CheckResult| Duration::from_micros(result.timing.total_us.unwrap().into());
    assert!(total(&first) >= waited, "{first:?}");
    let late = second.started_at.unwrap().since(second.scheduled_at);
    assert!(late >= waited, "the wait is lateness: {second:?}");
    assert!(total(&second) <= clock::wall().since(second.started_at.unwrap()), "{second:?}");
}

#[tokio::test]
async fn a_check_that_waits_until_it_expires_is_missed_and_never_sent() {
    let (place, server) = (Place::shared("polite-expired").await, Server::shut().await);
    let prober = place.ready_prober_with("one", 10, |config| config.manners.per_host = 1).await;
    place.queue(1, &server.url()).await;
    eventually(SOON, "the first at work", async || server.now() == 1).await;

    let expires_at = Some(clock::wall().plus(Duration::from_millis(300)));
    let request = CheckRequest { expires_at, ..scheduled(2, &server.url()) };
    place.publish(&subject::job(&place.region, SiteId(2)), &request).await;
    let [result] = place.results(1).await.try_into().unwrap();

    assert_eq!((result.site_id, result.outcome), (Some(SiteId(2)), Outcome::Missed));
    assert_eq!((result.cause, result.started_at), (Some(Cause::Expired), None));
    let message = result.message.unwrap();
    assert!(message.contains(&format!("its turn at {}, where 1 checks", server.address)), "{message}");
    assert_eq!((server.connections(), prober.metric("picket_prober_host_refusals_total")), (1, 1.0));
}

#[tokio::test]
async fn who_waits_when_the_prober_stops_is_done_by_another() {
    let (place, server) = (Place::shared("polite-stop").await, Server::shut().await);
    let prober = place.ready_prober_with("one", 10, |config| config.manners.per_host = 1).await;
    place.queue(1, &server.url()).await;
    eventually(SOON, "the first at work", async || server.now() == 1).await;
    place.queue(2, &server.url()).await;
    eventually(SOON, "the second waiting", async || prober.metric("picket_prober_checks_waiting") == 1.0)
        .await;

    let stopping = tokio::spawn(prober.running.drain());
    let _other = place.ready_prober("two", 10).await;
    eventually(SOON, "the second at work elsewhere", async || server.now() == 2).await;
    server.release(2);
    stopping.await.unwrap();

    let results = place.results(2).await;
    let by =
        |site| results.iter().find(|result| result.site_id == Some(SiteId(site))).unwrap().prober.as_str();
    assert_eq!((by(1), by(2)), ("one", "two"));
}

#[tokio::test]
async fn a_check_that_waits_for_a_slot_holds_no_turn_at_its_host_meanwhile() {
    let place = Place::shared("polite-turn-slot").await;
    let (busy, other) = (Server::shut().await, Server::shut().await);
    // One slot for checks that have waited.
    let prober = place.ready_prober_with("one", 4, |config| config.manners.per_host = 1).await;
    for (server, sites) in [(&busy, [1, 2]), (&other, [3, 4])] {
        place.queue(sites[0], &server.url()).await;
        eventually(SOON, "the first at work", async || server.now() == 1).await;
        place.queue(sites[1], &server.url()).await;
    }
    eventually(SOON, "two waiting", async || prober.metric("picket_prober_checks_waiting") == 2.0).await;

    busy.release(1);
    eventually(SOON, "the second in the only slot", async || busy.connections() == 2 && busy.now() == 1)
        .await;
    other.release(1);
    place.results(2).await;
    // The fourth could have its turn and has no slot; the fifth has both.
    place.queue(5, &other.url()).await;
    eventually(SOON, "the fifth at work", async || other.connections() == 2 && other.now() == 1).await;
    busy.release(1);
    other.release(2);
    let results = place.results(5).await;

    let sites: Vec<i64> = results.iter().filter_map(|result| Some(result.site_id?.0)).collect();
    assert!(sites.iter().position(|site| *site == 5) < sites.iter().position(|site| *site == 4), "{sites:?}");
    assert!(results.iter().all(|result| result.outcome == Outcome::Up), "{results:?}");
    assert_eq!((busy.most(), other.most()), (1, 1));
}

#[tokio::test]
async fn ad_hoc_checks_wait_their_turn_too() {
    let (place, server) = (Place::shared("polite-adhoc").await, Server::shut().await);
    let prober = place.ready_prober_with("one", 10, |config| config.manners.per_host = 2).await;
    let payload = json!({"url": server.url()}).to_string();

    for _ in 0..4 {
        place.bus.client.publish(subject::check(&place.region), payload.clone().into()).await.unwrap();
    }
    eventually(SOON, "two at work, two waiting", async || {
        let seen = (server.now(), prober.metric("picket_prober_checks_waiting"));
        if seen == (2, 2.0) { Ok(()) } else { Err(seen) }
    })
    .await;
    server.release(4);

    assert!(place.results(4).await.iter().all(|result| result.outcome == Outcome::Up));
    assert_eq!(server.most(), 2);
}

#[tokio::test]
async fn a_check_says_who_asks_unless_its_site_says_otherwise() {
    let (place, target) = (Place::shared("polite-agent").await, Target::http().await);
    let agent = "Picket/1 (+https://status.example/bot)";
    let _prober =
        place.ready_prober_with("one", 10, |config| config.manners.user_agent = Some(agent.to_owned())).await;

    let own = [("User-Agent".to_owned(), "Mozilla/5.0 (mine)".to_owned())].into();
    place.queue(1, &target.url("/ok")).await;
    place.results(1).await;
    let request = CheckRequest { headers: own, ..scheduled(2, &target.url("/ok")) };
    place.publish(&subject::job(&place.region, SiteId(2)), &request).await;
    place.results(2).await;

    let agents: Vec<String> = target
        .requests()
        .iter()
        .flat_map(|head| head.lines())
        .filter_map(|line| Some(line.to_lowercase().strip_prefix("user-agent: ")?.to_owned()))
        .collect();
    assert_eq!(agents, [agent.to_lowercase(), "mozilla/5.0 (mine)".to_owned()]);
}
