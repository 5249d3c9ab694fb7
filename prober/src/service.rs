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
use picket_proto::{CheckResult, Invalid, invalid::shorten, subject};
use picket_runtime::Bus;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    job::Job,
    publisher::bounded,
    work::{NotBegun, Work},
};

/// What the service is told.
pub(crate) enum Msg {
    /// An endpoint hears nothing more.
    Ended,
    /// Take no more requests.
    Drain,
}

/// The actor.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) work: Arc<Work>,
    pub(crate) concurrency: usize,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
}

/// The service, for as long as it is open. What it leaves running by itself, it stops when dropped.
pub(crate) struct Open(Option<Service>);

impl Open {
    fn close(&mut self) {
        if let Some(service) = self.0.take() {
            // It awaits nothing.
            let _ = service.stop().now_or_never();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

impl Actor for Desk {
    type Msg = Msg;
    type State = Open;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Open, ActorProcessingErr> {
        // Subscribing is a note to the connection, also while it is away.
        let service = timeout(Self::OPENING, self.open(&myself)).await??;
        Ok(Open(Some(service)))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        open: &mut Open,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Drain => open.close(),
            Msg::Ended if open.0.is_some() => return Err("an endpoint of the service ended".into()),
            Msg::Ended => {}
        }
        Ok(())
    }
}

/// Says that an endpoint ended, however it did.
struct Ending(ActorRef<Msg>);

impl Drop for Ending {
    fn drop(&mut self) {
        // A desk that is gone need not know.
        let _ = self.0.cast(Msg::Ended);
    }
}

impl Desk {
    const OPENING: Duration = Duration::from_secs(5);
    /// Who asks waits for the check; not for a stream that is away as well.
    const STORING: Duration = Duration::from_secs(2);

    async fn open(&self, myself: &ActorRef<Msg>) -> Result<Service, async_nats::Error> {
        let (region, prober) = (&self.work.publisher.region, &self.work.publisher.prober);
        let metadata = HashMap::from([
            ("region".to_owned(), region.to_string()),
            ("instance".to_owned(), prober.clone()),
            ("concurrency".to_owned(), self.concurrency.to_string()),
        ]);
        let (total, work) = (self.concurrency, Arc::clone(&self.work));
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
            .start(subject::SERVICE, env!("CARGO_PKG_VERSION"))
            .await?;
        let group = subject::own_group(region);
        for (name, place, group) in [
            ("check", subject::check(region), group.as_str()),
            ("check-any", subject::CHECK_ANY.to_owned(), subject::ANY_GROUP),
            ("check-all", subject::CHECK_ALL.to_owned(), &group),
        ] {
            let endpoint = service.endpoint_builder().name(name).queue_group(group).add(place).await?;
            tokio::spawn(self.clone().serve(endpoint, Ending(myself.clone())));
        }
        Ok(service)
    }

    async fn serve(self, mut endpoint: Endpoint, ending: Ending) {
        while let Some(request) = endpoint.next().await {
            // A subject of another region's or of a job says that somebody had the server answer him here.
            if !request.message.subject.starts_with("picket.check.") {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.requests).try_acquire_owned() else {
                self.busy(&request).await;
                continue;
            };
            let desk = self.clone();
            self.tasks.spawn(async move {
                desk.answer(request).await;
                drop(permit);
            });
        }
        drop(ending);
    }

    async fn busy(&self, request: &Request) {
        self.work.metrics.requests_busy.inc();
        let busy = json!({"error": "busy", "prober": self.work.publisher.prober}).to_string();
        respond_error(request, 503, "busy", busy).await;
    }

    async fn answer(&self, request: Request) {
        let message = &request.message;
        let now = self.work.clock.now();
        let job = match Job::asked(&message.payload, now) {
            Ok(job) => job,
            Err(why) => return self.refuse(&request, &why).await,
        };
        let longest = Duration::from_millis(job.request.timeout_ms.unsigned_abs());
        let mut running = None;
        let result = match self.work.begin(&job, now, longest, &mut running).await {
            Ok(ready) => self.work.perform(&job, ready).await,
            Err(NotBegun::Missed(result)) => *result,
            Err(NotBegun::Invalid(why)) => return self.refuse(&request, &why).await,
            Err(NotBegun::Stopping) => return self.busy(&request).await,
        };
        let storing = self.work.publisher.store(&result);
        tokio::pin!(storing);
        match timeout(Self::STORING, &mut storing).await {
            Ok(Ok(())) => respond(&request, &result).await,
            Ok(Err(why)) => respond(&request, &with_note(&result, &why.to_string())).await,
            Err(_) => {
                respond(&request, &with_note(&result, "the result is not stored yet")).await;
                // Counted and logged there.
                let _ = storing.await;
            }
        }
    }

    async fn refuse(&self, request: &Request, why: &Invalid) {
        let message = &request.message;
        if !is_answerable(request) {
            return self.work.publisher.reject(&message.subject, &message.payload, why).await;
        }
        self.work.metrics.rejected.inc();
        let text = shorten(&why.to_string(), 1 << 10);
        let body = json!({"error": text, "field": why.field, "value": why.value, "allowed": why.allowed});
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
    request.message.reply.as_ref().is_some_and(|reply| reply.starts_with(subject::INBOX))
}

async fn respond(request: &Request, result: &CheckResult) {
    if is_answerable(request) {
        // A result is plain data; it has no map with keys that are no text, which is all that could fail.
        let json = serde_json::to_vec(result).unwrap_or_default();
        bounded("answer a request", request.respond(Ok(json.into()))).await;
    }
}

async fn respond_error(request: &Request, code: u16, text: &str, body: String) {
    if is_answerable(request) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_SERVICE_ERROR, text);
        headers.insert(NATS_SERVICE_ERROR_CODE, code.to_string());
        // The library's own error answer has no body.
        bounded("answer a request", request.respond_with_headers(Ok(body.into()), headers)).await;
    }
}
