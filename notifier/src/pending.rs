//! A message to attempt, with the keys of its notices. Owns all it has: the notices themselves take much
//! memory in a storm, and are dropped before the attempt.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::Timestamp;
use picket_store::lanes::{AddedNotice, LaneContents, NoticeKey, NoticeStep};
use uuid::Uuid;

use crate::{
    decide::{CALM_TIME, PlannedItem, PlannedMessage, Storm},
    message::{Purpose, Verdict},
};

/// Longest time between two reminders.
const MAX_REMINDER_TIME: Duration = Duration::from_secs(24 * 3_600);

/// A message to attempt.
#[derive(Debug)]
pub(crate) struct PendingMessage {
    /// Number, from an earlier attempt or new.
    pub(crate) id: Uuid,
    /// Purpose.
    pub(crate) purpose: Purpose,
    /// Group of the notices.
    pub(crate) group_key: Option<String>,
    /// True for a message about a single event to programs.
    pub(crate) is_single: bool,
    /// What it tells, hashed.
    pub(crate) contents: Option<String>,
    /// True if the receiver may have some of it.
    pub(crate) may_have_arrived: bool,
    /// State of the storm once the message is delivered.
    pub(crate) storm: Option<Option<Storm>>,
    /// Attempts so far.
    pub(crate) attempts: i32,
    /// Notices told.
    pub(crate) notices: Vec<PendingNotice>,
    /// Notices to add after a delivery.
    pub(crate) later: Vec<AddedNotice>,
    /// Time when the newest event was recorded.
    pub(crate) newest_at: Option<Timestamp>,
}

/// A notice told by a message.
#[derive(Debug)]
pub(crate) struct PendingNotice {
    pub(crate) key: NoticeKey,
    /// Time of the first attempt, by whichever message.
    pub(crate) first_attempt_at: Option<Timestamp>,
}

impl PendingMessage {
    /// The message of a decision on `contents`.
    pub(crate) fn of_plan(plan: &PlannedMessage<'_>, contents: &LaneContents) -> Self {
        let first_attempts: BTreeMap<NoticeKey, Timestamp> = contents
            .notices
            .iter()
            .filter_map(|notice| Some((notice.key(), notice.first_attempt_at?.into())))
            .collect();
        let of_key = |key: &NoticeKey| PendingNotice {
            key: key.clone(),
            first_attempt_at: first_attempts.get(key).copied(),
        };
        Self {
            id: plan.id,
            purpose: plan.purpose,
            group_key: plan.group_key.clone(),
            is_single: plan.is_single,
            contents: Some(plan.contents.clone()),
            may_have_arrived: plan.may_have_arrived,
            storm: plan.storm.clone(),
            attempts: plan.attempts,
            notices: plan.told.iter().flat_map(|told| &told.keys).map(of_key).collect(),
            later: plan.told.iter().filter_map(|told| plan_later(told, contents.now)).collect(),
            newest_at: plan.told.iter().map(|told| told.notice.recorded_at.into()).max(),
        }
    }

    /// A test, asked for by a person.
    pub(crate) fn of_test(id: Uuid, attempts: i32) -> Self {
        Self {
            id,
            purpose: Purpose::Test,
            group_key: None,
            is_single: false,
            contents: None,
            may_have_arrived: false,
            storm: None,
            attempts,
            notices: Vec::new(),
            later: Vec::new(),
            newest_at: None,
        }
    }
}

/// The reminder of a lasting outage, or the next look at a flapping site. `None` for programs: their
/// services have reminders.
fn plan_later(told: &PlannedItem<'_>, now: Timestamp) -> Option<AddedNotice> {
    let notice = told.notice;
    notice.group_key.as_ref()?;
    if told.verdict == Verdict::Flapping {
        return Some(AddedNotice::after(notice, NoticeStep::Calm, 0, now.saturating_add(CALM_TIME)));
    }
    let number = match notice.step {
        NoticeStep::Event if !notice.is_end => 1,
        NoticeStep::Reminder => notice.number.saturating_add(1),
        _ => return None,
    };
    let first = Duration::from_millis(u64::try_from(notice.remind_ms).unwrap_or(0));
    let is_lasting = matches!(told.verdict, Verdict::Down | Verdict::Silent | Verdict::Failing);
    (is_lasting && !first.is_zero()).then(|| {
        let doublings = u32::try_from(number - 1).unwrap_or(0).min(16);
        let wait = first.saturating_mul(1 << doublings).min(MAX_REMINDER_TIME);
        AddedNotice::after(notice, NoticeStep::Reminder, number, now.saturating_add(wait))
    })
}
