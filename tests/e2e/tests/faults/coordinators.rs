//! Faults of a coordinator.

use std::collections::HashMap;

use picket_e2e::fault_test::{FaultTest, JobRecorder, RecordedJob, Topology, WAIT_TIMEOUT};
use picket_harness::{eventually, servers::Signal};
use picket_proto::{Epoch, Shard, Timestamp};

#[tokio::test]
async fn f1_a_killed_coordinators_shards_are_taken_over_and_every_tick_is_accounted_for() {
    let mut drill = FaultTest::start("F1", "kill -9 one of two coordinators", Topology::default()).await;

    drill.coordinators.remove(0).kill().await;
    drill.mark_fault_started().await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed, account.missed_for_cause("not_scheduled"), "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f3_a_stopped_coordinator_hands_over_and_no_tick_is_missed() {
    let mut drill = FaultTest::start("F3", "SIGTERM one of two coordinators", Topology::default()).await;

    drill.coordinators.remove(0).stop().await;
    drill.mark_fault_started().await;
    drill.wait_balanced().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed, 0, "{account:#?}");
    // The promise is a second; a machine that is busy with other tests may be slower by itself.
    assert!(account.latest_ms < 3_000, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f2_a_coordinator_paused_beyond_its_lease_publishes_nothing_for_it_when_resumed() {
    let mut drill =
        FaultTest::start("F2", "SIGSTOP one of two coordinators beyond its lease", Topology::default()).await;
    let witness = JobRecorder::subscribe(&drill).await;
    let paused = drill.coordinators.remove(0);
    let held = drill
        .stack
        .query_lines(&format!(
            "SELECT shard || ' ' || epoch FROM picket.leases WHERE holder LIKE '%-{}-%'",
            paused.pid()
        ))
        .await;
    let held: HashMap<Shard, Epoch> = held
        .iter()
        .filter_map(|line| {
            let (shard, epoch) = line.split_once(' ')?;
            Some((Shard(shard.parse().ok()?), Epoch(epoch.parse().ok()?)))
        })
        .collect();
    assert_eq!(held.len(), 32);

    paused.send_signal(Signal::STOP);
    let stopped = drill.mark_fault_started().await;
    drill.wait_balanced().await;
    drill.wait_served().await;
    paused.send_signal(Signal::CONT);
    drill.mark_fault_ended().await;
    eventually(WAIT_TIMEOUT, "the resumed coordinator's log line", async || {
        let log = paused.read_log();
        if log.contains("process was suspended")
            && log.contains(r#""message":"lost leases, stopped publishing for their shards","shards":32"#)
        {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    drill.coordinators.push(paused);
    drill.wait_balanced().await;
    drill.wait_served().await;

    let stopped = drill
        .stack
        .query_number(&format!("SELECT (extract(epoch FROM '{stopped}'::timestamptz) * 1000000)::bigint"))
        .await;
    let of_after = |job: &&RecordedJob| job.scheduled_at > Timestamp::from_micros(stopped);
    let heard = witness.recorded_jobs();
    let fenced: Vec<_> =
        heard.iter().filter(of_after).filter(|job| held.get(&job.shard) == Some(&job.epoch)).collect();
    assert_eq!(fenced, Vec::<&RecordedJob>::new(), "published under a lease that had passed to another");
    let taken_over =
        heard.iter().filter(of_after).filter(|job| held.get(&job.shard).is_some_and(|old| job.epoch > *old));
    assert!(taken_over.count() > 20, "{heard:?}");
    let account = drill.verify_account().await;
    assert_eq!(drill.describe_missed("cause <> 'not_scheduled'").await, [""; 0], "{account:#?}");
    drill.stop().await;
}
