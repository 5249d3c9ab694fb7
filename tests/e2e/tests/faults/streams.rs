//! Faults of the streams: purged, deleted, full.

use std::time::Duration;

use async_nats::jetstream::{Context, consumer::pull};
use picket_e2e::fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::{
    eventually,
    servers::{self, Signal},
};

const JOBS_STREAM: &str = "PICKET_JOBS";
const RESULTS_STREAM: &str = "PICKET_RESULTS";

/// How many messages of a stream no pull has been given.
async fn count_undelivered(jetstream: &Context, stream: &str, consumer: &str) -> u64 {
    let found = jetstream.get_consumer_from_stream::<pull::Config, _, _>(consumer, stream).await;
    found.expect("the consumer is there").cached_info().num_pending
}

/// Waits until so many messages wait that nobody has asked for: what those have asked for who sleep now has run out.
async fn wait_undelivered(jetstream: &Context, stream: &str, consumer: &str, least: u64) {
    eventually(WAIT_TIMEOUT, &format!("{least} messages to wait for {consumer}"), async || {
        match count_undelivered(jetstream, stream, consumer).await {
            found if found >= least => Ok(()),
            found => Err(found),
        }
    })
    .await;
}

async fn purge_stream(jetstream: &Context, stream: &str) -> u64 {
    let stream = jetstream.get_stream_no_info(stream).await.expect("a handle");
    stream.purge().await.expect("it is purged").purged
}

#[tokio::test]
async fn f14_purged_jobs_are_missed_and_logged() {
    let mut drill = FaultTest::start("F14", "jobs purged, twice, while they wait", Topology::default()).await;
    let jetstream = drill.stack.connect_jetstream().await;

    drill.probers.iter().for_each(|(_, prober)| prober.send_signal(Signal::STOP));
    drill.mark_fault_started().await;
    for _ in 0..2 {
        for region in ["east", "west"] {
            wait_undelivered(&jetstream, JOBS_STREAM, &format!("prober-{region}"), 4).await;
        }
        assert!(purge_stream(&jetstream, JOBS_STREAM).await >= 8);
    }
    drill.probers.iter().for_each(|(_, prober)| prober.send_signal(Signal::CONT));
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert!(account.missed >= 16, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f14b_results_purged_before_a_sink_has_read_them_are_counted_and_missed() {
    let mut drill =
        FaultTest::start("F14b", "results purged while the sinks sleep", Topology::default()).await;
    let jetstream = drill.stack.connect_jetstream().await;

    drill.sinks.iter().for_each(|sink| sink.send_signal(Signal::STOP));
    drill.mark_fault_started().await;
    wait_undelivered(&jetstream, RESULTS_STREAM, "sink", 60).await;
    // A loss is detected only for results observed waiting.
    for coordinator in &drill.coordinators {
        eventually(WAIT_TIMEOUT, "the coordinators to see them", async || {
            let seen = coordinator.read_metric("picket_coordinator_results_waiting");
            if seen >= 60.0 { Ok(()) } else { Err(seen) }
        })
        .await;
    }
    let lost = count_undelivered(&jetstream, RESULTS_STREAM, "sink").await;
    assert!(purge_stream(&jetstream, RESULTS_STREAM).await >= lost);
    drill.sinks.iter().for_each(|sink| sink.send_signal(Signal::CONT));
    drill.mark_fault_ended().await;
    for coordinator in &drill.coordinators {
        coordinator.wait_logged("results left the stream before a sink had stored them").await;
        let counted = coordinator.read_metric("picket_coordinator_results_discarded_total");
        assert!(counted >= 30.0, "{counted} of {lost}");
    }
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert!(account.missed >= 30, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14c_deleted_streams_and_consumers_are_recreated_with_their_settings_and_logged() {
    let mut drill = FaultTest::start("F14c", "each stream and consumer deleted", Topology::default()).await;
    let jetstream = drill.stack.connect_jetstream().await;
    let before =
        jetstream.get_stream(RESULTS_STREAM).await.expect("it is there").cached_info().config.clone();

    for name in [JOBS_STREAM, RESULTS_STREAM] {
        jetstream.delete_stream(name).await.expect("it is deleted");
        drill.mark_fault_started().await;
        for coordinator in &drill.coordinators {
            coordinator
                .wait_logged(&format!(
                    r#""recreated a deleted stream, its messages are lost","stream":"{name}""#
                ))
                .await;
        }
        drill.wait_served().await;
    }
    for (consumer, stream) in
        [("prober-east", JOBS_STREAM), ("prober-west", JOBS_STREAM), ("sink", RESULTS_STREAM)]
    {
        jetstream.delete_consumer_from_stream(consumer, stream).await.expect("it is deleted");
        drill.mark_fault_ended().await;
        drill.wait_served().await;
    }
    let said = |text: &str| drill.all_processes().any(|process| process.read_log().contains(text));
    for region in ["east", "west"] {
        assert!(said(&format!(r#""recreated a deleted consumer","region":"{region}""#)), "{region}");
    }
    assert!(said("could not pull results, retrying"));
    let after = jetstream.get_stream(RESULTS_STREAM).await.expect("it is there").cached_info().config.clone();
    assert_eq!(
        (after.max_bytes, after.max_age, after.num_replicas),
        (before.max_bytes, before.max_age, before.num_replicas)
    );

    drill.verify_account().await;
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14e_publishers_report_a_full_bus_and_wait_until_it_has_space() {
    let Some((nats, disk)) = servers::start_nats_on_disk(48).await else { return };
    let mut drill = FaultTest::start_with(
        "F14e",
        "the disk of the bus full, until a restart with space",
        Topology::default(),
        Environment { nats: Some(nats), ..Environment::default() },
    )
    .await;
    let memory = drill.memory_by_process();

    disk.fill_up();
    drill.mark_fault_started().await;
    for coordinator in &drill.coordinators {
        coordinator.wait_logged("could not publish").await;
        coordinator.wait_logged("jobs cannot be published, leaving shards").await;
        coordinator.wait_unready("jobs cannot be published").await;
    }
    drill.run_for(Duration::from_secs(10)).await;
    drill.assert_memory_flat(&memory, 16 << 10);
    disk.remove_ballast();
    // A nats-server takes nothing more for a stream that it could not write to, until it is started again.
    drill.stack.nats.restart().await;
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert!(account.missed > 0, "{account:#?}");
    assert!(account.recovery_s < 30.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14d_publishing_pauses_before_the_results_stream_would_discard_results() {
    let topology = Topology { settings: &[("results_max_bytes", "1MiB")], ..Topology::default() };
    let mut drill =
        FaultTest::start("F14d", "no sink until a stream of 1 MiB is nearly full", topology).await;
    let url = drill.target.url("/ok/many");
    drill
        .stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
             SELECT '{url}/' || n, 2, 2000 FROM generate_series(1, 50) AS n"
        ))
        .await;
    let memory = drill.memory_by_process();

    drill.sinks.iter().for_each(|sink| sink.send_signal(Signal::STOP));
    drill.mark_fault_started().await;
    for coordinator in &drill.coordinators {
        coordinator.wait_logged("results backlog is high").await;
        coordinator.wait_logged("paused publishing").await;
        coordinator.wait_unready("no jobs are published").await;
        assert_eq!(coordinator.read_metric("picket_coordinator_publishing_paused"), 1.0);
        coordinator.wait_jobs_published().await;
    }
    let published = drill.sum_coordinator_metric("jobs_published_total");
    drill.run_for(picket_e2e::fault_test::LEASE_TIME).await;
    assert_eq!(drill.sum_coordinator_metric("jobs_published_total"), published);
    let jetstream = drill.stack.connect_jetstream().await;
    let stream = jetstream.get_stream(RESULTS_STREAM).await.expect("it is there").cached_info().clone();
    assert!(stream.state.bytes < 1 << 20, "{:?}", stream.state);
    assert_eq!(stream.state.first_sequence, 1, "nothing was thrown away");
    drill.assert_memory_flat(&memory, 16 << 10);
    drill.sinks.iter().for_each(|sink| sink.send_signal(Signal::CONT));
    drill.mark_fault_ended().await;
    for coordinator in &drill.coordinators {
        coordinator.wait_logged("resumed publishing").await;
        coordinator.wait_ready().await;
    }
    drill.wait_served().await;
    // Results delivered to suspended sinks are redelivered after a minute.
    eventually(WAIT_TIMEOUT, "no result to wait for longer than a moment", async || {
        let waiting = drill.coordinators[0].read_metric("picket_coordinator_results_waiting");
        if waiting < 100.0 { Ok(()) } else { Err(waiting) }
    })
    .await;

    let account = drill.verify_account().await;
    assert_eq!(account.missed, account.missed_for_cause("not_scheduled"), "{account:#?}");
    assert!(account.missed > 0, "{account:#?}");
    assert_eq!(drill.sum_coordinator_metric("results_discarded_total"), 0.0);
    for coordinator in &drill.coordinators {
        let lost = coordinator.read_metric_where("picket_coordinator_jobs_lost_total", "cause=\"backlog\"");
        assert!(lost > 0.0, "unpublished jobs are counted by cause");
    }
    drill.stop().await;
}
