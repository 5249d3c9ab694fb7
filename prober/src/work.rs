//! From a job to its acknowledgement: what one task does, under one permit.

use std::{sync::Arc, time::Duration};

use async_nats::{
    header::NATS_MESSAGE_TTL,
    jetstream::{self, AckKind},
};
use picket_proto::{Cause, Check, CheckResult, Invalid, Timestamp};
use picket_runtime::streams;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{
    clock::Clock,
    drift::Drift,
    hosts::{self, Hosts, Refusal, Turn},
    http::{Checker, Observation},
    job::Job,
    lane::Lane,
    metrics::Metrics,
    network::{Network, Verdict},
    publisher::{Publisher, bounded},
    regexes::Regexes,
};

/// What every check needs.
pub(crate) struct Work {
    pub(crate) checker: Checker,
    pub(crate) regexes: Arc<Regexes>,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) drift: Drift,
    pub(crate) hosts: Hosts,
    pub(crate) network: Network,
    /// Of ticks that wait for their turn at a host: their slots are given to others meanwhile.
    pub(crate) ticks: Lane,
    /// Of confirming checks, which take no slot at all: where many sites fail slowly they would hold up those that are well.
    pub(crate) confirming: Lane,
    /// Of ad-hoc requests, which hold a permit of the service.
    pub(crate) requests: Lane,
}

/// What keeps another check from being begun, until it is dropped.
pub(crate) type Slot = Box<dyn Send>;

/// A check that may begin.
pub(crate) struct Ready {
    check: Check,
    host: String,
    _turn: Turn,
}

/// Why a check is not begun.
pub(crate) enum NotBegun {
    /// It makes no sense.
    Invalid(Invalid),
    /// Its result, which says why.
    Missed(Box<CheckResult>),
    /// The prober stops; another may do it.
    Stopping,
}

impl Work {
    /// How long a check may wait for its turn where nothing says when it is too old.
    const LONGEST_WAIT: Duration = picket_proto::job::MAX_LIFE;
    /// After this an intake has seen that there is no network.
    const PULLS_NO_MORE: Duration = Duration::from_secs(1);
    /// A third of the time after which the stream takes a silent prober for dead, and gives its job to another.
    const KEEP: Duration = Duration::from_secs(streams::JOB_ACK_WAIT.as_secs() / 3);

    /// Does a queued job to its end, and keeps it from other probers meanwhile.
    pub(crate) async fn queued(&self, message: jetstream::Message, slot: Slot) {
        let keeping = async {
            loop {
                sleep(Self::KEEP).await;
                bounded("keep a job", message.ack_with(AckKind::Progress)).await;
            }
        };
        // Side by side: a check that waited for the bus would be measured wrongly.
        tokio::select! {
            biased;
            () = self.finish(&message, slot) => {}
            () = keeping => {}
        }
    }

    /// Acknowledges the job only after its result is stored.
    async fn finish(&self, message: &jetstream::Message, slot: Slot) {
        let job = match Job::queued(&message.subject, &message.payload, self.clock.now()) {
            Ok(job) => job,
            Err(why) => return self.refuse(message, &why).await,
        };
        if self.network.is_offline() && is_first_delivery(message) {
            // Another may reach what this one cannot; in a moment, when this one pulls no more.
            let nak = AckKind::Nak(Some(Self::PULLS_NO_MORE));
            return bounded("give a job back", message.ack_with(nak)).await;
        }
        let ends_in_stream =
            message.headers.as_ref().is_some_and(|headers| headers.get(NATS_MESSAGE_TTL).is_some());
        let now = match job.scheduled_at() {
            // A message that does not say when it was stored has just been.
            Some(due) if ends_in_stream => match message.info() {
                Ok(info) => self.clock.heard(due, info.published.into()),
                Err(_) => due,
            },
            // Not a coordinator's: nobody but us ends it.
            _ => self.clock.now(),
        };
        let mut slot = Some(slot).filter(|_| !job.is_confirming());
        let result = match self.begin(&job, now, Self::LONGEST_WAIT, &mut slot).await {
            Ok(ready) => self.perform(&job, ready).await,
            Err(NotBegun::Missed(result)) => *result,
            Err(NotBegun::Stopping) => return give_back(message).await,
            Err(NotBegun::Invalid(why)) if job.site().is_none() => return self.refuse(message, &why).await,
            Err(NotBegun::Invalid(why)) => {
                self.publisher.reject(&message.subject, &message.payload, &why).await;
                self.missed(&job, Cause::Invalid, why.to_string())
            }
        };
        if self.publisher.store(&result).await.is_ok() {
            bounded("acknowledge a job", message.ack()).await;
        }
        drop(slot);
    }

    async fn refuse(&self, message: &jetstream::Message, why: &Invalid) {
        self.publisher.reject(&message.subject, &message.payload, why).await;
        bounded("end a job", message.ack_with(AckKind::Term)).await;
    }

    /// Judges the request at `now` and waits for its turn, for `longest` if nothing says when it expires. A check that waits
    /// gives its slot away meanwhile; `slot` is then a permit of its lane.
    pub(crate) async fn begin(
        &self,
        job: &Job,
        now: Timestamp,
        longest: Duration,
        slot: &mut Option<Slot>,
    ) -> Result<Ready, NotBegun> {
        let missed = |cause, message| NotBegun::Missed(Box::new(self.missed(job, cause, message)));
        if let Some(ago) = job.expired(now) {
            let message = format!("expired {} ms before a prober had it", ago.as_millis());
            return Err(missed(Cause::Expired, message));
        }
        let check = job
            .request
            .validate_with(|field, pattern| self.regexes.get(field, pattern))
            .map_err(NotBegun::Invalid)?;
        if self.network.is_offline() {
            return Err(missed(Cause::ProberOffline, "this prober has no network".to_owned()));
        }
        let host = hosts::of(&check.url);
        if slot.is_some()
            && let Some(turn) = self.hosts.turn_now(&host)
        {
            return Ok(Ready { check, host, _turn: turn });
        }
        let wait = job.expires_at().map_or(longest, |moment| moment.since(now).min(longest));
        let refusal = match self.enter(job, &host, Instant::now() + wait, slot).await {
            Ok(turn) => return Ok(Ready { check, host, _turn: turn }),
            Err(Refusal::Closing) => return Err(NotBegun::Stopping),
            Err(refusal) => refusal,
        };
        let place = match job.is_confirming() {
            true => {
                self.metrics.confirmations_refused.inc();
                format!("among the confirming checks, of which {} run at once", self.confirming.size())
            }
            false => {
                self.metrics.host_refusals.inc();
                format!("its turn at {host}, where {} checks at once are allowed", self.hosts.per_host())
            }
        };
        Err(match refusal {
            Refusal::Full(others) => {
                missed(Cause::Overloaded, format!("no room to wait for {place}; {others} wait there"))
            }
            _ => missed(Cause::Expired, format!("expired after waiting {} ms for {place}", wait.as_millis())),
        })
    }

    /// Enters the lane of the job's kind, and takes its permit as `slot`.
    async fn enter(
        &self,
        job: &Job,
        host: &str,
        until: Instant,
        slot: &mut Option<Slot>,
    ) -> Result<Turn, Refusal> {
        let metrics = &self.metrics;
        let (lane, waiting, of_its_kind) = match (job.is_confirming(), slot.is_some()) {
            (true, _) => (&self.confirming, &metrics.confirmations_waiting, None),
            (false, true) => (&self.ticks, &metrics.checks_waiting, None),
            (false, false) => (&self.requests, &metrics.checks_waiting, Some(&metrics.requests_running)),
        };
        let (turn, permit) = match lane.enter_now(&self.hosts, host) {
            Some(entry) => entry,
            None => {
                let began = Instant::now();
                *slot = None;
                let counted = Counted::new(waiting);
                let entry = lane.enter(&self.hosts, host, until).await?;
                drop(counted);
                if !job.is_confirming() {
                    metrics.host_wait.observe(began.elapsed().as_secs_f64());
                }
                entry
            }
        };
        let running = (Counted::new(&metrics.checks_running), of_its_kind.map(Counted::new));
        *slot = Some(Box::new((permit, running)));
        Ok(turn)
    }

    /// Does the check. What this prober did to it is told from what the site did.
    pub(crate) async fn perform(&self, job: &Job, ready: Ready) -> CheckResult {
        let Ready { check, host, _turn: turn } = ready;
        let mark = self.drift.mark();
        let started_at = self.clock.now();
        let (seen, late) = Box::pin(self.drift.timed(self.checker.check(&check))).await;
        let seen = Observation { started_at, ..seen };
        let held_up = self.drift.excess(&mark, late);
        drop(turn);
        let own_fault = match held_up {
            Some(time) => Some((
                Cause::Overloaded,
                format!(
                    "this prober was held up for {} ms during the check, so its times are not the site's",
                    time.as_millis()
                ),
            )),
            None => match self.network.judge(&host, &seen).await {
                Verdict::Believed => None,
                Verdict::Offline => Some((
                    Cause::ProberOffline,
                    format!("this prober has no network: no canary answers either ({})", in_words(&seen)),
                )),
                Verdict::Unknown => Some((
                    Cause::Overloaded,
                    format!(
                        "canaries could not be asked in time whether there is a network ({})",
                        in_words(&seen)
                    ),
                )),
            },
        };
        let (region, prober) = (&self.publisher.region, &self.publisher.prober);
        let result = match own_fault {
            None => job.done(region, prober, seen),
            Some((cause, message)) => CheckResult {
                started_at: Some(seen.started_at),
                ..job.missed(region, prober, cause, message)
            },
        };
        self.count(&result);
        result
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

fn in_words(seen: &Observation) -> &str {
    seen.message.as_deref().unwrap_or("no answer")
}

/// The second delivery is the last one.
fn is_first_delivery(message: &jetstream::Message) -> bool {
    message.info().is_ok_and(|info| info.delivered <= 1)
}

/// Not begun: another prober may have it at once.
pub(crate) async fn give_back(message: &jetstream::Message) {
    bounded("give a job back", message.ack_with(AckKind::Nak(None))).await;
}

/// Counts a check in a gauge for as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
