//! A region of a test's own on a real NATS, with probers.

use std::time::Duration;

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures_util::StreamExt;
use picket_prober::{Config, Manners, start};
use picket_proto::{
    CheckRequest, CheckResult, Kind, Region, Role, Shard, SiteId, Timestamp, bundle, subject,
};
use picket_runtime::{
    Bus, Health, Running, clock,
    options::{NatsOptions, Span},
    streams::{self, Durability},
};
use picket_testkit::{eventually, servers};

use crate::http::limits;

/// How long a state may take to come about.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A region with its streams and its consumer.
pub(crate) struct Place {
    pub(crate) bus: Bus,
    pub(crate) region: Region,
    pub(crate) url: String,
}

/// A prober; it is stopped when its test ends, since its process does.
pub(crate) struct Prober {
    pub(crate) running: Running,
    pub(crate) health: Health,
}

impl Place {
    /// A region on the server that all tests share: each test has a name of its own.
    pub(crate) async fn shared(region: &str) -> Self {
        let place = Self::bare(&servers::shared_nats().await.url(), region).await;
        place.provide().await;
        place
    }

    /// A region without streams.
    pub(crate) async fn bare(url: &str, region: &str) -> Self {
        let bus = Bus::connect(&NatsOptions::at(url), &Role::Operator, "test", &Health::new()).await.unwrap();
        bus.connected().await.unwrap();
        Self { bus, region: region.parse().unwrap(), url: url.to_owned() }
    }

    /// Makes the streams, and the region's consumer.
    pub(crate) async fn provide(&self) {
        self.provide_jobs().await;
        self.provide_results().await;
    }

    pub(crate) async fn provide_jobs(&self) {
        let jetstream = &self.bus.jetstream;
        streams::ensure(jetstream, streams::jobs(Durability::default())).await.unwrap();
        streams::ensure_consumer(jetstream, subject::JOBS, streams::prober_consumer(&self.region))
            .await
            .unwrap();
    }

    pub(crate) async fn provide_results(&self) {
        streams::ensure(&self.bus.jetstream, streams::results(Durability::default())).await.unwrap();
    }

    /// Starts a prober with so many slots.
    pub(crate) async fn prober(&self, name: &str, concurrency: usize) -> Prober {
        self.prober_with(name, concurrency, |_| ()).await
    }

    /// Starts a prober that is set up as a test wants it, and waits until it takes jobs.
    pub(crate) async fn ready_prober_with(
        &self,
        name: &str,
        concurrency: usize,
        set: impl FnOnce(&mut Config),
    ) -> Prober {
        let prober = self.prober_with(name, concurrency, set).await;
        eventually(SOON, "a prober that is ready", async || prober.is_ready()).await;
        prober
    }

    async fn prober_with(&self, name: &str, concurrency: usize, set: impl FnOnce(&mut Config)) -> Prober {
        let health = Health::new();
        let bus =
            Bus::connect(&NatsOptions::at(&self.url), &Role::Prober("eu".parse().unwrap()), name, &health)
                .await
                .unwrap();
        let mut config = Config {
            name: name.to_owned(),
            concurrency,
            limits: limits(),
            // The machine of a test may be slow; that is not what most of them are about.
            manners: Manners { max_drift: Span(SOON), ..Manners::default() },
            drain_timeout: Duration::from_secs(10),
            ..Config::new(self.region.clone())
        };
        set(&mut config);
        let running = start(config, bus, health.clone()).await.unwrap();
        Prober { running, health }
    }

    /// Starts a prober and waits until it takes jobs.
    pub(crate) async fn ready_prober(&self, name: &str, concurrency: usize) -> Prober {
        self.ready_prober_with(name, concurrency, |_| ()).await
    }

    /// Queues a check of `url` for `site`.
    pub(crate) async fn queue(&self, site: i64, url: &str) {
        self.publish(&subject::job(&self.region, SiteId(site)), &scheduled(site, url)).await;
    }

    pub(crate) async fn publish(&self, place: &str, request: &CheckRequest) {
        let payload = serde_json::to_vec(request).unwrap();
        self.put(place, &payload).await;
    }

    pub(crate) async fn put(&self, place: &str, payload: &[u8]) {
        let published = self.bus.jetstream.publish(place.to_owned(), payload.to_vec().into()).await.unwrap();
        published.await.unwrap();
    }

    /// Jobs of the region that nobody has acknowledged.
    pub(crate) async fn jobs_left(&self) -> u64 {
        let consumer: PullConsumer = self
            .bus
            .jetstream
            .get_consumer_from_stream(subject::prober_consumer(&self.region), subject::JOBS)
            .await
            .unwrap();
        let info = consumer.cached_info();
        info.num_pending + info.num_ack_pending as u64
    }

    /// How many messages with results of the region there are.
    pub(crate) async fn messages(&self) -> u64 {
        self.reader().await.cached_info().num_pending
    }

    async fn reader(&self) -> PullConsumer {
        let config = pull::Config {
            filter_subject: format!("picket.result.{}.>", self.region),
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        };
        self.bus.jetstream.create_consumer_on_stream(config, subject::RESULTS).await.unwrap()
    }

    /// The first `number` results of the region, each once.
    pub(crate) async fn results(&self, number: usize) -> Vec<CheckResult> {
        let consumer = self.reader().await;
        let messages = consumer.stream().expires(SOON).messages().await.unwrap();
        let each = messages.flat_map(|message| futures_util::stream::iter(read(&message.unwrap())));
        let read = each.take(number).collect::<Vec<_>>();
        tokio::time::timeout(SOON, read)
            .await
            .unwrap_or_else(|_| panic!("fewer than {number} results within {SOON:?}"))
    }
}

impl Prober {
    /// The number of a metric that there is one of.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.health.registry()).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn is_ready(&self) -> Result<(), Vec<(&'static str, String)>> {
        match self.health.missing() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(missing),
        }
    }
}

/// The results in a message.
fn read(message: &Message) -> Vec<CheckResult> {
    let payloads = bundle::results_in(&message.subject, &message.payload);
    payloads.map(|payload| serde_json::from_slice(payload).unwrap()).collect()
}

/// A request of `site` that is due now and good for a minute.
pub(crate) fn scheduled(site: i64, url: &str) -> CheckRequest {
    let now: Timestamp = clock::wall();
    CheckRequest {
        site_id: Some(SiteId(site)),
        kind: Some(Kind::Scheduled),
        scheduled_at: Some(now),
        expires_at: Some(now.plus(Duration::from_secs(60))),
        shard: Some(Shard(7)),
        ..CheckRequest::new(url)
    }
}
