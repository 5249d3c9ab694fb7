//! Works in a single lane of a channel: decides, sends, writes the end, until nothing is due.
//!
//! **Bound**: a single message in flight a lane. **Loss**: none; what is not written is decided again by
//! the next holder of the lane. A message is sent twice only if its end could not be written, and
//! then says so.

use std::{sync::Arc, time::Duration};

use picket_proto::Timestamp;
use picket_runtime::ErrorChain;
use picket_store::{
    Store,
    lanes::{
        self, AttemptStart, ChannelChange, Lane, LaneContents, LaneWork, NoticeChange, NoticeState,
        NotificationChange,
    },
    settings::SharedSettings,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use self::prepare::{Preparation, Prepared};
use crate::{
    aftermath::{EndedAttempt, follow_attempt},
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Purpose},
    metrics::{Metrics, OutcomeLabels, ReasonLabel},
    pending::PendingMessage,
    sender::Sender,
};

mod prepare;

/// Time for which a lane is leased, renewed by each write; longer than an attempt takes.
pub(crate) const LEASE_TIME: Duration = Duration::from_secs(30);
/// Maximum time of an attempt, whatever the channel's own timeout is.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(27);
/// Messages after which a lane is given back, so that others have their turn.
const MAX_MESSAGES: usize = 200;
/// Time until a lane is looked at again after an error of the database.
const ERROR_TIME: Duration = Duration::from_secs(1);
/// Attempts to write the end of an attempt, a second apart.
const END_WRITES: u32 = 5;

/// What workers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Worker {
    /// Name of this notifier.
    pub(crate) name: String,
    pub(crate) store: Store,
    pub(crate) settings: SharedSettings,
    /// URL of the web UI, unless the settings say another.
    pub(crate) default_public_url: Option<String>,
    pub(crate) sender: Arc<Sender>,
    /// Permit to read, decide and compose.
    pub(crate) preparations: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// Whether there may be more to do in a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Done,
    /// Another notifier has the lane.
    LeaseLost,
}

impl Worker {
    /// URL of the web UI without a slash at its end, for links.
    pub(crate) fn public_url(&self) -> Option<String> {
        let setting = self.settings.current().public_url.clone();
        let url = setting.or_else(|| self.default_public_url.clone())?;
        Some(url.trim_end_matches('/').to_owned())
    }

    /// Works in the lane until nothing is due, and gives it back.
    pub(crate) async fn work_lane(&self, lane: &Lane) {
        for _ in 0..MAX_MESSAGES {
            match self.work_once(lane).await {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => break,
                Ok(Progress::LeaseLost) => {
                    self.metrics.lost_leases.inc();
                    return;
                }
                Err(error) => {
                    self.metrics.database_errors.inc();
                    warn!(channel = lane.channel, lane = lane.lane, error = %ErrorChain(&error), "could not work on a channel, retrying");
                    sleep(ERROR_TIME).await;
                    break;
                }
            }
        }
        // A lane that is not given back is free when its lease is over.
        if let Err(error) = lanes::release_lane(&self.store, lane).await {
            self.metrics.database_errors.inc();
            debug!(channel = lane.channel, error = %ErrorChain(&error), "could not give a lane back");
        }
    }

    async fn work_once(&self, lane: &Lane) -> Result<Progress, picket_store::Error> {
        let prepared = match self.prepare_lane(lane).await? {
            Preparation::Ready(prepared) => prepared,
            Preparation::Ended(progress) => return Ok(progress),
        };
        for (pending, message) in &prepared.messages {
            match self.attempt(lane, &prepared, pending, message).await? {
                Progress::More if pending.is_single => {}
                progress => return Ok(progress),
            }
        }
        Ok(Progress::More)
    }

    /// Records the start of an attempt, makes it, and records its end.
    async fn attempt(
        &self,
        lane: &Lane,
        prepared: &Prepared,
        pending: &PendingMessage,
        message: &Message,
    ) -> Result<Progress, picket_store::Error> {
        let number = pending.attempts + 1;
        let start = LaneWork {
            notices: pending
                .notices
                .iter()
                .map(|notice| NoticeChange::attempt(&notice.key, pending.id))
                .collect(),
            notification: Some(NotificationChange {
                title: Some(message.title.clone()),
                contents: pending.contents.clone(),
                may_have_arrived: pending.may_have_arrived,
                ..NotificationChange::new(pending.id, pending.purpose.as_str(), pending.group_key.clone())
            }),
            attempt: Some(AttemptStart { number, notifier: self.name.clone() }),
            ..LaneWork::default()
        };
        if !lanes::write_lane_work(&self.store, lane, &start, LEASE_TIME).await? {
            return Ok(Progress::LeaseLost);
        }
        drop(start);
        let attempt = match &prepared.access.settings {
            Ok(settings) => match timeout(ATTEMPT_TIMEOUT, self.sender.send(settings, message)).await {
                Ok(attempt) => attempt,
                Err(_) => {
                    Attempt::new(AttemptOutcome::retry(None, false), None, "no end of the attempt in time")
                }
            },
            // Another build may understand the channel, or a person mend it.
            Err(why) => Attempt::new(AttemptOutcome::retry(None, true), None, why),
        };
        let ended = EndedAttempt {
            pending,
            channel: &prepared.channel,
            audience: prepared.access.audience,
            problem: prepared.access.settings.as_ref().err().map(String::as_str),
            number,
            attempt: &attempt,
            pace: prepared.access.pace,
            now: prepared.now.saturating_add(prepared.read_at.elapsed()),
            random: fastrand::f64(),
        };
        let mut end = follow_attempt(&ended);
        if pending.purpose == Purpose::Test {
            end_test(&mut end, &attempt);
        }
        self.count_attempt(lane, prepared.access.kind, pending, &attempt, &end, ended.now);
        if self.write_end(lane, &end).await? {
            if attempt.is_delivered() && prepared.channel.failing_since.is_some() {
                self.try_waiting(lane).await;
            }
            // After a failure the lane is given back, so that channels that deliver come first.
            let is_over = end.channel.as_ref().is_some_and(|channel| {
                channel.next_send_at.is_some()
                    || channel.succeeded == Some(false)
                    || channel.is_gone == Some(true)
            });
            return Ok(if is_over { Progress::Done } else { Progress::More });
        }
        if let Some(end) = &end.attempt_end {
            lanes::end_attempt(&self.store, pending.id, end).await?;
        }
        Ok(Progress::LeaseLost)
    }

    /// Has what waits in all lanes of the channel tried, since it delivers again. Without it their times
    /// come later.
    async fn try_waiting(&self, lane: &Lane) {
        if let Err(error) = lanes::try_waiting(&self.store, &lane.channel).await {
            self.metrics.database_errors.inc();
            debug!(channel = lane.channel, error = %ErrorChain(&error), "could not have the rest tried");
        }
    }

    /// Writes the end of an attempt. What is known must not be lost by a short outage: the message would be
    /// sent again.
    async fn write_end(&self, lane: &Lane, end: &LaneWork) -> Result<bool, picket_store::Error> {
        for _ in 1..END_WRITES {
            match lanes::write_lane_work(&self.store, lane, end, LEASE_TIME).await {
                Ok(is_held) => return Ok(is_held),
                Err(error) => {
                    self.metrics.database_errors.inc();
                    warn!(channel = lane.channel, error = %ErrorChain(&error), "could not write the end of an attempt, retrying");
                    sleep(ERROR_TIME).await;
                }
            }
        }
        lanes::write_lane_work(&self.store, lane, end, LEASE_TIME).await
    }

    fn count_suppressed(&self, contents: &LaneContents, changes: &[NoticeChange]) {
        for change in changes {
            if let (Some(NoticeState::Suppressed), Some(Some(reason))) = (change.state, change.reason) {
                self.metrics.suppressed.get_or_create(&ReasonLabel { reason }).inc();
                debug!(channel = contents.channel.name, reason, "a notice is not told");
            }
        }
    }

    fn count_attempt(
        &self,
        lane: &Lane,
        kind: &'static str,
        pending: &PendingMessage,
        attempt: &Attempt,
        end: &LaneWork,
        now: Timestamp,
    ) {
        let outcome = end.attempt_end.as_ref().map_or("", |end| end.outcome);
        self.metrics.attempts.get_or_create(&OutcomeLabels { kind, outcome }).inc();
        match end.notification.as_ref().and_then(|message| message.state) {
            Some(NoticeState::Delivered) => {
                self.metrics.notifications.get_or_create(&OutcomeLabels { kind, outcome: "delivered" }).inc();
                if let Some(newest) = pending.newest_at {
                    self.metrics
                        .delivery_seconds
                        .observe(now.saturating_duration_since(newest).as_secs_f64());
                }
                info!(channel = lane.channel, kind, notification = %pending.id, notices = pending.notices.len(), "delivered");
            }
            Some(_) => {
                self.metrics.notifications.get_or_create(&OutcomeLabels { kind, outcome: "failed" }).inc();
                warn!(channel = lane.channel, kind, notification = %pending.id, outcome, status = attempt.status, answer = attempt.message, "the channel did not take a message; given up");
            }
            None => {
                warn!(channel = lane.channel, kind, notification = %pending.id, outcome, status = attempt.status, answer = attempt.message, "could not deliver, retrying");
            }
        }
    }
}

/// A test is a single attempt, which says nothing about the channel's failures.
fn end_test(end: &mut LaneWork, attempt: &Attempt) {
    let is_delivered = matches!(attempt.outcome, AttemptOutcome::Delivered { .. });
    if let Some(message) = &mut end.notification {
        message.state = Some(if is_delivered { NoticeState::Delivered } else { NoticeState::Failed });
        message.reason = (!is_delivered).then_some("refused");
    }
    end.channel = is_delivered.then(|| ChannelChange {
        succeeded: Some(true),
        is_failing: Some(false),
        problem: Some(None),
        is_gone: Some(false),
        ..ChannelChange::default()
    });
}
