//! What a notifier decides by: a channel, the notices in a lane of it, and the messages attempted.

use std::collections::BTreeMap;

use picket_proto::{ChannelKind, Timestamp};
use serde_json::Value;
use sqlx::types::{Json, Uuid};

use crate::DbTimestamp;

/// A lane that this notifier has leased.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Lane {
    /// Name of the channel.
    pub channel: String,
    /// Number of the lane.
    pub lane: i16,
    /// Fences this notifier's writes.
    pub epoch: i64,
    /// True if the last attempt of the channel failed.
    pub is_failing: bool,
}

/// Everything needed to decide what a channel is told next.
#[derive(Clone, Debug)]
pub struct LaneContents {
    /// The database's clock.
    pub now: Timestamp,
    /// The channel.
    pub channel: LaneChannel,
    /// A page of the notices that wait, the oldest transition first.
    pub notices: Vec<LaneNotice>,
    /// Number of people's notices to tell beyond the page.
    pub more_notices: i64,
    /// Messages whose attempts have not succeeded yet, by number.
    pub messages: BTreeMap<Uuid, WaitingMessage>,
    /// Number of open incidents that the channel has been told of, by group.
    pub open_told: BTreeMap<String, i64>,
    /// Incidents told by the digests of the storm in progress that are not over.
    pub storm_open: StormOutages,
    /// Times without notifiers to tell the channel of, the newest first.
    pub gaps: Vec<Gap>,
}

/// A time without notifiers in which an event of the channel was recorded.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Gap {
    /// Start.
    #[sqlx(rename = "gap_from")]
    pub from: DbTimestamp,
    /// End.
    #[sqlx(rename = "gap_to")]
    pub to: DbTimestamp,
    /// Incidents opened and closed meanwhile.
    pub ended: i64,
    /// Incidents open now.
    pub down: i64,
}

/// Incidents of a storm that last: their number, and the sites of the oldest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StormOutages {
    /// Number.
    pub count: i64,
    /// Names of the first sites.
    pub names: Vec<String>,
}

/// Definition and state of a channel.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LaneChannel {
    /// Name.
    pub name: String,
    /// Kind; of a later build, one that this build does not know.
    pub kind: String,
    /// Settings with the receiver's changes.
    pub settings: Json<Value>,
    /// False while paused.
    pub enabled: bool,
    /// Least time between two messages, in milliseconds; `None` for the kind's own.
    pub pace_ms: Option<i32>,
    /// Time of creation.
    pub created_at: DbTimestamp,
    /// Time before which nothing is sent.
    pub next_send_at: DbTimestamp,
    /// Why the channel cannot be used.
    pub problem: Option<String>,
    /// True if the receiver wants no message again.
    pub is_gone: bool,
    /// First failure since the last delivery.
    pub failing_since: Option<DbTimestamp>,
    /// True if the channel counts as failing.
    pub is_failing: bool,
    /// Time of the last delivery.
    pub last_delivered_at: Option<DbTimestamp>,
    /// Storm in progress.
    pub storm: Option<Json<Value>>,
}

impl LaneChannel {
    /// The kind; `None` if this build does not know it.
    pub fn known_kind(&self) -> Option<ChannelKind> {
        self.kind.parse().ok()
    }
}

/// Key of a notice within its channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoticeKey {
    /// Number of the transition.
    pub transition_id: i64,
    /// Step.
    pub step: NoticeStep,
    /// Number of the reminder or of the step of escalation.
    pub number: i16,
}

/// Why a channel is told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeStep {
    /// The transition itself.
    Event,
    /// What began still lasts.
    Reminder,
    /// Nobody has acknowledged.
    Escalation,
    /// A site that was flapping has become steady.
    Calm,
    /// An acknowledgement, for services with acknowledgements of their own.
    Acknowledgement,
}

impl NoticeStep {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Reminder => "reminder",
            Self::Escalation => "escalation",
            Self::Calm => "calm",
            Self::Acknowledgement => "acknowledgement",
        }
    }
}

impl From<String> for NoticeStep {
    fn from(word: String) -> Self {
        match word.as_str() {
            "reminder" => Self::Reminder,
            "escalation" => Self::Escalation,
            "calm" => Self::Calm,
            "acknowledgement" => Self::Acknowledgement,
            // The enum type of the database contains no other word.
            _ => Self::Event,
        }
    }
}

/// A notice that waits, with what decides on it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LaneNotice {
    /// Number of the transition.
    pub transition_id: i64,
    /// Why the channel is told.
    #[sqlx(try_from = "String")]
    pub step: NoticeStep,
    /// Number of the reminder or of the step of escalation.
    pub number: i16,
    /// Name of the route at planning.
    pub route: Option<String>,
    /// Id of the route, which may be removed.
    pub route_id: Option<i64>,
    /// Notices with the same key share a message; `None`: a single message for each event.
    pub group_key: Option<String>,
    /// Earliest time to look at it.
    pub due_at: DbTimestamp,
    /// What it waits for, if not for its time.
    pub reason: Option<String>,
    /// The message with which it was attempted.
    pub notification_id: Option<Uuid>,
    /// Time of the first attempt.
    pub first_attempt_at: Option<DbTimestamp>,
    /// Name of the event.
    pub event: String,
    /// What the event is about.
    pub subject: String,
    /// True for an end.
    pub is_end: bool,
    /// Number of the incident.
    pub incident_id: Option<i64>,
    /// Number of the site.
    pub site_id: Option<i64>,
    /// The event as published; for people only the fields of counts and titles.
    pub payload: Json<Value>,
    /// Time when the transition was recorded.
    pub recorded_at: DbTimestamp,
    /// Of a beginning: time when its end was recorded. Of an end: that of its beginning.
    pub other_recorded_at: Option<DbTimestamp>,
    /// Of an end: state of the notice of its beginning; `None` if there is none.
    pub begun_state: Option<String>,
    /// Of an end: reason in that notice.
    pub begun_reason: Option<String>,
    /// Of an end: the message with which its beginning was attempted.
    pub begun_notification: Option<Uuid>,
    /// Of a beginning: state of the notice of its end; `None` if there is none.
    pub end_state: Option<String>,
    /// True if somebody takes care of the incident.
    pub is_acknowledged: bool,
    /// End of the site's silence.
    pub silenced_until: Option<DbTimestamp>,
    /// Start of the next active hours of the route, or now; `None` if there are none in the week.
    pub active_from: Option<DbTimestamp>,
    /// Wait of the route, in milliseconds.
    pub wait_ms: Option<i32>,
    /// Delay of the route, in milliseconds.
    pub delay_ms: i32,
    /// First reminder of the route, in milliseconds; 0 for none.
    pub remind_ms: i32,
    /// More beginnings than this at once are a storm.
    pub storm_after: i32,
    /// Incidents of the site that opened in the hour before this transition, including it; for a site
    /// that has become steady also those since.
    pub recent_openings: i64,
    /// First opening of these.
    pub flap_since: Option<DbTimestamp>,
    /// Time for which the site was down in these, in milliseconds.
    pub flap_down_ms: i64,
    /// For a site that has become steady: its last opening or closing as published.
    pub last_change: Option<Json<Value>>,
    /// True if the channel has been told that the site is flapping.
    pub is_flapping: bool,
    /// Of a site that was flapping: last opening or closing of an incident.
    pub site_changed_at: Option<DbTimestamp>,
    /// True if an incident of the site is open.
    pub is_site_down: bool,
    /// Of a message about a single event: due time of an earlier event about the same subject that waits.
    pub blocked_until: Option<DbTimestamp>,
}

impl LaneNotice {
    /// Key within the channel.
    pub fn key(&self) -> NoticeKey {
        NoticeKey { transition_id: self.transition_id, step: self.step, number: self.number }
    }
}

/// A message whose attempts have not succeeded yet.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct WaitingMessage {
    /// Number.
    pub notification_id: Uuid,
    /// What it is for; `test` for one that a person asked for.
    pub purpose: String,
    /// Attempts so far.
    pub attempts: i32,
    /// True if it is unknown whether the last attempt succeeded.
    pub is_end_unknown: bool,
    /// What the receiver gave.
    pub receiver_ref: Option<Json<Value>>,
    /// What the last attempt told, hashed.
    pub contents: Option<String>,
}
