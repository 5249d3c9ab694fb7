//! Ad-hoc checks, asked for by request: the NATS service `picket-prober`.
//!
//! Bound: a permit for each request under way; one more is told that the prober is busy. Loss: who asked gets no
//! answer and asks again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    service::{
        NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, Service, ServiceExt, endpoint::Endpoint,
    },
};
use futures_util::{FutureExt, StreamExt};
use picket_proto::{CheckResult, ValidationError, subject, validation::sanitize_text};
use picket_runtime::Bus;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    job::Job,
    publisher::with_publish_timeout,
    runner::{AdmissionError, CheckRunner},
};

/// What the service is told.
pub(crate) enum Msg {
    /// An endpoint hears nothing more.
    EndpointEnded,
    /// Take no more requests.
    Drain,
}

/// The actor.
#[derive(Clone)]
pub(crate) struct AdhocService {
    pub(crate) bus: Bus,
    pub(crate) runner: Arc<CheckRunner>,
    pub(crate) concurrency: usize,
    pub(crate) request_permits: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
}

/// The service, for as long as it is open. What it leaves running by itself, it stops when dropped.
pub(crate) struct RunningService(Option<Service>);

impl RunningService {
    fn stop_service(&mut self) {
        if let Some(service) = self.0.take() {
            // It awaits nothing.
            let _ = service.stop().now_or_never();
        }
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        self.stop_service();
    }
}

impl Actor for AdhocService {
    type Msg = Msg;
    type State = RunningService;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<RunningService, ActorProcessingErr> {
        // Subscribing is a note to the connection, also while it is away.
        let service = timeout(Self::START_TIMEOUT, self.start_service(&myself)).await??;
        Ok(RunningService(Some(service)))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        open: &mut RunningService,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Drain => open.stop_service(),
            Msg::EndpointEnded if open.0.is_some() => return Err("an endpoint of the service ended".into()),
            Msg::EndpointEnded => {}
        }
        Ok(())
    }
}

/// Says that an endpoint ended, however it did.
struct EndpointGuard(ActorRef<Msg>);

impl Drop for EndpointGuard {
    fn drop(&mut self) {
        // A desk that is gone need not know.
        let _ = self.0.cast(Msg::EndpointEnded);
    }
}

impl AdhocService {
    const START_TIMEOUT: Duration = Duration::from_secs(5);
    /// Who asks waits for the check; not for a stream that is away as well.
    const MAX_STORE_WAIT: Duration = Duration::from_secs(2);

    async fn start_service(&self, myself: &ActorRef<Msg>) -> Result<Service, async_nats::Error> {
        let (region, prober) = (&self.runner.publisher.region, &self.runner.publisher.prober);
        let metadata = HashMap::from([
            ("region".to_owned(), region.to_string()),
            ("instance".to_owned(), prober.clone()),
            ("concurrency".to_owned(), self.concurrency.to_string()),
        ]);
        let (total, work) = (self.concurrency, Arc::clone(&self.runner));
        let service = self
            .bus
            .client
            .service_builder()
            .description("checks websites from where it runs")
            .metadata(metadata)
            .stats_handler(move |_, _| {
                json!({
                    "region": work.publisher.region,
                    "instance": work.publisher.prober,
                    "slots_total": total,
                    // Of every kind; ad-hoc checks are among them, and take none of the slots.
                    "slots_used": work.metrics.checks_running.get(),
                    "adhoc": work.metrics.requests_running.get(),
                    "slots_free": work.metrics.slots_free.get(),
                    "checks": work.metrics.results_published.get(),
                    "checks_per_second": work.metrics.checks_per_second(),
                })
            })
            .start(subject::PROBER_SERVICE, env!("CARGO_PKG_VERSION"))
            .await?;
        let group = subject::region_queue_group(region);
        for (name, place, group) in [
            ("check", subject::region_check(region), group.as_str()),
            ("check-any", subject::CHECK_ANY_PROBER.to_owned(), subject::ANY_QUEUE_GROUP),
            ("check-all", subject::CHECK_ALL_REGIONS.to_owned(), &group),
        ] {
            let endpoint = service.endpoint_builder().name(name).queue_group(group).add(place).await?;
            tokio::spawn(self.clone().serve_endpoint(endpoint, EndpointGuard(myself.clone())));
        }
        Ok(service)
    }

    async fn serve_endpoint(self, mut endpoint: Endpoint, ending: EndpointGuard) {
        while let Some(request) = endpoint.next().await {
            // A subject of another region's or of a job says that somebody had the server answer him here.
            if !request.message.subject.starts_with("picket.check.") {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.request_permits).try_acquire_owned() else {
                self.respond_busy(&request).await;
                continue;
            };
            let desk = self.clone();
            self.tasks.spawn(async move {
                desk.handle_request(request).await;
                drop(permit);
            });
        }
        drop(ending);
    }

    async fn respond_busy(&self, request: &Request) {
        self.runner.metrics.requests_busy.inc();
        let busy = json!({"error": "busy", "prober": self.runner.publisher.prober}).to_string();
        respond_error(request, 503, "busy", busy).await;
    }

    async fn handle_request(&self, request: Request) {
        let message = &request.message;
        let now = self.runner.clock.now();
        let job = match Job::from_request(&message.payload, now) {
            Ok(job) => job,
            Err(why) => return self.respond_invalid(&request, &why).await,
        };
        let longest = Duration::from_millis(job.request.timeout_ms.unsigned_abs());
        let mut running = None;
        let result = match self.runner.admit_check(&job, now, longest, &mut running).await {
            Ok(ready) => self.runner.perform_check(&job, ready).await,
            Err(AdmissionError::Missed(result)) => *result,
            Err(AdmissionError::Invalid(why)) => return self.respond_invalid(&request, &why).await,
            Err(AdmissionError::Stopping) => return self.respond_busy(&request).await,
        };
        let storing = self.runner.publisher.publish_until_stored(&result);
        tokio::pin!(storing);
        match timeout(Self::MAX_STORE_WAIT, &mut storing).await {
            Ok(Ok(())) => respond_result(&request, &result).await,
            Ok(Err(why)) => respond_result(&request, &with_note(&result, &why.to_string())).await,
            Err(_) => {
                respond_result(&request, &with_note(&result, "the result is not stored yet")).await;
                // Counted and logged there.
                let _ = storing.await;
            }
        }
    }

    async fn respond_invalid(&self, request: &Request, why: &ValidationError) {
        let message = &request.message;
        if !is_answerable(request) {
            return self.runner.publisher.publish_rejection(&message.subject, &message.payload, why).await;
        }
        self.runner.metrics.rejected.inc();
        let text = sanitize_text(&why.to_string(), 1 << 10);
        let body = json!({"error": text, "field": why.field, "value": why.value, "allowed": why.expected});
        respond_error(request, 400, &text, body.to_string()).await;
    }
}

/// `result` with one more thing that who asked should know.
fn with_note(result: &CheckResult, note: &str) -> CheckResult {
    let message = match &result.message {
        Some(message) => format!("{message}; {note}"),
        None => note.to_owned(),
    };
    CheckResult { message: Some(message), ..result.clone() }
}

/// Whether somebody waits at an inbox. To another subject nothing is sent: it would be published with this
/// prober's rights.
fn is_answerable(request: &Request) -> bool {
    request.message.reply.as_ref().is_some_and(|reply| reply.starts_with(subject::DEFAULT_INBOX_PREFIX))
}

async fn respond_result(request: &Request, result: &CheckResult) {
    if is_answerable(request) {
        // A result is plain data; it has no map with keys that are no text, which is all that could fail.
        let json = serde_json::to_vec(result).unwrap_or_default();
        with_publish_timeout("answer a request", request.respond(Ok(json.into()))).await;
    }
}

async fn respond_error(request: &Request, code: u16, text: &str, body: String) {
    if is_answerable(request) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SERVICE_ERROR, text);
        headers.insert(NATS_SERVICE_ERROR_CODE, code.to_string());
        // The library's own error answer has no body.
        with_publish_timeout("answer a request", request.respond_with_headers(Ok(body.into()), headers))
            .await;
    }
}
