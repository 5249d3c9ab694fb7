//! What may happen to the streams: purged, deleted, full.

use std::time::Duration;

use async_nats::jetstream::{Context, consumer::pull};
use picket_e2e::drill::{Drill, LONG, Scene, Setting};
use picket_testkit::{eventually, servers};

const JOBS: &str = "PICKET_JOBS";
const RESULTS: &str = "PICKET_RESULTS";

/// How many messages of a stream no pull has been given.
async fn undelivered(jetstream: &Context, stream: &str, consumer: &str) -> u64 {
    let found = jetstream.get_consumer_from_stream::<pull::Config, _, _>(consumer, stream).await;
    found.expect("the consumer is there").cached_info().num_pending
}

/// Waits until so many messages wait that nobody has asked for: what those have asked for who sleep now has run out.
async fn waiting(jetstream: &Context, stream: &str, consumer: &str, least: u64) {
    eventually(LONG, &format!("{least} messages to wait for {consumer}"), async || {
        match undelivered(jetstream, stream, consumer).await {
            found if found >= least => Ok(()),
            found => Err(found),
        }
    })
    .await;
}

async fn purge(jetstream: &Context, stream: &str) -> u64 {
    let stream = jetstream.get_stream_no_info(stream).await.expect("a handle");
    stream.purge().await.expect("it is purged").purged
}

#[tokio::test]
async fn f14_jobs_that_are_purged_are_missed_and_not_silent() {
    let mut drill = Drill::start("F14", "jobs purged, twice, while they wait", Scene::default()).await;
    let jetstream = drill.stack.jetstream().await;

    drill.probers.iter().for_each(|(_, prober)| prober.signal("STOP"));
    drill.injured().await;
    for _ in 0..2 {
        for region in ["east", "west"] {
            waiting(&jetstream, JOBS, &format!("prober-{region}"), 4).await;
        }
        assert!(purge(&jetstream, JOBS).await >= 8);
    }
    drill.probers.iter().for_each(|(_, prober)| prober.signal("CONT"));
    drill.healed().await;
    drill.served().await;

    let account = drill.account().await;
    assert!(account.missed >= 16, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f14b_results_that_are_purged_before_a_sink_has_them_are_counted_and_missed() {
    let mut drill = Drill::start("F14b", "results purged while the sinks sleep", Scene::default()).await;
    let jetstream = drill.stack.jetstream().await;

    drill.sinks.iter().for_each(|sink| sink.signal("STOP"));
    drill.injured().await;
    waiting(&jetstream, RESULTS, "sink", 60).await;
    // They must have been seen to wait, for their loss to be seen.
    for coordinator in &drill.coordinators {
        eventually(LONG, "the coordinators to see them", async || {
            let seen = coordinator.metric("picket_coordinator_results_waiting");
            if seen >= 60.0 { Ok(()) } else { Err(seen) }
        })
        .await;
    }
    let lost = undelivered(&jetstream, RESULTS, "sink").await;
    assert!(purge(&jetstream, RESULTS).await >= lost);
    drill.sinks.iter().for_each(|sink| sink.signal("CONT"));
    drill.healed().await;
    for coordinator in &drill.coordinators {
        coordinator.says("results left the stream before a sink had stored them").await;
        let counted = coordinator.metric("picket_coordinator_results_discarded_total");
        assert!(counted >= 30.0, "{counted} of {lost}");
    }
    drill.served().await;

    let account = drill.account().await;
    assert!(account.missed >= 30, "{account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14c_streams_and_consumers_that_are_deleted_are_made_again_as_they_were_and_it_is_said() {
    let mut drill = Drill::start("F14c", "each stream and consumer deleted", Scene::default()).await;
    let jetstream = drill.stack.jetstream().await;
    let before = jetstream.get_stream(RESULTS).await.expect("it is there").cached_info().config.clone();

    for name in [JOBS, RESULTS] {
        jetstream.delete_stream(name).await.expect("it is deleted");
        drill.injured().await;
        for coordinator in &drill.coordinators {
            coordinator.says(&format!("the stream {name} was gone and has been made again")).await;
        }
        drill.served().await;
    }
    for (consumer, stream) in [("prober-east", JOBS), ("prober-west", JOBS), ("sink", RESULTS)] {
        jetstream.delete_consumer_from_stream(consumer, stream).await.expect("it is deleted");
        drill.healed().await;
        drill.served().await;
    }
    let said = |text: &str| drill.processes().any(|process| process.log().contains(text));
    for region in ["east", "west"] {
        assert!(said(&format!("the consumer prober-{region} was gone and has been made again")), "{region}");
    }
    assert!(said("no results can be taken, trying again"));
    let after = jetstream.get_stream(RESULTS).await.expect("it is there").cached_info().config.clone();
    assert_eq!(
        (after.max_bytes, after.max_age, after.num_replicas),
        (before.max_bytes, before.max_age, before.num_replicas)
    );

    drill.account().await;
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14e_when_the_bus_has_no_room_left_publishers_say_so_and_wait_and_all_goes_on_when_there_is_room() {
    let Some((nats, disk)) = servers::nats_on_small_disk(48).await else { return };
    let mut drill = Drill::start_in(
        "F14e",
        "the disk of the bus full, until it is started with room",
        Scene::default(),
        Setting { nats: Some(nats), ..Setting::default() },
    )
    .await;
    let memory = drill.memory();

    disk.fill();
    drill.injured().await;
    for coordinator in &drill.coordinators {
        coordinator.says("could not publish").await;
        coordinator.says("no job could be published for").await;
        coordinator.unready("jobs cannot be published").await;
    }
    drill.endure(Duration::from_secs(10)).await;
    drill.assert_flat(&memory, 16 << 10);
    disk.free();
    // A nats-server takes nothing more for a stream that it could not write to, until it is started again.
    drill.stack.nats.restart().await;
    drill.healed().await;
    drill.served().await;

    let account = drill.account().await;
    assert!(account.missed > 0, "{account:#?}");
    assert!(account.recovery_s < 30.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f14d_before_the_stream_of_results_is_full_no_jobs_are_published_and_no_result_is_thrown_away() {
    let scene = Scene { coordinator_options: &["--results-max-bytes", "1MiB"], ..Scene::default() };
    let mut drill = Drill::start("F14d", "no sink until a stream of 1 MiB is nearly full", scene).await;
    let url = drill.target.url("/ok/many");
    drill
        .stack
        .execute(&format!(
            "INSERT INTO picket.sites (url, interval_seconds, timeout_ms)
             SELECT '{url}/' || n, 2, 2000 FROM generate_series(1, 50) AS n"
        ))
        .await;
    let memory = drill.memory();

    drill.sinks.iter().for_each(|sink| sink.signal("STOP"));
    drill.injured().await;
    for coordinator in &drill.coordinators {
        coordinator.says("above 80 % no jobs are published").await;
        coordinator.says("publishing no jobs").await;
        coordinator.unready("no jobs are published").await;
        assert_eq!(coordinator.metric("picket_coordinator_planner_held_back"), 1.0);
        coordinator.jobs_published().await;
    }
    let published = drill.coordinators_count("jobs_published_total");
    drill.endure(picket_e2e::drill::LEASE).await;
    assert_eq!(drill.coordinators_count("jobs_published_total"), published);
    let jetstream = drill.stack.jetstream().await;
    let stream = jetstream.get_stream(RESULTS).await.expect("it is there").cached_info().clone();
    assert!(stream.state.bytes < 1 << 20, "{:?}", stream.state);
    assert_eq!(stream.state.first_sequence, 1, "nothing was thrown away");
    drill.assert_flat(&memory, 16 << 10);
    drill.sinks.iter().for_each(|sink| sink.signal("CONT"));
    drill.healed().await;
    for coordinator in &drill.coordinators {
        coordinator.says("publishing jobs again").await;
        coordinator.ready().await;
    }
    drill.served().await;
    // What was given to sinks that slept comes again after a minute.
    eventually(LONG, "no result to wait for longer than a moment", async || {
        let waiting = drill.coordinators[0].metric("picket_coordinator_results_waiting");
        if waiting < 100.0 { Ok(()) } else { Err(waiting) }
    })
    .await;

    let account = drill.account().await;
    assert_eq!(account.missed, account.missed_for("not_scheduled"), "{account:#?}");
    assert!(account.missed > 0, "{account:#?}");
    assert_eq!(drill.coordinators_count("results_discarded_total"), 0.0);
    for coordinator in &drill.coordinators {
        let lost = coordinator.metric_where("picket_coordinator_jobs_lost_total", "cause=\"backlog\"");
        assert!(lost > 0.0, "those not published are counted by their cause");
    }
    drill.stop().await;
}
