//! What follows from the end of an attempt: pure rules.

use std::time::Duration;

use picket_proto::{Audience, Timestamp};
use picket_store::lanes::{
    AttemptEnd, ChannelChange, LaneChannel, LaneWork, NoticeChange, NoticeState, NotificationChange,
};

use crate::{
    attempt::{Attempt, AttemptOutcome},
    pending::{PendingMessage, PendingNotice},
};

#[cfg(test)]
mod tests;

const HOUR: Duration = Duration::from_secs(3_600);
/// Waits between the attempts of a message to people; then hourly.
const PEOPLE_SCHEDULE: [Duration; 7] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(30 * 60),
];
/// Waits between the attempts of an event for programs, as Standard Webhooks recommends.
const PROGRAM_SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(5 * 3_600),
    Duration::from_secs(10 * 3_600),
    Duration::from_secs(14 * 3_600),
    Duration::from_secs(20 * 3_600),
    Duration::from_secs(24 * 3_600),
];
/// Time after its first attempt at which a notice to people is given up.
const GIVE_UP_TIME: Duration = Duration::from_secs(24 * 3_600);
/// Time of failures after which a channel counts as failing.
pub(crate) const FAILING_TIME: Duration = Duration::from_secs(15 * 60);
/// Attempts after which a receiver that has moved is tried at once.
const MAX_MOVES: i32 = 3;
/// Waits are varied by up to this share, so that channels that failed together do not retry together.
const JITTER: f64 = 0.2;

/// Waits between the attempts of a message to a kind of this audience.
pub fn retry_waits(audience: Audience) -> &'static [Duration] {
    match audience {
        Audience::Programs => &PROGRAM_SCHEDULE,
        Audience::People | Audience::Nobody => &PEOPLE_SCHEDULE,
    }
}

/// An attempt that has ended.
pub(crate) struct EndedAttempt<'a> {
    /// What was to be told.
    pub(crate) pending: &'a PendingMessage,
    /// The channel.
    pub(crate) channel: &'a LaneChannel,
    /// Who reads the channel.
    pub(crate) audience: Audience,
    /// Why this build cannot read the channel's settings.
    pub(crate) problem: Option<&'a str>,
    /// Number of the attempt, from 1.
    pub(crate) number: i32,
    /// The end.
    pub(crate) attempt: &'a Attempt,
    /// Least time between two messages of the kind.
    pub(crate) pace: Duration,
    /// The database's clock.
    pub(crate) now: Timestamp,
    /// A random number from 0 to 1.
    pub(crate) random: f64,
}

impl EndedAttempt<'_> {
    /// For whom the message is: a program that gets messages about several events is told the present
    /// state, as people are.
    fn audience(&self) -> Audience {
        match self.audience {
            Audience::Programs if !self.pending.is_single => Audience::People,
            audience => audience,
        }
    }
}

/// What is written after an attempt.
pub(crate) fn follow_attempt(ended: &EndedAttempt<'_>) -> LaneWork {
    let mut work = LaneWork {
        notification: Some(NotificationChange::new(
            ended.pending.id,
            ended.pending.purpose.as_str(),
            ended.pending.group_key.clone(),
        )),
        attempt_end: Some(describe_end(ended)),
        ..LaneWork::default()
    };
    let mut channel = ChannelChange::default();
    match &ended.attempt.outcome {
        AttemptOutcome::Delivered { .. } => {
            follow_delivery(ended, &mut work);
            channel.succeeded = Some(true);
            channel.problem = ended.channel.problem.is_some().then_some(None);
            channel.is_gone = ended.channel.is_gone.then_some(false);
            channel.is_failing = ended.channel.is_failing.then_some(false);
            channel.next_send_at = (!ended.pace.is_zero()).then(|| ended.now.saturating_add(ended.pace));
            channel.storm =
                ended.pending.storm.as_ref().map(|storm| serde_json::to_value(storm).unwrap_or_default());
        }
        AttemptOutcome::Refused => {
            give_up(ended, &mut work, "refused");
            channel.error = Some(ended.attempt.message.clone());
        }
        AttemptOutcome::Gone => {
            give_up(ended, &mut work, "gone");
            channel.error = Some(ended.attempt.message.clone());
            channel.problem = Some(Some("the receiver is gone (410) and wants no message again".to_owned()));
            channel.is_gone = Some(true);
            channel.is_failing = Some(true);
        }
        AttemptOutcome::Moved { settings } => {
            channel.overrides = Some(settings.clone());
            // A receiver that moves again and again is tried like one that fails.
            let again = if ended.number < MAX_MOVES { Some(ended.now) } else { next_attempt_at(ended, None) };
            try_again(ended, &mut work, again);
        }
        AttemptOutcome::Retry { retry_after, is_channel_failing, receiver_ref } => {
            if let Some(notification) = &mut work.notification {
                notification.receiver_ref.clone_from(receiver_ref);
            }
            channel.succeeded = Some(false);
            channel.error = Some(ended.attempt.message.clone());
            // Also cleared: another build may have found the channel unreadable.
            channel.problem =
                (ended.problem != ended.channel.problem.as_deref()).then(|| ended.problem.map(str::to_owned));
            let failing_for =
                ended.channel.failing_since.map(|since| ended.now.saturating_duration_since(since.into()));
            let is_failing = *is_channel_failing || failing_for.is_some_and(|time| time >= FAILING_TIME);
            let next = next_attempt_at(ended, *retry_after);
            let retry = try_again(ended, &mut work, next);
            // People's messages keep their order. Programs are told of other subjects meanwhile, unless
            // the receiver asks for silence.
            let holds_channel = ended.audience() != Audience::Programs || retry_after.is_some();
            channel.next_send_at = next.filter(|_| holds_channel && retry != Retry::None);
            channel.is_failing = (is_failing || retry != Retry::All).then_some(true);
        }
    }
    work.channel = Some(channel);
    work
}

fn describe_end(ended: &EndedAttempt<'_>) -> AttemptEnd {
    let (outcome, retry_after) = match &ended.attempt.outcome {
        AttemptOutcome::Delivered { .. } => ("delivered", None),
        AttemptOutcome::Retry { retry_after, .. } => ("retry", *retry_after),
        AttemptOutcome::Refused => ("refused", None),
        AttemptOutcome::Gone => ("gone", None),
        AttemptOutcome::Moved { .. } => ("moved", None),
    };
    AttemptEnd {
        number: ended.number,
        outcome,
        status: ended.attempt.status,
        message: ended.attempt.message.clone(),
        retry_after_ms: retry_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn follow_delivery(ended: &EndedAttempt<'_>, work: &mut LaneWork) {
    let pending = ended.pending;
    if let Some(notification) = &mut work.notification {
        notification.state = Some(NoticeState::Delivered);
        if let AttemptOutcome::Delivered { receiver_ref } = &ended.attempt.outcome {
            notification.receiver_ref.clone_from(receiver_ref);
        }
    }
    work.notices.extend(pending.notices.iter().map(|notice| NoticeChange::deliver(&notice.key, pending.id)));
    work.added.extend(pending.later.iter().cloned());
}

fn give_up(ended: &EndedAttempt<'_>, work: &mut LaneWork, reason: &'static str) {
    if let Some(notification) = &mut work.notification {
        notification.state = Some(NoticeState::Failed);
        notification.reason = Some(reason);
    }
    work.notices.extend(ended.pending.notices.iter().map(|notice| NoticeChange::fail(&notice.key, reason)));
}

/// Which notices of a message are attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    All,
    Some,
    None,
}

/// Postpones the notices of a message to its next attempt, and gives those up that are exhausted.
fn try_again(ended: &EndedAttempt<'_>, work: &mut LaneWork, next: Option<Timestamp>) -> Retry {
    let notices = &ended.pending.notices;
    let (exhausted, younger): (Vec<_>, Vec<_>) =
        notices.iter().partition(|notice| next.is_none() || is_given_up(ended, notice));
    let Some(at) = next.filter(|_| !younger.is_empty()) else {
        give_up(ended, work, "exhausted");
        return Retry::None;
    };
    if let Some(notification) = &mut work.notification {
        notification.next_attempt_at = Some(at);
    }
    work.notices.extend(younger.iter().map(|notice| NoticeChange::wait(&notice.key, at, None)));
    work.notices.extend(exhausted.iter().map(|notice| NoticeChange::fail(&notice.key, "exhausted")));
    if exhausted.is_empty() { Retry::All } else { Retry::Some }
}

/// True if a notice to people has been attempted for long enough. Each counts from its own first attempt,
/// whatever else the message tells.
fn is_given_up(ended: &EndedAttempt<'_>, notice: &PendingNotice) -> bool {
    ended.audience() != Audience::Programs
        && notice
            .first_attempt_at
            .is_some_and(|first| ended.now.saturating_duration_since(first) >= GIVE_UP_TIME)
}

/// Time of the next attempt; `None` if there is none.
fn next_attempt_at(ended: &EndedAttempt<'_>, retry_after: Option<Duration>) -> Option<Timestamp> {
    let made = usize::try_from(ended.number).unwrap_or(1).max(1);
    let audience = ended.audience();
    let listed = retry_waits(audience).get(made - 1).copied();
    let wait = match audience {
        Audience::Programs => listed?,
        Audience::People | Audience::Nobody => listed.unwrap_or(HOUR),
    };
    let varied = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * ended.random.clamp(0.0, 1.0));
    Some(ended.now.saturating_add(retry_after.unwrap_or_default().max(varied)))
}
