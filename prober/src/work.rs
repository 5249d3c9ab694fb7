//! From a job to its acknowledgement: what one task does, under one permit.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind};
use picket_proto::{Cause, CheckResult, Invalid};
use picket_runtime::{clock, streams};
use tokio::time::sleep;
use tracing::debug;

use crate::{
    http::Checker,
    job::Job,
    metrics::Metrics,
    publisher::{Publisher, bounded},
    regexes::Regexes,
};

/// What every check needs. Clones share everything.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) checker: Checker,
    pub(crate) regexes: Arc<Regexes>,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
}

impl Work {
    /// A third of the time after which the stream takes a silent prober for dead, and gives its job to another.
    const KEEP: Duration = Duration::from_secs(streams::JOB_ACK_WAIT.as_secs() / 3);

    /// Does a queued job to its end, and keeps it from other probers meanwhile.
    pub(crate) async fn queued(&self, message: jetstream::Message) {
        let keeping = async {
            loop {
                sleep(Self::KEEP).await;
                bounded("keep a job", message.ack_with(AckKind::Progress)).await;
            }
        };
        // Side by side: a check that waited for the bus would be measured wrongly.
        tokio::select! {
            biased;
            () = self.finish(&message) => {}
            () = keeping => {}
        }
    }

    /// Acknowledges the job only after its result is stored.
    async fn finish(&self, message: &jetstream::Message) {
        let job = match Job::queued(&message.subject, &message.payload, clock::wall()) {
            Ok(job) => job,
            Err(why) => return self.refuse(message, &why).await,
        };
        let result = match self.perform(&job).await {
            Ok(result) => result,
            Err(why) => {
                if job.site().is_none() {
                    return self.refuse(message, &why).await;
                }
                self.publisher.reject(&message.subject, &message.payload, &why).await;
                self.missed(&job, Cause::Invalid, why.to_string())
            }
        };
        if self.publisher.store(&result).await.is_ok() {
            bounded("acknowledge a job", message.ack()).await;
        }
    }

    async fn refuse(&self, message: &jetstream::Message, why: &Invalid) {
        self.publisher.reject(&message.subject, &message.payload, why).await;
        bounded("end a job", message.ack_with(AckKind::Term)).await;
    }

    /// Does the check that `job` asks for, unless it is too old.
    ///
    /// # Errors
    /// When part of the request cannot be used.
    pub(crate) async fn perform(&self, job: &Job) -> Result<CheckResult, Invalid> {
        if let Some(ago) = job.expired(clock::wall()) {
            let message = format!("expired {} ms before a prober had it", ago.as_millis());
            return Ok(self.missed(job, Cause::Expired, message));
        }
        let check = job.request.validate_with(|field, pattern| self.regexes.get(field, pattern))?;
        let seen = self.checker.check(&check).await;
        let result = job.done(&self.publisher.region, &self.publisher.prober, seen);
        self.count(&result);
        Ok(result)
    }

    fn missed(&self, job: &Job, cause: Cause, message: String) -> CheckResult {
        let result = job.missed(&self.publisher.region, &self.publisher.prober, cause, message);
        self.count(&result);
        result
    }

    fn count(&self, result: &CheckResult) {
        self.metrics.count(result);
        debug!(
            check.id = result.id,
            site.id = result.site_id.map(|site| site.0),
            outcome = result.outcome.as_str(),
            cause = result.cause.map(|cause| cause.as_str()),
            total_us = result.timing.total_us,
            "checked"
        );
    }
}
