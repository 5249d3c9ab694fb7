//! Cluster settings that change while coordinators run.

use super::*;

fn seconds(seconds: u64) -> SettingValue {
    SettingValue::Duration(Duration::from_secs(seconds))
}

/// The hazard of a range of intervals that each coordinator had for itself: one that was narrower ended the schedules of all sites of
/// its shards, and no correction of the range brought them back.
#[tokio::test]
async fn sites_outside_of_a_narrowed_range_are_scheduled_again_when_it_widens() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 20) n").await;
    let mut jobs = stack.record_jobs().await;
    let first = stack.start_coordinator("first", Duration::from_secs(15)).await;
    let second = stack.start_coordinator("second", Duration::from_secs(15)).await;
    jobs.wait_for_jobs(2).await;

    stack.set_settings(&[("min_interval", seconds(3_600))]).await;
    let named = "SELECT count(*) FROM picket.sites WHERE problem LIKE 'interval_seconds: ''1''%settings min_interval and max_interval%'";
    assert_eq!(stack.query_number(named).await, 20);
    let silent = async { while timeout(Duration::from_secs(3), jobs.subscriber.next()).await.is_ok() {} };
    timeout(TEST_DEADLINE, silent).await.expect("three seconds without a job");

    stack.set_settings(&[("min_interval", seconds(1))]).await;
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.sites WHERE problem IS NOT NULL").await, 0);
    jobs.ticks_by_site.clear();
    jobs.wait_for_jobs(3).await;

    assert_eq!(jobs.ticks_by_site.len(), 20);
    first.drain().await;
    second.drain().await;
}

#[tokio::test]
async fn a_running_coordinator_adopts_a_new_lease_time_without_losing_a_shard() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("holder", Duration::from_secs(3)).await;
    jobs.wait_for_jobs(1).await;
    let epochs = "SELECT sum(epoch)::bigint FROM picket.leases";
    let before = stack.query_number(epochs).await;

    for (lease_time, all_held) in [
        (
            300,
            "SELECT count(*) FROM picket.leases WHERE expires_at > now() + interval '250 s' AND lease_time = '300 s'",
        ),
        (
            3,
            "SELECT count(*) FROM picket.leases WHERE expires_at BETWEEN now() AND now() + interval '3 s' AND lease_time = '3 s'",
        ),
        (
            15,
            "SELECT count(*) FROM picket.leases WHERE expires_at > now() + interval '8 s' AND lease_time = '15 s'",
        ),
    ] {
        stack.set_settings(&[("lease_time", seconds(lease_time))]).await;
        eventually(TEST_DEADLINE, "all leases renewed by the new time", async || {
            match stack.query_number(all_held).await {
                64 => Ok(()),
                held => Err(held),
            }
        })
        .await;
    }

    assert_eq!(stack.query_number(epochs).await, before);
    let known = jobs.ticks_by_site.values().map(Vec::len).sum::<usize>();
    jobs.wait_for_jobs(known + 2).await;
    assert!(jobs.ticks_by_site.values().all(|ticks| ticks.windows(2).all(|pair| pair[1] - pair[0] == 1_000)));
    running.drain().await;
}

#[tokio::test]
async fn running_coordinators_update_the_streams_when_their_limits_change() {
    let stack = Stack::new().await;
    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    let limit = async |bytes: i64| {
        eventually(TEST_DEADLINE, "the limit of the stream", async || {
            let found = jetstream
                .get_stream(subject::RESULTS_STREAM)
                .await
                .map(|it| it.cached_info().config.max_bytes);
            if matches!(found, Ok(found) if found == bytes) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    limit(64 << 20).await;

    stack.set_settings(&[("results_max_bytes", SettingValue::Bytes(96 << 20))]).await;

    limit(96 << 20).await;
    running.drain().await;
}
