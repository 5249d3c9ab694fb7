//! An API process's part on a free port, with a database of its own, and requests to it.

use std::{net::SocketAddr, time::Duration};

use picket_api::Config;
use picket_harness::{
    Metrics,
    servers::{self, TestNats},
};
use picket_proto::{Role, Timestamp, site::SiteSpec};
use picket_runtime::{Bus, Health, PipelineHandle, options::NatsOptions, process::install_crypto_provider};
use picket_store::{
    DatabaseOptions, Store,
    api_tokens::{self, NewToken, Scope},
    regions, sites,
};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header, redirect::Policy};
use serde_json::Value;
use sqlx::PgPool;

/// Maximum time of a wait for a state.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The region that each database has.
pub(crate) const REGION: &str = "eu";

/// A running API.
pub(crate) struct TestApi {
    pub(crate) address: SocketAddr,
    pub(crate) health: Health,
    /// The store with the owner's rights; the API has those of picket_api.
    pub(crate) store: Store,
    pub(crate) pool: PgPool,
    pub(crate) database_url: String,
    pub(crate) running: PipelineHandle,
    pub(crate) client: Client,
}

/// Response of the API, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Value of a header; empty for none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The detail of a problem with this status.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn open_store(url: &str) -> Store {
    let options = DatabaseOptions { database_url: Some(url.to_owned()) };
    Store::new(&options, "test", 4).unwrap()
}

/// The URL of the same database with the rights of picket_api.
pub(crate) fn as_api_role(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-c%20role%3Dpicket_api")
}

/// The configuration of tests: a free port, and otherwise the defaults.
pub(crate) fn test_config() -> Config {
    Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() }
}

/// Starts the part of a process on a database with a schema, with the rights of picket_api.
pub(crate) async fn start_part(
    config: Config,
    nats_url: &str,
    database_url: &str,
) -> (SocketAddr, PipelineHandle, Health) {
    let health = Health::new();
    let bus =
        Bus::connect(&NatsOptions::with_url(nats_url.to_owned()), &Role::Api, "test", &health).await.unwrap();
    let options = DatabaseOptions { database_url: Some(as_api_role(database_url)) };
    let store = Store::new(&options, "test api", picket_api::DATABASE_CONNECTIONS).unwrap();
    let running = picket_api::start(config, bus, store, health.clone()).await.unwrap();
    (running.address, running.pipeline, health)
}

impl TestApi {
    /// An API with a new database, without any token.
    pub(crate) async fn start() -> Self {
        Self::start_with(test_config()).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let database_url = servers::shared_postgres().await.create_database().await;
        Self::start_on(config, servers::shared_nats().await, database_url).await
    }

    /// An API on an empty database.
    pub(crate) async fn start_on(config: Config, nats: &TestNats, database_url: String) -> Self {
        install_crypto_provider();
        let store = open_store(&database_url);
        store.migrate(64).await.unwrap();
        regions::add_region(&store, &REGION.parse().unwrap()).await.unwrap();
        let (address, running, health) = start_part(config, &nats.url(), &database_url).await;
        let pool = PgPool::connect_lazy(&database_url).unwrap();
        let client = Client::builder().redirect(Policy::none()).timeout(TEST_TIMEOUT).build().unwrap();
        Self { address, health, store, pool, database_url, running, client }
    }

    /// Creates a token. Returns its secret.
    pub(crate) async fn create_token(&self, scopes: &[Scope], tags: Option<&[&str]>) -> String {
        self.create_token_until(scopes, tags, None).await.1
    }

    pub(crate) async fn create_token_until(
        &self,
        scopes: &[Scope],
        tags: Option<&[&str]>,
        expires_at: Option<Timestamp>,
    ) -> (i64, String) {
        let new = NewToken {
            name: format!("test {}", uuid::Uuid::new_v4()),
            scopes: scopes.to_vec(),
            tags: tags.map(|tags| tags.iter().map(|tag| (*tag).to_owned()).collect()),
            expires_at,
        };
        let (token, secret) = api_tokens::create_token(&self.store, &new).await.unwrap();
        (token.id, secret.reveal().to_owned())
    }

    /// A token of all scopes, for what is not about access.
    pub(crate) async fn create_admin_token(&self) -> String {
        self.create_token(&[Scope::Admin], None).await
    }

    /// Adds a site. Returns its id.
    pub(crate) async fn add_site(&self, url: &str, tags: &[&str]) -> i64 {
        let mut spec = SiteSpec::new(url);
        spec.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        sites::insert_site(&self.store, &spec).await.unwrap().0
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request to a path such as `/api/v1/me`, with a token or without.
    pub(crate) fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.client.request(method, self.url(path));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        send(self.request(Method::GET, path, token)).await
    }

    pub(crate) async fn send_json(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Answer {
        let request = self.request(method, path, token).header("content-type", "application/json");
        send(request.body(body.to_string())).await
    }

    /// Sum of a metric over the samples that match; 0 without one.
    pub(crate) fn metric(&self, selector: &str) -> f64 {
        Metrics::parse(self.health.encode_metrics().unwrap()).sum(selector).unwrap_or(0.0)
    }
}

/// Sends a request and reads the whole response.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}
