//! A nats-server, a database and an API process of a test's own.

use std::{net::SocketAddr, time::Duration};

use picket_api::{Config, DATABASE_CONNECTIONS, RunningApi};
use picket_harness::{
    Metrics,
    builders::up_result,
    eventually, process,
    servers::{self, TestNats, scratch_dir},
    sse::SseStream,
};
use picket_proto::{CheckResult, Outcome, Role, Shard, SiteId};
use picket_runtime::{
    Bus, Health, PipelineHandle, clock, options::NatsOptions, process::install_crypto_provider, streams,
};
use picket_store::{
    DatabaseOptions, Store,
    api_tokens::{NewToken, Scope, create_token, revoke_token},
    regions,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

/// How long anything may take.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Name of the API's connection to NATS.
const API_CONNECTION: &str = "api-test";

pub(crate) struct TestStack {
    pub(crate) nats: TestNats,
    monitor: SocketAddr,
    pub(crate) client: async_nats::Client,
    pub(crate) database: PgPool,
    database_url: String,
}

/// An API process in this one.
pub(crate) struct TestApi {
    running: RunningApi,
    pub(crate) address: SocketAddr,
    health: Health,
    monitor: SocketAddr,
}

impl TestStack {
    pub(crate) async fn start() -> Self {
        let database_url = servers::shared_postgres().await.create_database().await;
        Self::start_on(database_url).await
    }

    pub(crate) async fn start_on(database_url: String) -> Self {
        install_crypto_provider();
        let store = open_store(&database_url);
        store.migrate(64).await.unwrap();
        for region in ["eu", "us"] {
            regions::add_region(&store, &region.parse().unwrap()).await.unwrap();
        }
        let monitor = process::free_address();
        let dir = scratch_dir("nats-config");
        let nats = servers::start_nats_with_config(move |port| {
            let file = dir.join("nats.conf");
            let text = format!(
                "listen: 127.0.0.1:{port}\nhttp: {monitor}\njetstream {{ store_dir: {:?}, max_file_store: 16GB }}\n",
                dir.join("jetstream")
            );
            std::fs::write(&file, text).unwrap();
            file
        })
        .await;
        let client = async_nats::connect(nats.url()).await.unwrap();
        // Probers answer when the stream has the result.
        let jetstream = async_nats::jetstream::new(client.clone());
        let results = streams::results_config(streams::StreamLimits::default());
        streams::create_if_missing(&jetstream, results).await.unwrap();
        let database = PgPool::connect_lazy(&database_url).unwrap();
        Self { nats, monitor, client, database, database_url }
    }

    pub(crate) async fn start_api(&self) -> TestApi {
        self.start_api_with(Config::default()).await
    }

    pub(crate) async fn start_api_with(&self, config: Config) -> TestApi {
        let health = Health::new();
        let options = NatsOptions::with_url(self.nats.url());
        let bus = Bus::connect(&options, &Role::Api, API_CONNECTION, &health).await.unwrap();
        let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config };
        let running =
            picket_api::start(config, bus, open_store(&as_api_role(&self.database_url)), health.clone())
                .await
                .unwrap();
        let address = running.address;
        let api = TestApi { running, address, health, monitor: self.monitor };
        eventually(TEST_TIMEOUT, "the API to be ready", async || match api.health.unready_checks() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(missing),
        })
        .await;
        api
    }

    /// A prober of `region` that may check this machine.
    pub(crate) async fn start_prober(&self, region: &str) -> PipelineHandle {
        self.start_prober_with(region, &["127.0.0.0/8", "::1/128"]).await
    }

    pub(crate) async fn start_prober_with(&self, region: &str, networks: &[&str]) -> PipelineHandle {
        let health = Health::new();
        let region: picket_proto::RegionName = region.parse().unwrap();
        let options = NatsOptions::with_url(self.nats.url());
        let bus = Bus::connect(&options, &Role::Prober(region.clone()), "prober", &health).await.unwrap();
        let mut config = picket_prober::Config::new(region.clone());
        config.limits.allowed_networks =
            networks.iter().map(|network| picket_prober::parse_network(network).unwrap()).collect();
        let prober = picket_prober::start(config, bus, health).await.unwrap();
        let subject = picket_proto::subject::region_check(&region);
        eventually(TEST_TIMEOUT, "the prober to answer", async || {
            list_subjects(self.monitor, "prober").await.contains(&subject)
        })
        .await;
        prober
    }

    /// Subscriptions of the API without its inbox, sorted.
    pub(crate) async fn list_api_subjects(&self) -> Vec<String> {
        list_api_subjects(self.monitor).await
    }

    pub(crate) async fn wait_api_subjects(&self, expected: &[&str]) {
        eventually(TEST_TIMEOUT, &format!("the subscriptions {expected:?}"), async || {
            let found = self.list_api_subjects().await;
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Publishes a result on the subject of its region and shard.
    pub(crate) async fn publish_result(&self, site: i64, region: &str, outcome: Outcome) {
        let result = make_result(site, region, outcome);
        let subject = picket_proto::subject::site_result(&result.region, TEST_SHARD);
        self.publish(subject, serde_json::to_vec(&result).unwrap()).await;
    }

    /// Publishes and waits until the server has it.
    pub(crate) async fn publish(&self, subject: String, payload: Vec<u8>) {
        self.client.publish(subject, payload.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Creates a token with the scopes read and check, limited to tags if given.
    pub(crate) async fn create_token(&self, tags: Option<&[&str]>) -> (i64, String) {
        let new = NewToken {
            name: format!("test {}", uuid::Uuid::new_v4()),
            scopes: vec![Scope::Read, Scope::Check],
            tags: tags.map(|tags| tags.iter().map(|tag| (*tag).to_owned()).collect()),
            expires_at: None,
        };
        let (token, secret) = create_token(&open_store(&self.database_url), &new).await.unwrap();
        (token.id, secret.reveal().to_owned())
    }

    pub(crate) async fn revoke_token(&self, id: i64) {
        revoke_token(&open_store(&self.database_url), id).await.unwrap();
    }

    pub(crate) async fn run_sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database).await.unwrap();
    }

    pub(crate) async fn query_text(&self, sql: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database).await.unwrap()
    }

    pub(crate) async fn query_number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database).await.unwrap()
    }
}

impl TestApi {
    /// Opens a live stream and reads its first event, after which it is subscribed.
    pub(crate) async fn follow(&self, query: &str) -> SseStream {
        let mut stream = SseStream::get(self.address, &format!("/api/v1/live{query}")).await;
        assert_eq!(stream.status(), 200, "{}", stream.head);
        assert_eq!(stream.next_event().await.unwrap().name, "bus");
        // The server reads a subscription some time after it was sent.
        let mut before = Vec::new();
        eventually(TEST_TIMEOUT, "the subscriptions", async || {
            let found = list_api_subjects(self.monitor).await;
            let is_settled = !found.is_empty() && found == before;
            before = found;
            is_settled
        })
        .await;
        stream
    }

    /// Opens a live stream with a token.
    pub(crate) async fn follow_with(&self, token: &str, query: &str) -> SseStream {
        let header = format!("Authorization: Bearer {token}");
        let path = format!("/api/v1/live{query}");
        SseStream::open(self.address, "GET", &path, &[&header], "").await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> picket_harness::http::Response {
        picket_harness::http::get(self.address, path, TEST_TIMEOUT).await.unwrap()
    }

    /// A metric of the API; 0 if it was not counted yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        Metrics::of_health(&self.health).sum(name).unwrap_or(0.0)
    }

    pub(crate) async fn wait_metric(&self, name: &str, expected: f64) {
        eventually(TEST_TIMEOUT, &format!("{name} to be {expected}"), async || {
            let found = self.metric(name);
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    }

    pub(crate) fn encode_metrics(&self) -> String {
        self.health.encode_metrics().unwrap()
    }

    pub(crate) async fn drain(self) {
        self.running.pipeline.drain().await;
    }
}

/// Shard of all results.
pub(crate) const TEST_SHARD: Shard = Shard(7);

pub(crate) fn make_result(site: i64, region: &str, outcome: Outcome) -> CheckResult {
    let up = up_result(SiteId(site), &region.parse().unwrap(), clock::wall_clock_now());
    let cause = (outcome == Outcome::Down).then_some(picket_proto::Cause::Status);
    CheckResult { shard: Some(TEST_SHARD), outcome, cause, ..up }
}

/// The URL of the same database with the rights of picket_api.
fn as_api_role(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-c%20role%3Dpicket_api")
}

pub(crate) fn open_store(url: &str) -> Store {
    let options = DatabaseOptions { database_url: Some(url.to_owned()) };
    Store::new(&options, "api-test", DATABASE_CONNECTIONS).unwrap()
}

/// Subscriptions of the connections with this name, as the server has them.
async fn list_subjects(monitor: SocketAddr, connection: &str) -> Vec<String> {
    let response = picket_harness::http::get(monitor, "/connz?subs=1", TEST_TIMEOUT).await.unwrap();
    let json: Value = serde_json::from_str(&response.body).unwrap();
    let connections = json["connections"].as_array().unwrap().iter();
    let named = connections.filter(|found| found["name"] == connection);
    let subjects =
        named.flat_map(|found| found["subscriptions_list"].as_array().cloned().unwrap_or_default());
    subjects.filter_map(|subject| Some(subject.as_str()?.to_owned())).collect()
}

/// Subscriptions of the API without its inbox, sorted.
async fn list_api_subjects(monitor: SocketAddr) -> Vec<String> {
    let mut subjects = list_subjects(monitor, API_CONNECTION).await;
    subjects.retain(|subject| subject.starts_with("picket."));
    subjects.sort();
    subjects
}
