//! Processes that start before their servers, and a coordinator that loses its database.

use picket_e2e::{
    Stack,
    fault_test::{FaultTest, LEASE_TIME, Topology, WAIT_TIMEOUT},
};
use picket_harness::{eventually, proxy::Proxy, servers, targets::Target};

#[tokio::test]
async fn f29_processes_started_before_their_servers_wait_and_log_and_then_work() {
    let target = Target::serve_http().await;
    let mut nats = servers::start_nats().await;
    let mut postgres = servers::start_postgres().await;
    nats.stop().await;
    let url = postgres.url().to_owned();
    postgres.stop().await;
    let mut stack = Stack::without_schema(nats, url);
    let coordinator = stack.spawn_coordinator(&[]).await;
    let prober = stack.spawn_prober("local", &[]).await;
    let sink = stack.spawn_sink(&[]).await;
    let all = [&coordinator, &prober, &sink];
    for process in all {
        process.wait_unready("").await;
        process.wait_logged("waiting for NATS").await;
    }

    stack.nats.start().await;
    for process in [&coordinator, &sink] {
        process.wait_logged("waiting for the database").await;
        process.wait_unready("database").await;
    }
    prober.wait_logged("is the region added").await;
    prober.wait_unready("region 'local'").await;
    postgres.start().await;
    // Still nothing to work with: the schema is not there.
    for process in [&coordinator, &sink] {
        process.wait_logged("migrate").await;
    }
    assert_eq!(stack.run_picket(&["migrate"]).await.0, 0);
    assert_eq!(stack.run_picket(&["region", "add", "local"]).await.0, 0);
    assert_eq!(stack.run_picket(&["site", "add", &target.url("/ok"), "--interval", "5s"]).await.0, 0);

    for process in all {
        process.wait_ready().await;
    }
    stack
        .wait_at_least(WAIT_TIMEOUT, 1, "SELECT count(*) FROM picket.check_results WHERE outcome = 'up'")
        .await;
    for process in [coordinator, prober, sink] {
        process.stop().await;
    }
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f29b_a_coordinator_without_postgres_beyond_its_lease_stops_publishing_and_logs_it() {
    let topology = Topology { coordinators: 1, ..Topology::default() };
    let postgres = servers::shared_postgres().await;
    let mut drill =
        FaultTest::start("F29b", "one of two coordinators cut off from Postgres alone", topology).await;
    let link = Proxy::forward_to_port(postgres.port()).await;
    let url =
        drill.stack.database_url().replace(&format!(":{}/", postgres.port()), &format!(":{}/", link.port()));
    let far = drill.spawn_coordinator_with(&["--database-url", &url], &[]).await;
    far.wait_ready().await;
    drill.coordinators.push(far);
    drill.wait_balanced().await;

    link.blackhole();
    drill.mark_fault_started().await;
    let far = drill.coordinators.pop().expect("the one that was pushed");
    far.wait_logged("expired without a renewal").await;
    far.wait_unready("leases").await;
    let published = far.wait_jobs_published().await;
    assert!(published > 0.0);
    // The other has all shards, and all is served without this one.
    drill.wait_balanced().await;
    drill.run_for(LEASE_TIME).await;
    assert_eq!(
        far.read_metric("picket_coordinator_jobs_published_total"),
        published,
        "nothing without a lease"
    );
    assert_eq!(far.read_metric("picket_coordinator_leases_held"), 0.0);
    link.heal().await;
    drill.mark_fault_ended().await;
    far.wait_ready().await;
    drill.coordinators.push(far);
    drill.wait_balanced().await;
    drill.wait_served().await;
    eventually(WAIT_TIMEOUT, "it publishes again", async || {
        drill.coordinators[1].read_metric("picket_coordinator_jobs_published_total") > published
    })
    .await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed, account.missed_for_cause("not_scheduled"), "{account:#?}");
    drill.stop().await;
}
