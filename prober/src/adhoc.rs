//! Ad-hoc checks: the NATS service `picket-prober`.
//!
//! Bound: one permit per running request; further requests get the response `busy`. Loss: a
//! requester without a response has to repeat the request.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

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
use tracing::Instrument;

use crate::{
    check::EXPLANATION_KEY,
    job::Job,
    results::publisher::with_publish_timeout,
    runner::{AdmissionError, CheckRunner, record_check_id},
};

/// Messages of the actor.
pub(crate) enum Msg {
    /// The subscription of an endpoint has ended.
    EndpointEnded,
    /// Accept no more requests.
    Drain,
}

/// Actor that serves ad-hoc checks.
#[derive(Clone)]
pub(crate) struct AdhocService {
    pub(crate) bus: Bus,
    pub(crate) runner: Arc<CheckRunner>,
    pub(crate) concurrency: usize,
    pub(crate) request_permits: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
}

/// Open service. Stopped on drop, since the service would otherwise go on in the background.
pub(crate) struct RunningService(Option<Service>);

impl RunningService {
    fn stop_service(&mut self) {
        if let Some(service) = self.0.take() {
            // `stop` completes without waiting.
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
        // Subscribing only enqueues a command for the connection, even while disconnected.
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
            Msg::EndpointEnded if open.0.is_some() => return Err("a service endpoint has ended".into()),
            Msg::EndpointEnded => {}
        }
        Ok(())
    }
}

/// Reports the end of an endpoint, also after a panic or cancellation.
struct EndpointGuard(ActorRef<Msg>);

impl Drop for EndpointGuard {
    fn drop(&mut self) {
        // The actor may be gone already.
        let _ = self.0.cast(Msg::EndpointEnded);
    }
}

impl AdhocService {
    const START_TIMEOUT: Duration = Duration::from_secs(5);
    /// Maximum wait for the storage of a result. The requester waits for the check, but not for an
    /// unavailable stream too.
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
            .description("checks websites from its region")
            .metadata(metadata)
            .stats_handler(move |_, _| {
                json!({
                    "region": work.publisher.region,
                    "instance": work.publisher.prober,
                    "slots_total": total,
                    // Running checks of all kinds, including ad-hoc checks, which occupy no slot.
                    "slots_used": work.metrics.checks_running.get(),
                    "adhoc": work.metrics.adhoc_checks_running.get(),
                    "slots_free": work.metrics.slots_free.get(),
                    "checks": work.metrics.results_published.get(),
                })
            })
            .start(subject::PROBER_SERVICE, env!("CARGO_PKG_VERSION"))
            .await?;
        // One queue group per region: of all probers of a region exactly one serves a request.
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
            // A foreign subject means that a client had the server deliver other messages here,
            // such as jobs of the stream pulled with this subject as their reply subject.
            if !request.message.subject.starts_with("picket.check.") {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.request_permits).try_acquire_owned() else {
                self.respond_busy(&request).await;
                continue;
            };
            let service = self.clone();
            let handling = async move {
                service.handle_request(request).await;
                drop(permit);
            };
            self.tasks.spawn(handling.instrument(self.runner.check_span()));
        }
        drop(ending);
    }

    async fn respond_busy(&self, request: &Request) {
        self.runner.metrics.adhoc_requests_rejected.inc();
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
        record_check_id(&job);
        let longest = Duration::from_millis(job.request.timeout_ms.unsigned_abs());
        let mut running = None;
        let result = match self.runner.admit_check(&job, now, longest, &mut running).await {
            Ok(ready) => self.runner.perform_check(&job, ready).await,
            Err(AdmissionError::Missed(result)) => *result,
            Err(AdmissionError::Invalid(why)) => return self.respond_invalid(&request, &why).await,
            Err(AdmissionError::Stopping) => return self.respond_busy(&request).await,
        };
        // Storing goes on after the response: a timeout must not cancel the publish.
        let stored = without_explanation(&result);
        let storing = self.runner.publisher.publish_until_stored(&stored);
        tokio::pin!(storing);
        match timeout(Self::MAX_STORE_WAIT, &mut storing).await {
            Ok(Ok(())) => respond_result(&request, &result).await,
            Ok(Err(why)) => respond_result(&request, &with_note(&result, &why.to_string())).await,
            Err(_) => {
                respond_result(&request, &with_note(&result, "the result is not stored yet")).await;
                // The publisher counts and logs the failure.
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

/// `result` as it is stored. The explanation is for the requester alone, and may be longer than the
/// details of a stored result.
fn without_explanation(result: &CheckResult) -> Cow<'_, CheckResult> {
    match &result.details {
        Some(details) if details.contains_key(EXPLANATION_KEY) => {
            let mut details = details.clone();
            details.remove(EXPLANATION_KEY);
            let details = Some(details).filter(|details| !details.is_empty());
            Cow::Owned(CheckResult { details, ..result.clone() })
        }
        _ => Cow::Borrowed(result),
    }
}

/// Copy of `result` with `note` appended to its message.
fn with_note(result: &CheckResult, note: &str) -> CheckResult {
    let message = match &result.message {
        Some(message) => format!("{message}; {note}"),
        None => note.to_owned(),
    };
    CheckResult { message: Some(message), ..result.clone() }
}

/// Returns true if the reply subject is an inbox. Other reply subjects get no response, which would
/// be published with this prober's permissions.
fn is_answerable(request: &Request) -> bool {
    request.message.reply.as_ref().is_some_and(|reply| reply.starts_with(subject::DEFAULT_INBOX_PREFIX))
}

async fn respond_result(request: &Request, result: &CheckResult) {
    if is_answerable(request) {
        // Serialisation of a result cannot fail: no map has non-string keys.
        let json = serde_json::to_vec(result).unwrap_or_default();
        with_publish_timeout("respond", request.respond(Ok(json.into()))).await;
    }
}

async fn respond_error(request: &Request, code: u16, text: &str, body: String) {
    if is_answerable(request) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SERVICE_ERROR, text);
        headers.insert(NATS_SERVICE_ERROR_CODE, code.to_string());
        // The library's own error response has no body.
        with_publish_timeout("respond", request.respond_with_headers(Ok(body.into()), headers)).await;
    }
}
