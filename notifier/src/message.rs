//! What a notification says, before a channel gives it a form.
//!
//! A message is composed at the moment of each attempt from what is true then. Texts of websites
//! (names, causes) are untrusted: a channel escapes them.

use std::time::Duration;

use picket_proto::{Cause, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

/// A notification to one channel about a single group of sites, regions or channels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// Number of the notification: the same at each attempt.
    pub id: Uuid,
    /// What the message is for.
    pub purpose: Purpose,
    /// The verdict of the most important item.
    pub severity: Severity,
    /// A single line without markup, such as `DOWN shop.example.com: connection refused (3 of 4 regions)`.
    pub title: String,
    /// Sentences above the items, such as that notifications were off for a time.
    pub notes: Vec<String>,
    /// What is told, the most important first; of a digest the first few.
    pub items: Vec<Item>,
    /// Number of items that the message is about but does not show.
    pub hidden_items: usize,
    /// All items of a digest as CSV (RFC 4180) with a header line, for channels with attachments.
    pub csv: Option<String>,
    /// Frequencies over all items of a digest.
    pub counts: Counts,
    /// Time when the message was composed.
    pub composed_at: Timestamp,
    /// Page of Picket's web UI about this, if its address is known.
    pub link: Option<String>,
    /// True if the end of an earlier attempt is unknown, so that the receiver may have the message
    /// already.
    pub is_repeat: bool,
    /// First notification to this channel about the same incident, for threads.
    pub thread: Option<Uuid>,
    /// What an earlier notification of the thread left at the receiver, such as a message number.
    #[serde(skip)]
    pub thread_ref: Option<Value>,
    /// What an earlier attempt at this notification left, such as the recipients that have it.
    #[serde(skip)]
    pub receiver_ref: Option<Value>,
    /// Text of a template in place of the items: without markup, or JSON for a webhook.
    #[serde(skip)]
    pub body: Option<String>,
    /// The event as programs receive it; `None` in messages for people about several events.
    pub event: Option<ProgramEvent>,
}

impl Message {
    /// A message with a title and nothing else.
    pub(crate) fn new(
        id: Uuid,
        purpose: Purpose,
        severity: Severity,
        title: String,
        composed_at: Timestamp,
    ) -> Self {
        Self {
            id,
            purpose,
            severity,
            title,
            notes: Vec::new(),
            items: Vec::new(),
            hidden_items: 0,
            csv: None,
            counts: Counts::default(),
            composed_at,
            link: None,
            is_repeat: false,
            thread: None,
            thread_ref: None,
            receiver_ref: None,
            body: None,
            event: None,
        }
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Tells of openings and closings.
    Alert,
    /// Tells that something is still so.
    Reminder,
    /// Tells other channels because nobody acknowledged.
    Escalation,
    /// Tells of many sites at once.
    Digest,
    /// Passes an acknowledgement on to a service with acknowledgements of its own.
    Acknowledgement,
    /// A person tries the channel out. Mentions are left out.
    Test,
}

impl Purpose {
    /// The word in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Reminder => "reminder",
            Self::Escalation => "escalation",
            Self::Digest => "digest",
            Self::Acknowledgement => "acknowledgement",
            Self::Test => "test",
        }
    }
}

/// How bad the most important item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is well again.
    Resolved,
    /// Neither good nor bad.
    Info,
    /// A warning is open.
    Warning,
    /// Something is down.
    Critical,
}

/// An event for programs, one a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProgramEvent {
    /// Name of the event, such as `incident.opened`.
    pub name: String,
    /// Time of the event.
    pub at: Timestamp,
    /// Stable key of what the event is about, the same in opening and closing, unique among
    /// installations.
    pub dedup_key: String,
    /// True if the event ends what an earlier one began.
    pub is_end: bool,
    /// The event's payload as in `docs/reference/subjects-and-events.md`, with `link` and `failed_checks`.
    pub data: Value,
}

/// Frequencies over all items of a digest, most frequent first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Items by cause in words.
    pub causes: Vec<(String, usize)>,
    /// Items by region.
    pub regions: Vec<(String, usize)>,
    /// Items by tag.
    pub tags: Vec<(String, usize)>,
}

/// What a message says of one site, region or channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// What is the case.
    pub verdict: Verdict,
    /// Name of the site, of the region or of the channel.
    pub name: String,
    /// URL of the site.
    pub url: Option<String>,
    /// Tags of the site.
    pub tags: Vec<String>,
    /// Number of the incident.
    pub incident_id: Option<i64>,
    /// Cause in words, such as `connection refused`.
    pub cause: Option<String>,
    /// Cause as a word of the contract.
    pub cause_code: Option<Cause>,
    /// The prober's explanation.
    pub explanation: Option<String>,
    /// Regions that were down or warned.
    pub regions: Vec<String>,
    /// Number of regions that reported.
    pub regions_reporting: Option<u32>,
    /// Time of the first failing check.
    pub first_failure_at: Option<Timestamp>,
    /// Time when it opened.
    pub opened_at: Timestamp,
    /// Time when it closed.
    pub closed_at: Option<Timestamp>,
    /// From opening to closing, or to the composition.
    #[serde(rename = "duration_ms", serialize_with = "serialize_as_millis")]
    pub duration: Duration,
    /// Number of failed checks so far.
    pub failed_checks: Option<u64>,
    /// HTTP status of the deciding check.
    pub http_status: Option<u16>,
    /// Phases of the deciding check by name, in microseconds, in order.
    pub phases: Vec<(&'static str, u64)>,
    /// Page of the incident or site in the web UI.
    pub link: Option<String>,
    /// Sentence such as `silenced until now`.
    pub note: Option<String>,
    /// Text of the item's line in place of the cause or the duration.
    #[serde(skip)]
    pub headline: Option<String>,
    /// Words after the duration in the item's line; if empty, the duration alone.
    #[serde(skip)]
    pub lasting: Option<&'static str>,
}

impl Item {
    /// An item with a name and nothing else.
    pub(crate) fn new(verdict: Verdict, name: String, opened_at: Timestamp) -> Self {
        Self {
            verdict,
            name,
            url: None,
            tags: Vec::new(),
            incident_id: None,
            cause: None,
            cause_code: None,
            explanation: None,
            regions: Vec::new(),
            regions_reporting: None,
            first_failure_at: None,
            opened_at,
            closed_at: None,
            duration: Duration::ZERO,
            failed_checks: None,
            http_status: None,
            phases: Vec::new(),
            link: None,
            note: None,
            headline: None,
            lasting: None,
        }
    }
}

fn serialize_as_millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What is the case with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A site is down.
    Down,
    /// A site goes down and up often; no single changes are told.
    Flapping,
    /// A warning is open.
    Warns,
    /// A region has no active prober.
    Silent,
    /// A channel does not deliver.
    Failing,
    /// Checks of the ledger are unaccounted for.
    Unaccounted,
    /// A site is up again.
    Up,
    /// A site was down and is up again, and the channel was not told in between.
    WasDown,
    /// A site that was down is no longer checked.
    Unwatched,
    /// A warning is over.
    WarningOver,
    /// A region has active probers again.
    Back,
    /// A channel delivers again.
    Working,
    /// A test message.
    Test,
}

impl Verdict {
    /// The word at the start of a line.
    pub fn as_word(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::Flapping => "FLAPPING",
            Self::Warns => "WARNING",
            Self::Silent => "REGION SILENT",
            Self::Failing => "CHANNEL FAILING",
            Self::Unaccounted => "LEDGER",
            Self::Up => "UP",
            Self::WasDown => "WAS DOWN",
            Self::Unwatched => "NO LONGER WATCHED",
            Self::WarningOver => "WARNING OVER",
            Self::Back => "REGION BACK",
            Self::Working => "CHANNEL WORKING",
            Self::Test => "TEST",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::Down | Self::Flapping | Self::Silent | Self::Failing | Self::Unaccounted => {
                Severity::Critical
            }
            Self::Warns => Severity::Warning,
            Self::Up | Self::WasDown | Self::WarningOver | Self::Back | Self::Working => Severity::Resolved,
            Self::Unwatched | Self::Test => Severity::Info,
        }
    }
}
