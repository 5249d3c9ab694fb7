//! What follows from the end of an attempt: pure rules.

use std::time::Duration;

use picket_proto::{Audience, ChannelKind, Timestamp};
use picket_store::lanes::{
    AddedNotice, AttemptEnd, ChannelChange, LaneChannel, LaneWork, NoticeChange, NoticeState, NoticeStep,
    NotificationChange,
};

use crate::{
    attempt::{Attempt, AttemptOutcome},
    decide::{CALM_TIME, PlannedMessage},
    message::Verdict,
};

#[cfg(test)]
mod tests;

const HOUR: Duration = Duration::from_secs(3_600);
/// Waits between the attempts of a message to people; then hourly until [`GIVE_UP_TIME`].
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
/// Age of a message to people at which it is given up.
const GIVE_UP_TIME: Duration = Duration::from_secs(24 * 3_600);
/// Time of failures after which a channel counts as failing.
const FAILING_TIME: Duration = Duration::from_secs(15 * 60);
/// Attempts after which a receiver that has moved is tried at once.
const MAX_MOVES: i32 = 3;
/// Longest time between two reminders.
const MAX_REMINDER_TIME: Duration = Duration::from_secs(24 * 3_600);
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
    pub(crate) outgoing: &'a PlannedMessage<'a>,
    /// The word for its purpose.
    pub(crate) purpose: &'static str,
    /// The channel.
    pub(crate) channel: &'a LaneChannel,
    /// The channel's kind.
    pub(crate) kind: ChannelKind,
    /// Number of the attempt, from 1.
    pub(crate) number: i32,
    /// Time of the first attempt.
    pub(crate) first_at: Timestamp,
    /// The end.
    pub(crate) attempt: &'a Attempt,
    /// Least time between two messages of the kind.
    pub(crate) pace: Duration,
    /// The database's clock.
    pub(crate) now: Timestamp,
    /// A random number from 0 to 1.
    pub(crate) random: f64,
}

/// What is written after an attempt.
pub(crate) fn follow_attempt(ended: &EndedAttempt<'_>) -> LaneWork {
    let mut work = LaneWork {
        notification: Some(NotificationChange {
            id: ended.outgoing.id,
            purpose: ended.purpose,
            group_key: ended.outgoing.group_key.clone(),
            title: None,
            state: None,
            reason: None,
            next_attempt_at: None,
            receiver_ref: None,
        }),
        attempt_end: Some(describe_end(ended)),
        ..LaneWork::default()
    };
    let mut channel = ChannelChange::default();
    match &ended.attempt.outcome {
        AttemptOutcome::Delivered { .. } => {
            follow_delivery(ended, &mut work);
            channel.succeeded = Some(true);
            channel.is_failing = ended.channel.is_failing.then_some(false);
            channel.next_send_at = (!ended.pace.is_zero()).then(|| ended.now.saturating_add(ended.pace));
            channel.storm =
                ended.outgoing.storm.as_ref().map(|storm| serde_json::to_value(storm).unwrap_or_default());
        }
        AttemptOutcome::Refused => {
            give_up(ended, &mut work, "refused");
            channel.error = Some(ended.attempt.message.clone());
        }
        AttemptOutcome::Gone => {
            give_up(ended, &mut work, "gone");
            channel.error = Some(ended.attempt.message.clone());
            channel.problem = Some("the receiver is gone (410) and wants no message again".to_owned());
            channel.is_failing = Some(true);
        }
        AttemptOutcome::Moved { settings } => {
            channel.overrides = Some(settings.clone());
            // A receiver that moves again and again is tried like one that fails.
            let again = if ended.number < MAX_MOVES { Some(ended.now) } else { next_attempt_at(ended, None) };
            match again {
                Some(at) => postpone(ended, &mut work, at),
                None => give_up(ended, &mut work, "exhausted"),
            }
        }
        AttemptOutcome::Retry { retry_after, is_channel_failing, receiver_ref } => {
            if let Some(notification) = &mut work.notification {
                notification.receiver_ref.clone_from(receiver_ref);
            }
            channel.succeeded = Some(false);
            channel.error = Some(ended.attempt.message.clone());
            let failing_for =
                ended.channel.failing_since.map(|since| ended.now.saturating_duration_since(since.into()));
            let is_failing = *is_channel_failing || failing_for.is_some_and(|time| time >= FAILING_TIME);
            match next_attempt_at(ended, *retry_after) {
                Some(at) => {
                    postpone(ended, &mut work, at);
                    // People's messages keep their order. Programs are told of other subjects meanwhile,
                    // unless the receiver asks for silence.
                    let holds_channel = ended.kind.audience() != Audience::Programs || retry_after.is_some();
                    channel.next_send_at = holds_channel.then_some(at);
                    channel.is_failing = is_failing.then_some(true);
                }
                None => {
                    give_up(ended, &mut work, "exhausted");
                    channel.is_failing = Some(true);
                }
            }
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
    let outgoing = ended.outgoing;
    if let Some(notification) = &mut work.notification {
        notification.state = Some(NoticeState::Delivered);
        if let AttemptOutcome::Delivered { receiver_ref } = &ended.attempt.outcome {
            notification.receiver_ref.clone_from(receiver_ref);
        }
    }
    for told in &outgoing.told {
        work.notices.extend(told.keys.iter().map(|key| NoticeChange::deliver(key, outgoing.id)));
        // Services for programs have reminders of their own.
        if told.notice.group_key.is_none() {
            continue;
        }
        if told.verdict == Verdict::Flapping {
            work.added.push(AddedNotice::after(
                told.notice,
                NoticeStep::Calm,
                0,
                ended.now.saturating_add(CALM_TIME),
            ));
        }
        let first = Duration::from_millis(u64::try_from(told.notice.remind_ms).unwrap_or(0));
        let number = match told.notice.step {
            NoticeStep::Event if !told.notice.is_end => 1,
            NoticeStep::Reminder => told.notice.number.saturating_add(1),
            _ => continue,
        };
        let is_lasting = matches!(told.verdict, Verdict::Down | Verdict::Silent | Verdict::Failing);
        if is_lasting && !first.is_zero() {
            let doublings = u32::try_from(number - 1).unwrap_or(0).min(16);
            let wait = first.saturating_mul(1 << doublings).min(MAX_REMINDER_TIME);
            work.added.push(AddedNotice::after(
                told.notice,
                NoticeStep::Reminder,
                number,
                ended.now.saturating_add(wait),
            ));
        }
    }
}

fn give_up(ended: &EndedAttempt<'_>, work: &mut LaneWork, reason: &'static str) {
    if let Some(notification) = &mut work.notification {
        notification.state = Some(NoticeState::Failed);
        notification.reason = Some(reason);
    }
    let keys = ended.outgoing.told.iter().flat_map(|told| &told.keys);
    work.notices.extend(keys.map(|key| NoticeChange::fail(key, reason)));
}

fn postpone(ended: &EndedAttempt<'_>, work: &mut LaneWork, at: Timestamp) {
    if let Some(notification) = &mut work.notification {
        notification.next_attempt_at = Some(at);
    }
    let keys = ended.outgoing.told.iter().flat_map(|told| &told.keys);
    work.notices.extend(keys.map(|key| NoticeChange::wait(key, at, None)));
}

/// Time of the next attempt; `None` if there is none.
fn next_attempt_at(ended: &EndedAttempt<'_>, retry_after: Option<Duration>) -> Option<Timestamp> {
    let made = usize::try_from(ended.number).unwrap_or(1).max(1);
    let listed = retry_waits(ended.kind.audience()).get(made - 1).copied();
    let wait = match ended.kind.audience() {
        Audience::Programs => listed?,
        Audience::People | Audience::Nobody => {
            let age = ended.now.saturating_duration_since(ended.first_at);
            if age >= GIVE_UP_TIME {
                return None;
            }
            listed.unwrap_or(HOUR)
        }
    };
    let varied = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * ended.random.clamp(0.0, 1.0));
    Some(ended.now.saturating_add(retry_after.unwrap_or_default().max(varied)))
}
