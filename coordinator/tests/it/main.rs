//! A coordinator on a real NATS and a real Postgres: which jobs does it publish, and when does it stop?

#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod check_model;
mod odd_sites;
mod owners;
mod patterns;
mod settings;
mod streams;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt;
use picket_coordinator::{Config, start};
use picket_harness::{builders::scheduled_job_subject, eventually, servers};
use picket_proto::{CheckRequest, Role, SiteId, subject};
use picket_runtime::{Bus, Health, PipelineHandle, clock, options::NatsOptions};
use picket_store::{
    DatabaseOptions, Store, ledger, regions,
    settings::{SettingValue, update_settings},
};
use sqlx::PgPool;
use tokio::time::timeout;

const TEST_DEADLINE: Duration = Duration::from_secs(20);

struct Stack {
    nats: servers::TestNats,
    url: String,
    pool: PgPool,
}

impl Stack {
    async fn new() -> Self {
        let nats = servers::start_nats().await;
        let url = servers::shared_postgres().await.create_database().await;
        let stack = Self { nats, pool: PgPool::connect(&url).await.unwrap(), url };
        stack.connect_store().migrate(64).await.unwrap();
        stack
            .set_settings(&[
                ("min_interval", SettingValue::Duration(Duration::from_secs(1))),
                ("ledger_grace", SettingValue::Duration(Duration::from_secs(10))),
                ("batch_delay", SettingValue::Duration(Duration::from_millis(100))),
                ("results_max_bytes", SettingValue::Bytes(64 << 20)),
            ])
            .await;
        regions::add_region(&stack.connect_store(), &"eu".parse().unwrap()).await.unwrap();
        stack
    }

    async fn set_settings(&self, changes: &[(&str, SettingValue)]) {
        update_settings(&self.connect_store(), changes).await.unwrap();
    }

    fn connect_store(&self) -> Store {
        let options = DatabaseOptions { database_url: Some(self.url.clone()) };
        Store::new(&options, "test", 5).unwrap()
    }

    async fn start_coordinator(&self, name: &str, lease_time: Duration) -> PipelineHandle {
        self.start_coordinator_with(name, lease_time, Health::new()).await
    }

    /// A coordinator whose metrics the test reads.
    async fn start_coordinator_with(
        &self,
        name: &str,
        lease_time: Duration,
        health: Health,
    ) -> PipelineHandle {
        let bus = Bus::connect(&NatsOptions::with_url(self.nats.url()), &Role::Coordinator, name, &health)
            .await
            .unwrap();
        let config = Config { name: name.to_owned(), max_jobs_bytes: 64 << 20 };
        self.set_settings(&[("lease_time", SettingValue::Duration(lease_time))]).await;
        start(config, bus, self.connect_store(), health).await.unwrap()
    }

    /// Records all jobs as they are published.
    async fn record_jobs(&self) -> JobLog {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        let subscriber = client.subscribe("picket.job.>").await.unwrap();
        client.flush().await.unwrap();
        JobLog { subscriber, ticks_by_site: BTreeMap::new() }
    }

    async fn execute_sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn query_number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

struct JobLog {
    subscriber: Subscriber,
    /// The ticks of each site, in milliseconds, as they came.
    ticks_by_site: BTreeMap<SiteId, Vec<i64>>,
}

impl JobLog {
    /// Listens until some site has had `count` jobs.
    async fn wait_for_jobs(&mut self, count: usize) {
        let listening = async {
            while self.ticks_by_site.values().map(Vec::len).max().unwrap_or(0) < count {
                let message = self.subscriber.next().await.unwrap();
                let request = CheckRequest::decode(&message.payload).unwrap();
                let tick = request.scheduled_tick().unwrap().unwrap();
                let id = request.id.unwrap();
                assert_eq!(message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(), id);
                assert_eq!(
                    message.subject.as_str(),
                    scheduled_job_subject(&"eu".parse().unwrap(), tick.site)
                );
                self.ticks_by_site.entry(tick.site).or_default().push(tick.scheduled_at.as_millis());
            }
        };
        timeout(TEST_DEADLINE, listening).await.expect("jobs");
    }
}

#[tokio::test]
async fn every_tick_is_published_exactly_once() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 50) n").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;

    jobs.wait_for_jobs(6).await;
    running.drain().await;

    assert_eq!(jobs.ticks_by_site.len(), 50);
    for (site, ticks) in &jobs.ticks_by_site {
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == 1_000), "site {site}: {ticks:?}");
    }
    let phases = "SELECT count(*) FROM picket.schedules WHERE phase_ms BETWEEN 0 AND 999";
    assert_eq!(stack.query_number(phases).await, 50);
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.leases WHERE holder IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_successor_resumes_where_the_predecessor_ended() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 20) n").await;
    let mut jobs = stack.record_jobs().await;
    let first = stack.start_coordinator("first", Duration::from_secs(15)).await;
    jobs.wait_for_jobs(3).await;

    first.drain().await;
    let second = stack.start_coordinator("second", Duration::from_secs(15)).await;
    jobs.wait_for_jobs(9).await;
    second.drain().await;

    for (site, ticks) in &mut jobs.ticks_by_site {
        // Jobs published by both have equal ids, and the stream keeps one; a take-over publishes
        // only jobs still worth doing.
        ticks.sort_unstable();
        ticks.dedup();
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] <= 3_000), "site {site}: {ticks:?}");
    }
}

#[tokio::test]
async fn a_coordinator_stops_publishing_when_another_has_acquired_its_shards() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("robbed", Duration::from_secs(3)).await;
    jobs.wait_for_jobs(2).await;

    stack.execute_sql("UPDATE picket.leases SET holder = 'robber', epoch = epoch + 1").await;
    // An unrenewed lease is free for any coordinator that has observed it for a lease time.
    let renewing = async {
        loop {
            stack
                .execute_sql("UPDATE picket.leases SET expires_at = clock_timestamp() + interval '3 seconds' WHERE holder = 'robber'")
                .await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let silent = async { while timeout(Duration::from_secs(3), jobs.subscriber.next()).await.is_ok() {} };

    tokio::select! {
        silent = timeout(TEST_DEADLINE, silent) => silent.expect("three seconds without a job"),
        () = renewing => {}
    }
    running.drain().await;
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.leases WHERE holder = 'robber'").await, 64);
}

#[tokio::test]
async fn deleted_streams_and_consumers_are_recreated_and_ticks_continue() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("maker", Duration::from_secs(15)).await;
    jobs.wait_for_jobs(2).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());

    for stream in [subject::JOBS_STREAM, subject::RESULTS_STREAM, subject::EVENTS_STREAM] {
        jetstream.delete_stream(stream).await.unwrap();
    }

    eventually(TEST_DEADLINE, "the region's consumer", async || {
        jetstream
            .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(
                "prober-eu",
                subject::JOBS_STREAM,
            )
            .await
            .is_ok()
    })
    .await;
    eventually(TEST_DEADLINE, "a job in the stream", async || {
        let mut stream = jetstream.get_stream(subject::JOBS_STREAM).await.ok()?;
        (stream.info().await.ok()?.state.messages > 0).then_some(())
    })
    .await;
    running.drain().await;
}

#[tokio::test]
async fn several_coordinators_share_evenly_and_take_over_a_stopped_ones_shards() {
    let stack = Stack::new().await;
    let mut running = Vec::new();
    for name in ["a", "b", "c"] {
        running.push(stack.start_coordinator(name, Duration::from_secs(6)).await);
    }
    let shares = async |expected: &[i64]| {
        eventually(TEST_DEADLINE, &format!("shares of {expected:?}"), async || {
            let sql =
                "SELECT count(*) FROM picket.leases WHERE expires_at > now() GROUP BY holder ORDER BY 1";
            let held: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&stack.pool).await.unwrap();
            if held == expected { Ok(()) } else { Err(held) }
        })
        .await;
    };

    shares(&[20, 22, 22]).await;
    running.remove(0).drain().await;
    shares(&[32, 32]).await;
    running.remove(0).drain().await;
    shares(&[64]).await;
    running.remove(0).drain().await;
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.leases WHERE holder IS NOT NULL").await, 0);
}

#[tokio::test]
async fn ticks_resume_after_a_bus_outage_longer_than_the_leases() {
    let mut stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 300) n").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("cut", Duration::from_secs(3)).await;
    jobs.wait_for_jobs(2).await;

    stack.nats.kill().await;
    eventually(Duration::from_secs(40), "leases left to others", async || {
        let held = stack.query_number("SELECT count(*) FROM picket.leases WHERE expires_at > now()").await;
        let live = stack.query_number("SELECT count(*) FROM picket.coordinators WHERE NOT draining").await;
        if (held, live) == (0, 0) { Ok(()) } else { Err((held, live)) }
    })
    .await;
    stack.nats.start().await;
    let mut jobs = stack.record_jobs().await;
    jobs.wait_for_jobs(3).await;

    running.drain().await;
    // Nothing of the outage was kept to be sent late.
    for (site, ticks) in &jobs.ticks_by_site {
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == 1_000), "site {site}: {ticks:?}");
    }
}

#[tokio::test]
async fn loading_shards_yields_the_sites_of_each_of_them() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 500) n").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("reader", Duration::from_secs(15)).await;

    let everybody = async {
        while jobs.ticks_by_site.len() < 500 {
            let most = jobs.ticks_by_site.values().map(Vec::len).max().unwrap_or(0);
            jobs.wait_for_jobs(most + 1).await;
        }
    };

    timeout(TEST_DEADLINE, everybody).await.expect("a job of each site");
    running.drain().await;
}

/// Ticks due before the acquisition of a shard that expired before its sites were read are not
/// published.
#[tokio::test]
async fn the_gap_before_a_take_over_lasts_until_the_sites_have_been_read() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    stack
        .execute_sql(
            "UPDATE picket.leases SET scheduled_through = '2026-01-01 12:00', accounted_through = now()",
        )
        .await;
    let mut reading_must_wait = stack.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE picket.sites").execute(&mut *reading_must_wait).await.unwrap();

    let running = stack.start_coordinator("late", Duration::from_secs(15)).await;
    let taken = "SELECT count(*) FROM picket.leases WHERE holder = 'late'";
    eventually(TEST_DEADLINE, "all shards to be taken", async || stack.query_number(taken).await == 64).await;
    sqlx::raw_sql("CREATE TABLE read_since AS SELECT clock_timestamp() AS at, pg_sleep(1.5)::text")
        .execute(&mut *reading_must_wait)
        .await
        .unwrap();
    reading_must_wait.commit().await.unwrap();

    let whole =
        "SELECT count(*) FROM picket.gaps, read_since WHERE gap_from = '2026-01-01 12:00' AND gap_to > at
                 AND shard = (SELECT shard FROM picket.sites)";
    eventually(TEST_DEADLINE, "the gap as one span", async || stack.query_number(whole).await == 1).await;
    running.drain().await;
}

#[tokio::test]
async fn results_of_a_closed_ledger_are_rolled_up_and_old_ones_are_dropped() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            "SELECT picket.ensure_partitions(40, 7);
             INSERT INTO picket.schedules (site_id, region_id, interval_ms, phase_ms, shard, valid_from, valid_to)
             SELECT 4711, 1, 60000, 0, 0, minute - interval '301 minutes', minute - interval '61 minutes'
             FROM date_trunc('minute', now()) AS minute;
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, total_us)
             SELECT tick, site_id, region_id, 'scheduled', 'up', 5000 FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, valid_to, '-infinity', 'infinity') AS tick
             WHERE site_id = 4711;
             UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '6 hours',
                 days_through = picket.day_of(picket.hour_of(now()) - interval '6 hours')",
        )
        .await;

    let running = stack.start_coordinator("keeper", Duration::from_secs(15)).await;

    eventually(TEST_DEADLINE, "240 checks in the rollups", async || {
        let rolled = stack.query_number("SELECT coalesce(sum(up), 0) FROM picket.rollups_hourly").await;
        if rolled == 240 { Ok(()) } else { Err(rolled) }
    })
    .await;
    eventually(TEST_DEADLINE, "thirty days of results, and not forty", async || {
        let days = stack
            .query_number("SELECT (picket.day_of(now()) - picket.day_of(picket.retained_since()))::bigint")
            .await;
        if (30..=31).contains(&days) { Ok(()) } else { Err(days) }
    })
    .await;
    running.drain().await;
}

#[tokio::test]
async fn a_coordinator_adopts_rows_of_another_cluster_and_closes_their_ledger() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            "INSERT INTO picket.sites (url, interval_seconds) SELECT 'http://x/' || n, 1 FROM generate_series(1, 5) AS n;
             UPDATE picket.schedules SET version = '9000000000', opened_by = '9000000000';
             UPDATE picket.leases SET accounted_snapshot = '9000000001:9000000001:';
             UPDATE picket.settings SET cluster = 'another'",
        )
        .await;
    let began = clock::wall_clock_now();

    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;

    eventually(TEST_DEADLINE, "transaction numbers of this cluster", async || {
        match stack.query_number("SELECT count(*) FROM picket.schedules WHERE opened_by <> '2'").await {
            0 => Ok(()),
            others => Err(others),
        }
    })
    .await;
    eventually(TEST_DEADLINE, "the ledger to be closed", async || {
        match ledger::read_accounted_through(&stack.connect_store()).await.unwrap() {
            (_, Some(through)) if through > began => Ok(()),
            (_, through) => Err(through),
        }
    })
    .await;
    let here = "SELECT (cluster = picket.cluster())::int::bigint FROM picket.settings";
    assert_eq!(stack.query_number(here).await, 1);
    running.drain().await;
}
