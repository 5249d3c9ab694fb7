//! Works in a single lane of a channel: decides, sends, writes the end, until nothing is due.
//!
//! **Bound**: a single message in flight a lane. **Loss**: none; what is not written is decided again by
//! the next holder of the lane. A message is sent twice only if its end could not be written, and
//! then says so.

use std::{collections::HashMap, sync::Arc, time::Duration};

use picket_proto::{ChannelKind, Timestamp};
use picket_runtime::ErrorChain;
use picket_store::{
    Store,
    lanes::{
        self, AttemptStart, ChannelChange, Lane, LaneContents, LaneWork, NoticeChange, NoticeState,
        NotificationChange, OutageDetails,
    },
    settings::SharedSettings,
};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    aftermath::{EndedAttempt, follow_attempt},
    attempt::{Attempt, AttemptOutcome},
    channel::ChannelSettings,
    compose::{Context, compose, compose_test, list_shown_incidents},
    decide::{Decision, PlannedMessage, decide},
    message::{Message, Purpose},
    metrics::{Metrics, OutcomeLabels, ReasonLabel},
    sender::Sender,
};

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
/// Time until a channel is looked at again whose settings this build does not understand.
const UNUSABLE_TIME: Duration = Duration::from_secs(60);

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
        let Some(contents) = lanes::load_lane(&self.store, lane).await? else { return Ok(Progress::Done) };
        let usable = match read_settings(&contents) {
            Ok(usable) => usable,
            Err(why) => return self.put_off_channel(lane, &contents, why).await,
        };
        let (kind, settings) = &usable;
        if let Some(test) = find_test(&contents) {
            let mut message = compose_test(test, &contents.channel.name, *kind, contents.now);
            // Of a notifier that died in the middle.
            message.is_repeat = contents.messages.get(&test).is_some_and(|test| test.attempts > 0);
            let outgoing = PlannedMessage {
                id: test,
                purpose: Purpose::Test,
                group_key: None,
                told: Vec::new(),
                notes: Vec::new(),
                is_single: false,
                storm: None,
            };
            return self.attempt(lane, &contents, *kind, settings, &outgoing, message, Vec::new()).await;
        }
        if Timestamp::from(contents.channel.next_send_at) > contents.now {
            return Ok(Progress::Done);
        }
        let Decision { changes, singles, message, storm } = decide(&contents);
        let is_single = !singles.is_empty();
        let planned: Vec<_> = singles.into_iter().chain(message).collect();
        let channel = storm.map(|storm| ChannelChange {
            storm: Some(serde_json::to_value(storm).unwrap_or_default()),
            ..ChannelChange::default()
        });
        let work = LaneWork { notices: changes, channel, ..LaneWork::default() };
        if !work.is_empty() && !lanes::write_lane_work(&self.store, lane, &work, LEASE_TIME).await? {
            return Ok(Progress::LeaseLost);
        }
        self.count_suppressed(&contents, &work.notices);
        if planned.is_empty() {
            return Ok(Progress::Done);
        }
        if contents.channel.problem.is_some() {
            return self.fail_all(lane, &planned).await;
        }
        let incidents: Vec<i64> = planned.iter().flat_map(list_shown_incidents).collect();
        let details = match incidents.is_empty() {
            true => Vec::new(),
            // A message is sent without them rather than later.
            false => lanes::read_outage_details(&self.store, &incidents).await.unwrap_or_default(),
        };
        let details: HashMap<i64, OutageDetails> =
            details.into_iter().map(|details| (details.incident_id, details)).collect();
        for plan in &planned {
            let message = self.compose_message(lane, &contents, plan, &details).await?;
            let keys = plan.told.iter().flat_map(|told| &told.keys);
            let changes = keys.map(|key| NoticeChange::attempt(key, plan.id)).collect();
            match self.attempt(lane, &contents, *kind, settings, plan, message, changes).await? {
                Progress::More if is_single => {}
                progress => return Ok(progress),
            }
        }
        Ok(Progress::More)
    }

    /// Fails what is planned for a channel that cannot be used any more.
    async fn fail_all(
        &self,
        lane: &Lane,
        planned: &[PlannedMessage<'_>],
    ) -> Result<Progress, picket_store::Error> {
        let keys = planned.iter().flat_map(|plan| &plan.told).flat_map(|told| &told.keys);
        let notices = keys.map(|key| NoticeChange::fail(key, "channel_problem")).collect();
        let work = LaneWork { notices, ..LaneWork::default() };
        match lanes::write_lane_work(&self.store, lane, &work, LEASE_TIME).await? {
            true => Ok(Progress::More),
            false => Ok(Progress::LeaseLost),
        }
    }

    /// Postpones everything of a channel whose settings this build does not understand.
    async fn put_off_channel(
        &self,
        lane: &Lane,
        contents: &LaneContents,
        why: String,
    ) -> Result<Progress, picket_store::Error> {
        warn!(channel = lane.channel, error = why, "the channel cannot be used");
        let later = contents.now.saturating_add(UNUSABLE_TIME);
        // A person who tests the channel is told why.
        let test = find_test(contents);
        let notification = test.map(|id| NotificationChange {
            state: Some(NoticeState::Failed),
            reason: Some("settings"),
            ..change_of(id, Purpose::Test, None)
        });
        let work = LaneWork {
            notification,
            channel: Some(ChannelChange {
                next_send_at: Some(later),
                error: Some(why),
                is_failing: Some(true),
                ..ChannelChange::default()
            }),
            ..LaneWork::default()
        };
        match lanes::write_lane_work(&self.store, lane, &work, LEASE_TIME).await? {
            true => Ok(Progress::Done),
            false => Ok(Progress::LeaseLost),
        }
    }

    async fn compose_message(
        &self,
        lane: &Lane,
        contents: &LaneContents,
        outgoing: &PlannedMessage<'_>,
        details: &HashMap<i64, OutageDetails>,
    ) -> Result<Message, picket_store::Error> {
        // Programs have keys of their own in place of threads.
        let thread = match outgoing.told.as_slice() {
            [told] if !outgoing.is_single => {
                lanes::find_thread(&self.store, &lane.channel, &told.notice.subject).await.unwrap_or_default()
            }
            _ => None,
        };
        let earlier = contents.messages.get(&outgoing.id);
        let attempted = outgoing.told.iter().filter_map(|told| told.attempted);
        let is_repeat =
            attempted.filter_map(|(id, _)| contents.messages.get(&id)).any(|message| message.is_end_unknown);
        if is_repeat {
            self.metrics.unknown_ends.inc();
        }
        let settings = self.settings.current();
        let context = Context {
            now: contents.now,
            installation: settings.installation_id,
            public_url: self.public_url(),
            details,
            thread,
            is_repeat,
            receiver_ref: earlier
                .and_then(|message| message.receiver_ref.as_ref())
                .map(|left| left.0.clone()),
        };
        Ok(compose(outgoing, &context))
    }

    /// Records the start of an attempt, makes it, and records its end.
    #[expect(clippy::too_many_arguments, reason = "the parts of one attempt, all of which differ")]
    async fn attempt(
        &self,
        lane: &Lane,
        contents: &LaneContents,
        kind: ChannelKind,
        settings: &ChannelSettings,
        outgoing: &PlannedMessage<'_>,
        message: Message,
        changes: Vec<NoticeChange>,
    ) -> Result<Progress, picket_store::Error> {
        let earlier = contents.messages.get(&outgoing.id);
        let number = earlier.map_or(0, |message| message.attempts) + 1;
        let start = LaneWork {
            notices: changes,
            notification: Some(NotificationChange {
                title: Some(message.title.clone()),
                ..change_of(outgoing.id, outgoing.purpose, outgoing.group_key.clone())
            }),
            attempt: Some(AttemptStart { number, notifier: self.name.clone() }),
            ..LaneWork::default()
        };
        if !lanes::write_lane_work(&self.store, lane, &start, LEASE_TIME).await? {
            return Ok(Progress::LeaseLost);
        }
        let began = tokio::time::Instant::now();
        let attempt = match timeout(ATTEMPT_TIMEOUT, self.sender.send(settings, &message)).await {
            Ok(attempt) => attempt,
            Err(_) => Attempt::new(
                AttemptOutcome::Retry { retry_after: None, is_channel_failing: false, receiver_ref: None },
                None,
                "no end of the attempt in time",
            ),
        };
        let ended = EndedAttempt {
            outgoing,
            purpose: outgoing.purpose.as_str(),
            channel: &contents.channel,
            kind,
            number,
            first_at: earlier.map_or(contents.now, |message| message.created_at.into()),
            attempt: &attempt,
            pace: pace_of(contents, kind),
            now: contents.now.saturating_add(began.elapsed()),
            random: fastrand::f64(),
        };
        let mut end = follow_attempt(&ended);
        if outgoing.purpose == Purpose::Test {
            end_test(&mut end, &attempt);
        }
        self.count_attempt(lane, kind, outgoing, &attempt, &end, ended.now);
        if self.write_end(lane, &end).await? {
            // After a failure the lane is given back, so that channels that deliver come first.
            let is_over = end.channel.as_ref().is_some_and(|channel| {
                channel.next_send_at.is_some()
                    || channel.succeeded == Some(false)
                    || channel.problem.is_some()
            });
            return Ok(if is_over { Progress::Done } else { Progress::More });
        }
        if let Some(end) = &end.attempt_end {
            lanes::end_attempt(&self.store, outgoing.id, end).await?;
        }
        Ok(Progress::LeaseLost)
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
        kind: ChannelKind,
        outgoing: &PlannedMessage<'_>,
        attempt: &Attempt,
        end: &LaneWork,
        now: Timestamp,
    ) {
        let outcome = end.attempt_end.as_ref().map_or("", |end| end.outcome);
        self.metrics.attempts.get_or_create(&OutcomeLabels { kind: kind.as_str(), outcome }).inc();
        match end.notification.as_ref().and_then(|message| message.state) {
            Some(NoticeState::Delivered) => {
                self.metrics
                    .notifications
                    .get_or_create(&OutcomeLabels { kind: kind.as_str(), outcome: "delivered" })
                    .inc();
                if let Some(newest) =
                    outgoing.told.iter().map(|told| Timestamp::from(told.notice.recorded_at)).max()
                {
                    self.metrics
                        .delivery_seconds
                        .observe(now.saturating_duration_since(newest).as_secs_f64());
                }
                info!(channel = lane.channel, kind = kind.as_str(), notification = %outgoing.id, notices = outgoing.told.len(), "delivered");
            }
            Some(_) => {
                self.metrics
                    .notifications
                    .get_or_create(&OutcomeLabels { kind: kind.as_str(), outcome: "failed" })
                    .inc();
                warn!(channel = lane.channel, kind = kind.as_str(), notification = %outgoing.id, outcome, status = attempt.status, answer = attempt.message, "the channel did not take a message; given up");
            }
            None => {
                warn!(channel = lane.channel, kind = kind.as_str(), notification = %outgoing.id, outcome, status = attempt.status, answer = attempt.message, "could not deliver, retrying");
            }
        }
    }
}

fn read_settings(contents: &LaneContents) -> Result<(ChannelKind, ChannelSettings), String> {
    let kind = contents
        .channel
        .known_kind()
        .ok_or_else(|| format!("kind '{}' is not known to this notifier", contents.channel.kind))?;
    let settings =
        ChannelSettings::parse(kind, &contents.channel.settings.0).map_err(|why| why.to_string())?;
    Ok((kind, settings))
}

fn find_test(contents: &LaneContents) -> Option<Uuid> {
    let tests = contents.messages.values().filter(|message| message.purpose == Purpose::Test.as_str());
    tests.map(|test| test.notification_id).min()
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
        ..ChannelChange::default()
    });
}

fn change_of(id: Uuid, purpose: Purpose, group_key: Option<String>) -> NotificationChange {
    NotificationChange {
        id,
        purpose: purpose.as_str(),
        group_key,
        title: None,
        state: None,
        reason: None,
        next_attempt_at: None,
        receiver_ref: None,
    }
}

fn pace_of(contents: &LaneContents, kind: ChannelKind) -> Duration {
    match contents.channel.pace_ms {
        Some(millis) => Duration::from_millis(u64::try_from(millis).unwrap_or(0)),
        None => crate::channel::default_pace(kind),
    }
}
