//! From a job to its acknowledgement: what one task does, under one permit.

use std::sync::Arc;

use async_nats::{
    header::NATS_MESSAGE_TTL,
    jetstream::{self, AckKind},
};
use picket_proto::{Cause, CheckResult, Invalid, Timestamp};
use tracing::debug;

use crate::{
    clock::Clock,
    http::{Checker, Observation},
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
    pub(crate) clock: Clock,
}

impl Work {
    /// Does a queued job to its end. Acknowledges it only after its result is stored.
    pub(crate) async fn queued(&self, message: jetstream::Message) {
        let job = match Job::queued(&message.subject, &message.payload, self.clock.now()) {
            Ok(job) => job,
            Err(why) => return self.refuse(&message, &why).await,
        };
        let ends_in_stream =
            message.headers.as_ref().is_some_and(|headers| headers.get(NATS_MESSAGE_TTL).is_some());
        let now = match job.scheduled_at() {
            Some(due) if ends_in_stream => {
                self.clock.heard(due);
                self.clock.at_least()
            }
            // Not a coordinator's: nobody but us ends it.
            _ => self.clock.now(),
        };
        let result = match self.perform(&job, now).await {
            Ok(result) => result,
            Err(why) => {
                if job.site().is_none() {
                    return self.refuse(&message, &why).await;
                }
                self.publisher.reject(&message.subject, &message.payload, &why).await;
                self.missed(&job, Cause::Invalid, why.to_string())
            }
        };
        if self.publisher.store(&result, Some(&message)).await.is_ok() {
            bounded("acknowledge a job", message.ack()).await;
        }
    }

    async fn refuse(&self, message: &jetstream::Message, why: &Invalid) {
        self.publisher.reject(&message.subject, &message.payload, why).await;
        bounded("end a job", message.ack_with(AckKind::Term)).await;
    }

    /// Does the check that `job` asks for, unless it is too old at `now`.
    ///
    /// # Errors
    /// When part of the request cannot be used.
    pub(crate) async fn perform(&self, job: &Job, now: Timestamp) -> Result<CheckResult, Invalid> {
        if let Some(ago) = job.expired(now) {
            let message = format!("expired {} ms before a prober had it", ago.as_millis());
            return Ok(self.missed(job, Cause::Expired, message));
        }
        let check = job.request.validate_with(|field, pattern| self.regexes.get(field, pattern))?;
        let started_at = self.clock.now();
        let seen = Observation { started_at, ..self.checker.check(&check).await };
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
