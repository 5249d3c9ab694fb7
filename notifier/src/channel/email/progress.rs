//! Who has the message already: kept between the attempts at a notification.

use std::collections::{BTreeMap, BTreeSet};

use lettre::Address;
use picket_runtime::secrets::redact;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;

/// What came of a message for one recipient.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RecipientEnd {
    /// The server has accepted it.
    Delivered { code: u16, text: String },
    /// The server will never accept it.
    Refused { code: u16, text: String },
    /// Another attempt may succeed.
    Deferred { code: Option<u16>, text: String },
    /// The whole message was sent, and no answer came.
    Unknown { text: String },
    /// The server accepts nothing from this sender.
    SenderRefused(Failure),
}

impl RecipientEnd {
    /// Failure of all recipients, if this is one.
    pub(super) fn concerns_all(&self) -> Option<Failure> {
        match self {
            Self::SenderRefused(failure) => Some(failure.clone()),
            _ => None,
        }
    }
}

/// Recipients by what came of the message for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    pub(super) delivered: Vec<String>,
    /// Refused recipients with the server's answer.
    refused: BTreeMap<String, String>,
    /// Recipients whose transaction failed before: they come last, because each may cost the time
    /// of a transaction.
    deferred: BTreeSet<String>,
    /// Recipients who may have the message.
    unknown: BTreeSet<String>,
    /// Answers of this attempt that are not final.
    #[serde(skip)]
    deferrals: Vec<(String, String)>,
    /// Code of the latest refusal or deferral of this attempt.
    #[serde(skip)]
    last_code: Option<u16>,
}

/// The state of all recipients in numbers and words.
pub(super) struct Summary {
    pub(super) delivered: usize,
    pub(super) waiting: usize,
    pub(super) text: String,
    pub(super) code: Option<u16>,
}

impl Progress {
    const MAX_REASON_CHARS: usize = 120;

    /// What the latest attempt left. A value of another form counts as nothing.
    pub(super) fn read(receiver_ref: Option<&Value>) -> Self {
        receiver_ref.and_then(|value| Self::deserialize(value).ok()).unwrap_or_default()
    }

    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Recipients that still need the message; those that failed before come last.
    pub(super) fn order_waiting(&self, recipients: &[Address]) -> Vec<Address> {
        let mut waiting: Vec<_> =
            recipients.iter().filter(|address| self.is_waiting(address)).cloned().collect();
        waiting.sort_by_key(|address| self.deferred.contains(address.as_ref() as &str));
        waiting
    }

    pub(super) fn is_end_unknown(&self, recipient: &Address) -> bool {
        self.unknown.contains(recipient.as_ref() as &str)
    }

    fn is_waiting(&self, recipient: &Address) -> bool {
        let address: &str = recipient.as_ref();
        !self.delivered.iter().any(|other| other == address) && !self.refused.contains_key(address)
    }

    pub(super) fn record(&mut self, recipient: &str, end: &RecipientEnd) {
        let address = recipient.to_owned();
        match end {
            RecipientEnd::Delivered { .. } => {
                self.deferred.remove(recipient);
                self.unknown.remove(recipient);
                self.delivered.push(address);
            }
            RecipientEnd::Refused { code, text } => {
                self.last_code = Some(*code);
                self.refused.insert(address, shorten(&format!("{code} {text}"), Self::MAX_REASON_CHARS));
            }
            RecipientEnd::Deferred { code, text } => {
                self.last_code = code.or(self.last_code);
                self.deferred.insert(address.clone());
                let reason = code.map_or(text.clone(), |code| format!("{code} {text}"));
                self.deferrals.push((address, shorten(&reason, Self::MAX_REASON_CHARS)));
            }
            RecipientEnd::Unknown { text } => {
                self.deferred.insert(address.clone());
                self.unknown.insert(address.clone());
                self.deferrals.push((address, shorten(text, Self::MAX_REASON_CHARS)));
            }
            RecipientEnd::SenderRefused(_) => {}
        }
    }

    pub(super) fn summarize(&self, recipients: &[Address]) -> Summary {
        let waiting = recipients.iter().filter(|address| self.is_waiting(address)).count();
        let has_it =
            |address: &&Address| self.delivered.iter().any(|other| other == AsRef::<str>::as_ref(*address));
        let delivered = recipients.iter().filter(has_it).count();
        let mut text = format!("delivered to {delivered} of {}", recipients.len());
        for (address, reason) in self.refused.iter().chain(self.deferrals.iter().map(|(a, b)| (a, b))) {
            text.push_str(&format!("; {address}: {reason}"));
        }
        Summary { delivered, waiting, text, code: self.last_code }
    }
}

/// A part of a secret would not be found any more, so the whole is redacted.
fn shorten(text: &str, max_chars: usize) -> String {
    redact(text).chars().take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn addresses() -> Vec<Address> {
        ["a@example.com", "b@example.com", "c@example.com"].map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn recipients_that_failed_before_come_last_and_served_ones_are_left_out() {
        let mut progress = Progress::default();
        progress.record("a@example.com", &RecipientEnd::Deferred { code: Some(451), text: "later".into() });
        progress.record("b@example.com", &RecipientEnd::Delivered { code: 250, text: "ok".into() });
        let next = Progress::read(Some(&progress.to_value()));

        assert_eq!(
            next.order_waiting(&addresses()),
            ["c@example.com", "a@example.com"].map(|t| t.parse().unwrap())
        );
        assert_eq!(next.delivered, ["b@example.com"]);
    }

    #[test]
    fn an_unknown_end_is_kept_until_the_recipient_has_the_message() {
        let mut progress = Progress::default();
        progress.record("a@example.com", &RecipientEnd::Unknown { text: "timeout".into() });
        let mut next = Progress::read(Some(&progress.to_value()));
        assert!(next.is_end_unknown(&addresses()[0]));
        assert!(!next.is_end_unknown(&addresses()[1]));
        next.record("a@example.com", &RecipientEnd::Delivered { code: 250, text: "ok".into() });
        assert!(!next.is_end_unknown(&addresses()[0]));
    }

    #[test]
    fn a_state_of_another_kind_of_channel_counts_as_nothing() {
        for odd in [json!(null), json!(17), json!({"message_id": 17}), json!({"delivered": "a@example.com"})]
        {
            assert_eq!(Progress::read(Some(&odd)), Progress::default(), "{odd}");
        }
    }
}
