//! Processes that start before what they need, and one that loses it.

use picket_e2e::{
    Stack,
    drill::{Drill, LEASE, LONG, Scene},
};
use picket_testkit::{eventually, proxy::Proxy, servers, target::Target};

#[tokio::test]
async fn item6_processes_started_before_any_server_wait_aloud_and_then_work_by_themselves() {
    let target = Target::http().await;
    let mut nats = servers::nats().await;
    let mut postgres = servers::own_postgres().await;
    nats.stop().await;
    let url = postgres.url().to_owned();
    postgres.stop().await;
    let mut stack = Stack::bare(nats, url);
    let coordinator = stack.coordinator(&[]).await;
    let prober = stack.prober("local", &[]).await;
    let sink = stack.sink(&[]).await;
    let all = [&coordinator, &prober, &sink];
    for process in all {
        process.unready("").await;
        process.says("waiting for NATS at").await;
    }

    stack.nats.start().await;
    for process in [&coordinator, &sink] {
        process.says("waiting for the database").await;
        process.unready("database").await;
    }
    prober.says("is the region added").await;
    prober.unready("region 'local'").await;
    postgres.start().await;
    // Still nothing to work with: the schema is not there.
    for process in [&coordinator, &sink] {
        process.says("migrate").await;
    }
    assert_eq!(stack.picket(&["migrate"]).await.0, 0);
    assert_eq!(stack.picket(&["region", "add", "local"]).await.0, 0);
    assert_eq!(stack.picket(&["site", "add", &target.url("/ok"), "--interval", "5s"]).await.0, 0);

    for process in all {
        process.ready().await;
    }
    stack.at_least(LONG, 1, "SELECT count(*) FROM picket.check_results WHERE outcome = 'up'").await;
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn item6b_a_coordinator_that_cannot_reach_postgres_past_its_lease_stops_publishing_and_says_so() {
    let scene = Scene { coordinators: 1, ..Scene::default() };
    let postgres = servers::postgres().await;
    let mut drill = Drill::start("6b", "one of two coordinators cut off from Postgres alone", scene).await;
    let link = Proxy::to_port(postgres.port()).await;
    let url = drill.stack.url().replace(&format!(":{}/", postgres.port()), &format!(":{}/", link.port()));
    let far = drill.coordinator_with(&["--database-url", &url], &[]).await;
    far.ready().await;
    drill.coordinators.push(far);
    drill.share().await;

    link.blackhole();
    drill.injured().await;
    let far = drill.coordinators.pop().expect("the one that was pushed");
    far.says("its time ran out without a renewal").await;
    far.unready("leases").await;
    let published = far.jobs_published().await;
    assert!(published > 0.0);
    // The other has all shards, and all is served without this one.
    drill.share().await;
    drill.endure(LEASE).await;
    assert_eq!(far.metric("picket_coordinator_jobs_published_total"), published, "nothing without a lease");
    assert_eq!(far.metric("picket_coordinator_leases_held"), 0.0);
    link.heal().await;
    drill.healed().await;
    far.ready().await;
    drill.coordinators.push(far);
    drill.share().await;
    drill.served().await;
    eventually(LONG, "it publishes again", async || {
        drill.coordinators[1].metric("picket_coordinator_jobs_published_total") > published
    })
    .await;

    let account = drill.account().await;
    assert_eq!(account.missed, account.missed_for("not_scheduled"), "{account:#?}");
    drill.stop().await;
}
