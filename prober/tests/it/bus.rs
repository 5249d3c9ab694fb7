//! A region of a test's own on a real NATS, with probers.

use std::time::Duration;

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures_util::StreamExt;
use picket_harness::{Metrics, builders::scheduled_job_subject, eventually, servers};
use picket_prober::{BehaviourOptions, Config, start};
use picket_proto::{
    CheckKind, CheckRequest, CheckResult, RegionName, Role, Shard, SiteId, Timestamp, bundle, subject,
};
use picket_runtime::{
    Bus, Health, PipelineHandle, clock,
    options::{DurationArg, NatsOptions},
    streams::{self, StreamLimits},
};

use crate::http::test_limits;

/// How long a state may take to come about.
pub(crate) const STATE_TIMEOUT: Duration = Duration::from_secs(20);

/// A region with its streams and its consumer.
pub(crate) struct TestRegion {
    pub(crate) bus: Bus,
    pub(crate) region: RegionName,
    pub(crate) url: String,
}

/// A prober; it is stopped when its test ends, since its process does.
pub(crate) struct Prober {
    pub(crate) running: PipelineHandle,
    pub(crate) health: Health,
}

impl TestRegion {
    /// A region on the server that all tests share: each test has a name of its own.
    pub(crate) async fn on_shared_nats(region: &str) -> Self {
        let place = Self::without_streams(&servers::shared_nats().await.url(), region).await;
        place.create_streams().await;
        place
    }

    /// A region without streams.
    pub(crate) async fn without_streams(url: &str, region: &str) -> Self {
        let bus =
            Bus::connect(&NatsOptions::with_url(url), &Role::Operator, "test", &Health::new()).await.unwrap();
        bus.wait_connected().await.unwrap();
        Self { bus, region: region.parse().unwrap(), url: url.to_owned() }
    }

    /// Makes the streams, and the region's consumer.
    pub(crate) async fn create_streams(&self) {
        self.create_jobs_stream().await;
        self.create_results_stream().await;
    }

    pub(crate) async fn create_jobs_stream(&self) {
        let jetstream = &self.bus.jetstream;
        streams::create_if_missing(jetstream, streams::jobs_config(StreamLimits::default())).await.unwrap();
        streams::create_or_update_consumer(
            jetstream,
            subject::JOBS_STREAM,
            streams::prober_consumer_config(&self.region),
        )
        .await
        .unwrap();
    }

    pub(crate) async fn create_results_stream(&self) {
        streams::create_if_missing(&self.bus.jetstream, streams::results_config(StreamLimits::default()))
            .await
            .unwrap();
    }

    /// Starts a prober with so many slots.
    pub(crate) async fn start_prober(&self, name: &str, concurrency: usize) -> Prober {
        self.start_prober_with(name, concurrency, |_| ()).await
    }

    /// Starts a prober that is set up as a test wants it, and waits until it takes jobs.
    pub(crate) async fn start_ready_with(
        &self,
        name: &str,
        concurrency: usize,
        set: impl FnOnce(&mut Config),
    ) -> Prober {
        let prober = self.start_prober_with(name, concurrency, set).await;
        eventually(STATE_TIMEOUT, "a prober that is ready", async || prober.check_ready()).await;
        prober
    }

    async fn start_prober_with(
        &self,
        name: &str,
        concurrency: usize,
        set: impl FnOnce(&mut Config),
    ) -> Prober {
        let health = Health::new();
        let bus = Bus::connect(
            &NatsOptions::with_url(&self.url),
            &Role::Prober("eu".parse().unwrap()),
            name,
            &health,
        )
        .await
        .unwrap();
        let mut config = Config {
            name: name.to_owned(),
            concurrency,
            limits: test_limits(),
            // The machine may be slow, which most tests are not about.
            behaviour: BehaviourOptions {
                max_drift: DurationArg(STATE_TIMEOUT),
                ..BehaviourOptions::default()
            },
            drain_timeout: Duration::from_secs(10),
            ..Config::new(self.region.clone())
        };
        set(&mut config);
        let running = start(config, bus, health.clone()).await.unwrap();
        Prober { running, health }
    }

    /// Starts a prober and waits until it takes jobs.
    pub(crate) async fn start_ready_prober(&self, name: &str, concurrency: usize) -> Prober {
        self.start_ready_with(name, concurrency, |_| ()).await
    }

    /// Queues a check of `url` for `site`.
    pub(crate) async fn queue_check(&self, site: i64, url: &str) {
        self.publish_request(
            &scheduled_job_subject(&self.region, SiteId(site)),
            &scheduled_request(site, url),
        )
        .await;
    }

    pub(crate) async fn publish_request(&self, place: &str, request: &CheckRequest) {
        let payload = serde_json::to_vec(request).unwrap();
        self.publish_payload(place, &payload).await;
    }

    pub(crate) async fn publish_payload(&self, place: &str, payload: &[u8]) {
        let published = self.bus.jetstream.publish(place.to_owned(), payload.to_vec().into()).await.unwrap();
        published.await.unwrap();
    }

    /// Unacknowledged jobs of the region.
    pub(crate) async fn count_unacked_jobs(&self) -> u64 {
        let consumer: PullConsumer = self
            .bus
            .jetstream
            .get_consumer_from_stream(subject::prober_consumer(&self.region), subject::JOBS_STREAM)
            .await
            .unwrap();
        let info = consumer.cached_info();
        info.num_pending + info.num_ack_pending as u64
    }

    /// How many messages with results of the region there are.
    pub(crate) async fn count_messages(&self) -> u64 {
        self.create_reader().await.cached_info().num_pending
    }

    async fn create_reader(&self) -> PullConsumer {
        let config = pull::Config {
            filter_subject: format!("picket.result.{}.>", self.region),
            ack_policy: AckPolicy::None,
            ..pull::Config::default()
        };
        self.bus.jetstream.create_consumer_on_stream(config, subject::RESULTS_STREAM).await.unwrap()
    }

    /// The first `number` results of the region, each once.
    pub(crate) async fn read_results(&self, number: usize) -> Vec<CheckResult> {
        self.read_results_within(STATE_TIMEOUT, number).await
    }

    /// The first `number` results of the region, in the order of the stream.
    pub(crate) async fn read_results_within(&self, limit: Duration, number: usize) -> Vec<CheckResult> {
        let consumer = self.create_reader().await;
        let messages = consumer.stream().expires(limit).messages().await.unwrap();
        let each = messages.flat_map(|message| futures_util::stream::iter(decode_results(&message.unwrap())));
        let read = each.take(number).collect::<Vec<_>>();
        tokio::time::timeout(limit, read)
            .await
            .unwrap_or_else(|_| panic!("fewer than {number} results within {limit:?}"))
    }
}

impl Prober {
    /// The number of a metric.
    pub(crate) fn read_metric(&self, name: &str) -> f64 {
        Metrics::of_health(&self.health).expect(name)
    }

    pub(crate) fn check_ready(&self) -> Result<(), Vec<(&'static str, String)>> {
        match self.health.unready_checks() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(missing),
        }
    }
}

/// The results in a message.
fn decode_results(message: &Message) -> Vec<CheckResult> {
    let payloads = bundle::result_payloads(&message.subject, &message.payload);
    payloads.map(|payload| serde_json::from_slice(payload).unwrap()).collect()
}

/// A request of `site` that is due now and good for a minute.
pub(crate) fn scheduled_request(site: i64, url: &str) -> CheckRequest {
    let now: Timestamp = clock::wall_clock_now();
    CheckRequest {
        site_id: Some(SiteId(site)),
        kind: Some(CheckKind::Scheduled),
        scheduled_at: Some(now),
        expires_at: Some(now.saturating_add(Duration::from_secs(60))),
        shard: Some(Shard(7)),
        ..CheckRequest::new(url)
    }
}
