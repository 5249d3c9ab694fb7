//! The end of an attempt to deliver a message.

use std::time::Duration;

use picket_proto::validation::sanitize_text;
use picket_runtime::secrets::redact;
use serde_json::Value;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// What follows from it.
    pub outcome: AttemptOutcome,
    /// HTTP status, SMTP reply code or exit code.
    pub status: Option<u16>,
    /// The receiver's answer or the failure in words: redacted, at most 500 bytes, one line.
    pub message: String,
}

impl Attempt {
    const MAX_MESSAGE_BYTES: usize = 500;

    /// The end of an attempt, with `text` redacted and shortened.
    pub fn new(outcome: AttemptOutcome, status: Option<u16>, text: &str) -> Self {
        // A part of a secret is not found any more, so the text is shortened last.
        Self { outcome, status, message: sanitize_text(&redact(text), Self::MAX_MESSAGE_BYTES) }
    }

    /// The same end with a sentence before its message, such as that a template failed.
    pub fn with_note(self, note: Option<&str>) -> Self {
        match note {
            Some(note) => Self::new(self.outcome, self.status, &format!("{note}; {}", self.message)),
            None => self,
        }
    }

    /// True if the receiver has the message.
    pub fn is_delivered(&self) -> bool {
        matches!(self.outcome, AttemptOutcome::Delivered { .. })
    }
}

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// The receiver has accepted the message.
    Delivered {
        /// What later messages about the same need, such as the number of the message there.
        receiver_ref: Option<Value>,
    },
    /// Another attempt may succeed.
    Retry {
        /// Time that the receiver demands before the next attempt; at most an hour.
        retry_after: Option<Duration>,
        /// True if the channel counts as failing at once: the receiver does not know this channel
        /// (401, 403, 404).
        is_channel_failing: bool,
        /// What the next attempt needs as [`Message::receiver_ref`](crate::message::Message), such as
        /// the recipients that have the message; replaces what an earlier attempt left.
        receiver_ref: Option<Value>,
    },
    /// This message will never be accepted, for a reason in itself.
    Refused,
    /// The receiver does not exist any more and wants no message again (410).
    Gone,
    /// The receiver has moved; another attempt with these settings may succeed at once.
    Moved {
        /// Settings that replace those of the channel, by name.
        settings: Value,
    },
}

impl AttemptOutcome {
    /// Another attempt may succeed, and needs nothing of this one.
    pub fn retry(retry_after: Option<Duration>, is_channel_failing: bool) -> Self {
        Self::Retry { retry_after, is_channel_failing, receiver_ref: None }
    }
}
