//! A nats-server and a database of a test's own, results to publish, and sinks to take them.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, consumer::PullConsumer};
use picket_harness::{
    Metrics,
    builders::up_result,
    eventually,
    servers::{self, TestNats},
    with_ticket,
};
use picket_proto::{CheckResult, RegionName, Role, Shard, SiteId, Tickets, Timestamp, subject};
use picket_runtime::{Bus, Health, PipelineHandle, clock, options::NatsOptions, streams};
use picket_sink::{Config, DATABASE_CONNECTIONS};
use picket_store::{DatabaseOptions, Store, regions, settings::read_settings, tickets::Keyring};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction, types::time::OffsetDateTime};

/// How long anything may take.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);
const EU_REGION: &str = "eu";
const TEST_SHARD: Shard = Shard(7);

pub(crate) struct TestStack {
    pub(crate) nats: TestNats,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) database_url: String,
    pool: PgPool,
    pub(crate) tickets: Arc<Tickets>,
    /// Of the first result; one tick a result follows.
    first_tick: Timestamp,
}

/// A sink, and its health.
pub(crate) struct TestSink {
    pub(crate) running: PipelineHandle,
    pub(crate) health: Health,
}

impl TestStack {
    pub(crate) async fn new() -> Self {
        Self::with_database(servers::shared_postgres().await.create_database().await).await
    }

    /// With an empty database that is there already.
    pub(crate) async fn with_database(database_url: String) -> Self {
        Self::with_servers(servers::start_nats().await, database_url).await
    }

    /// With a nats-server and an empty database that are there already.
    pub(crate) async fn with_servers(nats: TestNats, database_url: String) -> Self {
        let store = open_store(&database_url);
        store.migrate(64).await.unwrap();
        regions::add_region(&store, &EU_REGION.parse().unwrap()).await.unwrap();
        let settings = read_settings(&store).await.unwrap();
        let tickets = Keyring::load_from(&store, &settings).await.unwrap().tickets();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let jetstream = jetstream::new(client);
        streams::create_if_missing(&jetstream, streams::results_config(streams::StreamLimits::default()))
            .await
            .unwrap();
        let pool = PgPool::connect_lazy(&database_url).unwrap();
        Self {
            nats,
            jetstream,
            database_url,
            pool,
            tickets,
            first_tick: clock::wall_clock_now().saturating_sub(Duration::from_secs(3_600)),
        }
    }

    pub(crate) async fn start_sink(&self) -> TestSink {
        self.start_sink_with(Config { batch_age: Duration::from_millis(20), ..Config::default() }).await
    }

    pub(crate) async fn start_sink_with(&self, config: Config) -> TestSink {
        self.start_sink_on(&self.database_url, config).await
    }

    pub(crate) async fn start_sink_on(&self, database_url: &str, config: Config) -> TestSink {
        let health = Health::new();
        let bus = Bus::connect(&NatsOptions::with_url(self.nats.url()), &Role::Sink, "test", &health)
            .await
            .unwrap();
        let running =
            picket_sink::start(config, bus, open_store(database_url), health.clone()).await.unwrap();
        TestSink { running, health }
    }

    /// The result of this number: each has its site and its tick.
    pub(crate) fn make_result(&self, number: i64) -> CheckResult {
        let at = self.first_tick.saturating_add(Duration::from_millis(number.unsigned_abs()));
        let up = up_result(SiteId(number), &EU_REGION.parse().unwrap(), at);
        let result = CheckResult { shard: Some(TEST_SHARD), started_at: Some(at), ..up };
        self.sign_result(result)
    }

    /// Now, by this machine's clock.
    pub(crate) fn current_time(&self) -> Timestamp {
        clock::wall_clock_now()
    }

    /// The result with the ticket of its own check.
    pub(crate) fn sign_result(&self, result: CheckResult) -> CheckResult {
        with_ticket(result, &self.tickets)
    }

    /// Publishes the results of these numbers, and waits until the stream has them.
    pub(crate) async fn publish_results(&self, numbers: std::ops::Range<i64>) {
        let subject = subject::site_result(&EU_REGION.parse::<RegionName>().unwrap(), TEST_SHARD);
        // The client lets only so many acknowledgements be outstanding.
        for some in numbers.collect::<Vec<_>>().chunks(1_000) {
            let mut acks = Vec::new();
            for number in some {
                let payload = serde_json::to_vec(&self.make_result(*number)).unwrap();
                acks.push(self.jetstream.publish(subject.clone(), payload.into()).await.unwrap());
            }
            for ack in acks {
                ack.await.unwrap();
            }
        }
    }

    pub(crate) async fn publish_result(&self, result: &CheckResult) {
        let payload = serde_json::to_vec(result).unwrap();
        self.publish_raw("picket.result.eu.7", payload).await;
    }

    pub(crate) async fn publish_raw(&self, subject: &'static str, payload: impl Into<Vec<u8>>) {
        self.jetstream.publish(subject, payload.into().into()).await.unwrap().await.unwrap();
    }

    pub(crate) async fn run_sql(&self, statements: &'static str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// How many rows of a table meet a condition.
    pub(crate) async fn count_where(&self, table: &str, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM picket.{table} WHERE {condition}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn query_times(&self, query: &'static str) -> Vec<Timestamp> {
        let times: Vec<OffsetDateTime> = sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap();
        times.into_iter().map(Timestamp::from).collect()
    }

    /// Locks a table until the transaction is dropped.
    pub(crate) async fn lock_table(&self, statement: &'static str) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query(statement).execute(&mut *transaction).await.unwrap();
        transaction
    }

    pub(crate) async fn query_count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn count_rows(&self) -> i64 {
        self.query_count("SELECT count(*) FROM picket.check_results").await
    }

    /// Waits until this number of results are rows; the key excludes duplicates.
    pub(crate) async fn wait_rows(&self, rows: i64) {
        eventually(TEST_TIMEOUT, "the rows", async || {
            let found = self.count_rows().await;
            if found == rows { Ok(()) } else { Err(format!("{found} rows of {rows}")) }
        })
        .await;
    }

    pub(crate) async fn wait_rows_at_least(&self, rows: i64) {
        eventually(TEST_TIMEOUT, "some rows", async || {
            let found = self.count_rows().await;
            if found >= rows { Ok(()) } else { Err(format!("{found} rows of {rows}")) }
        })
        .await;
    }

    /// Waits until the stream's consumer has given out all, and all is acknowledged.
    pub(crate) async fn wait_acknowledged(&self) {
        eventually(TEST_TIMEOUT, "all to be acknowledged", async || {
            let (waiting, unacknowledged) = self.outstanding_messages().await;
            if waiting + unacknowledged == 0 { Ok(()) } else { Err((waiting, unacknowledged)) }
        })
        .await;
    }

    /// How many results wait in the stream, and how many were taken and not acknowledged.
    pub(crate) async fn outstanding_messages(&self) -> (u64, u64) {
        let consumer =
            self.jetstream.get_consumer_from_stream(subject::SINK_CONSUMER, subject::RESULTS_STREAM).await;
        let consumer: PullConsumer = consumer.unwrap();
        let info = consumer.get_info().await.unwrap();
        (info.num_pending, info.num_ack_pending as u64)
    }
}

impl TestSink {
    /// A metric of the sink; 0 if it was not counted yet.
    pub(crate) fn metric_value(&self, name: &str) -> u64 {
        Metrics::of_health(&self.health).sum(name).unwrap_or(0.0) as u64
    }

    pub(crate) async fn wait_ready(&self) {
        eventually(TEST_TIMEOUT, "the sink to be ready", async || match self.health.unready_checks() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(missing),
        })
        .await;
    }

    /// Waits until this condition of readiness does not hold.
    pub(crate) async fn wait_unready(&self, condition: &str) {
        eventually(TEST_TIMEOUT, condition, async || {
            let missing = self.health.unready_checks();
            if missing.iter().any(|(name, _)| *name == condition) { Ok(()) } else { Err(missing) }
        })
        .await;
    }
}

fn open_store(url: &str) -> Store {
    Store::new(&DatabaseOptions { database_url: Some(url.to_owned()) }, "sink-test", DATABASE_CONNECTIONS)
        .unwrap()
}
