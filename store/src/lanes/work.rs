//! What a notifier writes after a decision or an attempt, as `picket.write_lane_work` reads it.

use picket_proto::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::types::Uuid;

use super::{LaneNotice, NoticeKey, NoticeStep};

/// Changes of a lane, written in a single transaction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LaneWork {
    /// Changes of notices that wait.
    pub notices: Vec<NoticeChange>,
    /// Later notices about the same transitions.
    pub added: Vec<AddedNotice>,
    /// The message attempted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<NotificationChange>,
    /// Begins an attempt of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptStart>,
    /// Ends an attempt of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_end: Option<AttemptEnd>,
    /// Change of the channel's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelChange>,
}

impl LaneWork {
    /// Returns true if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.notices.is_empty()
            && self.added.is_empty()
            && self.notification.is_none()
            && self.attempt_end.is_none()
            && self.channel.is_none()
    }
}

/// State of a notice or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    /// Still to be told.
    Waiting,
    /// Told.
    Delivered,
    /// Not told, for a reason that somebody chose or that lies in the matter.
    Suppressed,
    /// Not told, because the channel did not take it.
    Failed,
    /// Of a message: another one told it, or there was nothing left to say.
    Superseded,
}

/// Change of a notice that waits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NoticeChange {
    #[serde(flatten)]
    key: SerializedKey,
    /// New state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<NoticeState>,
    /// New reason; `Some(None)` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Option<&'static str>>,
    /// New time to look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// The message that tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_id: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct SerializedKey {
    transition_id: i64,
    #[serde(serialize_with = "serialize_step")]
    step: NoticeStep,
    number: i16,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn serialize_step<S: Serializer>(step: &NoticeStep, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(step.as_str())
}

impl NoticeChange {
    fn new(key: &NoticeKey) -> Self {
        let NoticeKey { transition_id, step, number } = *key;
        let key = SerializedKey { transition_id, step, number };
        Self { key, state: None, reason: None, due_at: None, notification_id: None }
    }

    /// The notice ends untold, for `reason`.
    pub fn suppress(key: &NoticeKey, reason: &'static str) -> Self {
        Self { state: Some(NoticeState::Suppressed), reason: Some(Some(reason)), ..Self::new(key) }
    }

    /// The notice is looked at again at `due_at`; `reason` says what it waits for, if not for its time.
    pub fn wait(key: &NoticeKey, due_at: Timestamp, reason: Option<&'static str>) -> Self {
        Self { reason: Some(reason), due_at: Some(due_at), ..Self::new(key) }
    }

    /// The notice is attempted by a message.
    pub fn attempt(key: &NoticeKey, notification_id: Uuid) -> Self {
        Self { reason: Some(None), notification_id: Some(notification_id), ..Self::new(key) }
    }

    /// The notice has been told by a message.
    pub fn deliver(key: &NoticeKey, notification_id: Uuid) -> Self {
        Self {
            state: Some(NoticeState::Delivered),
            reason: Some(None),
            notification_id: Some(notification_id),
            ..Self::new(key)
        }
    }

    /// The channel does not take the notice, for `reason`.
    pub fn fail(key: &NoticeKey, reason: &'static str) -> Self {
        Self { state: Some(NoticeState::Failed), reason: Some(Some(reason)), ..Self::new(key) }
    }
}

/// A later notice about the same transition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddedNotice {
    #[serde(flatten)]
    key: SerializedKey,
    route: Option<String>,
    route_id: Option<i64>,
    group_key: Option<String>,
    due_at: Timestamp,
}

impl AddedNotice {
    /// A notice of the same transition, route and group as `notice`.
    pub fn after(notice: &LaneNotice, step: NoticeStep, number: i16, due_at: Timestamp) -> Self {
        Self {
            key: SerializedKey { transition_id: notice.transition_id, step, number },
            route: notice.route.clone(),
            route_id: notice.route_id,
            group_key: notice.group_key.clone(),
            due_at,
        }
    }
}

/// A message, or its change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NotificationChange {
    /// Number.
    pub id: Uuid,
    /// What it is for.
    pub purpose: &'static str,
    /// Group of its notices.
    pub group_key: Option<String>,
    /// First line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What an attempt tells, hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
    /// True if an earlier message with some of its contents may have arrived.
    pub may_have_arrived: bool,
    /// New state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<NoticeState>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// What the receiver gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiver_ref: Option<Value>,
}

impl NotificationChange {
    /// A message of which nothing changes.
    pub fn new(id: Uuid, purpose: &'static str, group_key: Option<String>) -> Self {
        Self {
            id,
            purpose,
            group_key,
            title: None,
            contents: None,
            may_have_arrived: false,
            state: None,
            reason: None,
            next_attempt_at: None,
            receiver_ref: None,
        }
    }
}

/// Start of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptStart {
    /// Number of the attempt of this message, from 1.
    pub number: i32,
    /// Name of the notifier.
    pub notifier: String,
}

/// End of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptEnd {
    /// Number of the attempt.
    pub number: i32,
    /// Outcome in a word.
    pub outcome: &'static str,
    /// HTTP status, SMTP reply code or exit code.
    pub status: Option<u16>,
    /// The answer or the failure in words, at most 500 bytes.
    pub message: String,
    /// Time that the receiver demands before the next attempt.
    pub retry_after_ms: Option<u64>,
}

/// Change of a channel's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChannelChange {
    /// Time before which nothing is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_send_at: Option<Timestamp>,
    /// Whether an attempt succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<bool>,
    /// The failure in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the channel counts as failing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_failing: Option<bool>,
    /// Why the channel cannot be used; `Some(None)` if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Option<String>>,
    /// Whether the receiver wants no message again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_gone: Option<bool>,
    /// Settings that the receiver has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Value>,
    /// The storm; `Some(Null)` when it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Value>,
}
