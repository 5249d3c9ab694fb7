//! Runs a job from its delivery to its acknowledgement, in one task under one permit.

use std::{sync::Arc, time::Duration};

use async_nats::{
    header::NATS_MESSAGE_TTL,
    jetstream::{self, AckKind},
};
use picket_proto::{Cause, Check, CheckResult, Timestamp, ValidationError};
use picket_runtime::{clock::Boottime, streams};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span, debug, debug_span, field};

use crate::{
    check::{Checker, Credentials, Observation, apply_must_fail, expects_failure},
    health::connectivity::{Attribution, Connectivity},
    health::job_clock::JobClock,
    health::stall::StallDetector,
    job::Job,
    limits::host_limiter::{self, AcquireError, HostLimiter, HostPermit},
    limits::lane::Lane,
    limits::regex_cache::RegexCache,
    metrics::Metrics,
    results::publisher::{Publisher, with_publish_timeout},
};

/// Dependencies of every check.
pub(crate) struct CheckRunner {
    pub(crate) checker: Checker,
    pub(crate) regex_cache: Arc<RegexCache>,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
    pub(crate) clock: JobClock,
    pub(crate) stall_detector: StallDetector,
    pub(crate) host_limiter: HostLimiter,
    pub(crate) connectivity: Connectivity,
    /// Lane of ticks that wait for a busy host, whose slots are free for other checks meanwhile.
    pub(crate) tick_lane: Lane,
    /// Lane of confirmations, which occupy no slot: if many sites failed slowly, confirmations
    /// would delay checks of healthy sites.
    pub(crate) confirmation_lane: Lane,
    /// Lane of ad-hoc requests, which hold a permit of the service.
    pub(crate) request_lane: Lane,
    /// True if ad-hoc requests may use secrets.
    pub(crate) allows_adhoc_secrets: bool,
}

/// Guard that occupies a slot until dropped.
pub(crate) type SlotGuard = Box<dyn Send>;

/// Check that is allowed to begin.
pub(crate) struct AdmittedCheck {
    check: Check,
    host: String,
    _host_permit: HostPermit,
}

/// Reasons why a check is not begun.
pub(crate) enum AdmissionError {
    /// The request is invalid.
    Invalid(ValidationError),
    /// The check is missed; its result contains the cause.
    Missed(Box<CheckResult>),
    /// The prober is stopping; another prober may perform the check.
    Stopping,
}

impl CheckRunner {
    /// Maximum wait for admission of a job without expiry.
    const MAX_ADMISSION_WAIT: Duration = picket_proto::job::MAX_JOB_TTL;
    /// Redelivery delay while offline: by then the intake has noticed the lost network and pulls no
    /// more.
    const OFFLINE_NAK_DELAY: Duration = Duration::from_secs(1);
    /// Interval of progress acknowledgements: a third of the time after which the stream redelivers
    /// the job of a silent prober.
    const PROGRESS_INTERVAL: Duration = Duration::from_secs(streams::JOB_ACK_WAIT.as_secs() / 3);

    /// Processes a queued job, and prevents its redelivery meanwhile.
    pub(crate) async fn process_job(&self, message: jetstream::Message, slot: SlotGuard) {
        let extending = async {
            loop {
                sleep(Self::PROGRESS_INTERVAL).await;
                with_publish_timeout("extend_job", message.ack_with(AckKind::Progress)).await;
            }
        };
        // Concurrently and not in sequence: a check that waited for the bus would have wrong
        // timings.
        let processing = async {
            tokio::select! {
                biased;
                () = self.handle_job(&message, slot) => {}
                () = extending => {}
            }
        };
        processing.instrument(self.check_span()).await;
    }

    /// Span of a check. [`record_check_id`] adds the id once it is known.
    pub(crate) fn check_span(&self) -> Span {
        debug_span!("check", region = %self.publisher.region, check.id = field::Empty)
    }

    /// Handles a job, and acknowledges it only after its result is stored.
    async fn handle_job(&self, message: &jetstream::Message, slot: SlotGuard) {
        let job = match Job::from_queue(&message.subject, &message.payload, self.clock.now()) {
            Ok(job) => job,
            Err(why) => return self.reject_job(message, &why).await,
        };
        record_check_id(&job);
        if self.connectivity.is_offline() && is_first_delivery(message) {
            // Another prober may reach the site. The delay lets this prober stop pulling first.
            let nak = AckKind::Nak(Some(Self::OFFLINE_NAK_DELAY));
            return with_publish_timeout("nak_job", message.ack_with(nak)).await;
        }
        if job.unsupported_reason().is_some() && is_first_delivery(message) {
            // Another prober of the region may be of a newer version.
            return nak_job(message).await;
        }
        let ends_in_stream =
            message.headers.as_ref().is_some_and(|headers| headers.get(NATS_MESSAGE_TTL).is_some());
        let now = match job.scheduled_at() {
            // A message without metadata counts as just stored.
            Some(due) if ends_in_stream => match message.info() {
                Ok(info) => self.clock.observe_job(due, info.published.into()),
                Err(_) => due,
            },
            // Not a coordinator's job: no TTL in the stream ends it, so the expiry is judged here
            // by the wall clock.
            _ => self.clock.now(),
        };
        // A confirmation releases its slot at once: confirmations run in a lane of their own.
        let mut slot = Some(slot).filter(|_| !job.is_confirmation());
        let result = match self.admit_check(&job, now, Self::MAX_ADMISSION_WAIT, &mut slot).await {
            Ok(ready) => self.perform_check(&job, ready).await,
            Err(AdmissionError::Missed(result)) => *result,
            Err(AdmissionError::Stopping) => return nak_job(message).await,
            Err(AdmissionError::Invalid(why)) if job.site_id().is_none() => {
                return self.reject_job(message, &why).await;
            }
            Err(AdmissionError::Invalid(why)) => {
                self.publisher.publish_rejection(&message.subject, &message.payload, &why).await;
                self.record_missed(&job, Cause::Invalid, why.to_string())
            }
        };
        if self.publisher.publish_until_stored(&result).await.is_ok() {
            with_publish_timeout("ack_job", message.ack()).await;
        }
        drop(slot);
    }

    async fn reject_job(&self, message: &jetstream::Message, why: &ValidationError) {
        self.publisher.publish_rejection(&message.subject, &message.payload, why).await;
        with_publish_timeout("terminate_job", message.ack_with(AckKind::Term)).await;
    }

    /// Validates the request at `now` and waits for a host permit, for at most `longest` if the job
    /// has no expiry. A waiting check releases its slot; afterwards `slot` holds a permit of its
    /// lane.
    pub(crate) async fn admit_check(
        &self,
        job: &Job,
        now: Timestamp,
        longest: Duration,
        slot: &mut Option<SlotGuard>,
    ) -> Result<AdmittedCheck, AdmissionError> {
        let missed =
            |cause, message| AdmissionError::Missed(Box::new(self.record_missed(job, cause, message)));
        if let Some(ago) = job.expired_by(now) {
            let message = format!("expired {} ms before a prober had it", ago.as_millis());
            return Err(missed(Cause::Expired, message));
        }
        if let Some(message) = job.unsupported_reason() {
            return Err(missed(Cause::Unsupported, message));
        }
        let Some(validated) = self.regex_cache.validate_request(&job.request).await else {
            let message = "no time to compile the regexes of the check beside those of others".to_owned();
            return Err(missed(Cause::Overloaded, message));
        };
        let check = validated.map_err(AdmissionError::Invalid)?;
        // Whoever may publish a request could otherwise have a secret sent, or reach inside
        // addresses through a proxy.
        let proxy = check.options.proxy.as_deref().map(|name| ("proxy", name));
        if job.site_id().is_none()
            && !self.allows_adhoc_secrets
            && let Some((field, name)) = check.options.secret_names().chain(proxy).next()
        {
            let kind = if field == "proxy" { "proxy" } else { "secret" };
            let message = format!(
                "options.{field}: {kind} '{name}' is not for ad-hoc requests at this prober (PICKET_ADHOC_SECRETS)"
            );
            return Err(missed(Cause::SecretUnavailable, message));
        }
        // Known to fail for the prober's own fault: not attempted.
        if self.connectivity.is_offline() {
            return Err(missed(Cause::ProberOffline, "this prober has no network".to_owned()));
        }
        let host = host_limiter::host_key(&check);
        // Fast path: with a slot and a free host permit no lane is needed.
        if slot.is_some()
            && let Some(turn) = self.host_limiter.try_acquire(&host)
        {
            return Ok(AdmittedCheck { check, host, _host_permit: turn });
        }
        let wait =
            job.expires_at().map_or(longest, |moment| moment.saturating_duration_since(now).min(longest));
        let refusal = match self.enter_lane(job, &host, Instant::now() + wait, slot).await {
            Ok(turn) => return Ok(AdmittedCheck { check, host, _host_permit: turn }),
            Err(AcquireError::Closed) => return Err(AdmissionError::Stopping),
            Err(refusal) => refusal,
        };
        // Confirmations have counters of their own, since a refused confirmation loses no tick.
        let place = match job.is_confirmation() {
            true => {
                self.metrics.confirmations_rejected.inc();
                format!(
                    "among the confirming checks, of which {} run at once",
                    self.confirmation_lane.max_running()
                )
            }
            false => {
                self.metrics.host_rejections.inc();
                format!(
                    "its turn at {host}, where {} checks at once are allowed",
                    self.host_limiter.max_per_host()
                )
            }
        };
        Err(match refusal {
            AcquireError::QueueFull(others) => {
                missed(Cause::Overloaded, format!("no room to wait for {place}; {others} wait there"))
            }
            _ => missed(Cause::Expired, format!("expired after waiting {} ms for {place}", wait.as_millis())),
        })
    }

    /// Enters the lane of the job's kind and stores the lane permit in `slot`.
    async fn enter_lane(
        &self,
        job: &Job,
        host: &str,
        until: Instant,
        slot: &mut Option<SlotGuard>,
    ) -> Result<HostPermit, AcquireError> {
        let metrics = &self.metrics;
        let (lane, waiting, of_its_kind) = match (job.is_confirmation(), slot.is_some()) {
            (true, _) => (&self.confirmation_lane, &metrics.confirmations_waiting, None),
            (false, true) => (&self.tick_lane, &metrics.checks_waiting, None),
            (false, false) => {
                (&self.request_lane, &metrics.checks_waiting, Some(&metrics.adhoc_checks_running))
            }
        };
        let (turn, permit) = match lane.try_acquire_permits(&self.host_limiter, host) {
            Some(entry) => entry,
            None => {
                let began = Instant::now();
                // Release the slot before waiting, so that another job can be pulled.
                *slot = None;
                let counted = GaugeGuard::new(waiting);
                let entry = lane.acquire_permits(&self.host_limiter, host, until).await?;
                drop(counted);
                if !job.is_confirmation() {
                    metrics.host_wait.observe(began.elapsed().as_secs_f64());
                }
                entry
            }
        };
        let running = (GaugeGuard::new(&metrics.checks_running), of_its_kind.map(GaugeGuard::new));
        *slot = Some(Box::new((permit, running)));
        Ok(turn)
    }

    /// Performs the check and attributes its failure to the site or to this prober.
    pub(crate) async fn perform_check(&self, job: &Job, ready: AdmittedCheck) -> CheckResult {
        let AdmittedCheck { check, host, _host_permit: turn } = ready;
        let credentials = match self.checker.prepare_check(&check).await {
            Ok(credentials) => credentials,
            Err(seen) => {
                let cause = seen.cause.unwrap_or(Cause::SecretUnavailable);
                return self.record_missed(job, cause, failure_message(&seen).to_owned());
            }
        };
        let began = Boottime::now();
        let (mut seen, mut held_up) = self.run_measured(&check, credentials.as_ref()).await;
        if let Some(renewed) = self.checker.prepare_repetition(&check, credentials.as_ref(), &seen).await {
            (seen, held_up) = self.run_measured(&check, Some(&renewed)).await;
        }
        // The host permit is released before the attribution, which may hold the result for
        // seconds.
        drop(turn);
        let own_fault = match held_up {
            Some(time) => Some((
                Cause::Overloaded,
                format!(
                    "this prober was held up for {} ms during the check, so its times are not the site's",
                    time.as_millis()
                ),
            )),
            None => {
                let attribution = match self.connectivity.attribute_failure(&host, &seen).await {
                    Attribution::Site if expects_failure(&check, &seen) => {
                        self.connectivity.attribute_wanted_failure(&seen, began).await
                    }
                    attribution => attribution,
                };
                attribution.own_fault(failure_message(&seen))
            }
        };
        let (region, prober) = (&self.publisher.region, &self.publisher.prober);
        let result = match own_fault {
            // Only a failure that is the site's may be the wanted one.
            None => job.completed_result(region, prober, apply_must_fail(&check, seen)),
            Some((cause, message)) => CheckResult {
                started_at: Some(seen.started_at),
                ..job.missed_result(region, prober, cause, message)
            },
        };
        self.count_result(&result);
        result
    }

    /// Runs a check and measures how long this prober held it up.
    async fn run_measured(
        &self,
        check: &Check,
        credentials: Option<&Credentials>,
    ) -> (Observation, Option<Duration>) {
        let mark = self.stall_detector.mark_start();
        let started_at = self.clock.now();
        let running = self.checker.run_prepared(check, credentials);
        let (seen, late) = Box::pin(self.stall_detector.with_wake_latency(running)).await;
        (Observation { started_at, ..seen }, self.stall_detector.stalled_for(&mark, late))
    }

    fn record_missed(&self, job: &Job, cause: Cause, message: String) -> CheckResult {
        let result = job.missed_result(&self.publisher.region, &self.publisher.prober, cause, message);
        self.count_result(&result);
        result
    }

    fn count_result(&self, result: &CheckResult) {
        self.metrics.record_result(result);
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

/// Adds the id of the check to the current span.
pub(crate) fn record_check_id(job: &Job) {
    Span::current().record("check.id", job.id());
}

fn failure_message(seen: &Observation) -> &str {
    seen.message.as_deref().unwrap_or("no answer")
}

/// Returns true for the first delivery; the second delivery is the last.
fn is_first_delivery(message: &jetstream::Message) -> bool {
    message.info().is_ok_and(|info| info.delivered <= 1)
}

/// Returns a job that was not begun to the stream, for immediate redelivery to another prober.
pub(crate) async fn nak_job(message: &jetstream::Message) {
    with_publish_timeout("nak_job", message.ack_with(AckKind::Nak(None))).await;
}

/// Counts a check in a gauge for the lifetime of the guard.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
