//! Failures that concern all recipients.

use std::error::Error as _;

use lettre::transport::smtp::Error as SmtpError;

/// A failure that concerns all recipients.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) code: Option<u16>,
    pub(super) text: String,
    /// True if the settings, the server or the operator must change before mail can be delivered.
    pub(super) is_channel_failing: bool,
}

impl Failure {
    pub(super) fn of_channel(text: &str) -> Self {
        Self { code: None, text: text.to_owned(), is_channel_failing: true }
    }

    pub(super) fn of_network(text: &str) -> Self {
        Self { code: None, text: text.to_owned(), is_channel_failing: false }
    }

    pub(super) fn timeout(text: &str) -> Self {
        Self::of_network(text)
    }

    pub(super) fn of_smtp(error: &SmtpError, during: &str) -> Self {
        let code = error.status().map(u16::from);
        Self {
            code,
            text: format!("{during}: {}", describe_error(error)),
            is_channel_failing: code.is_some_and(|code| (500..600).contains(&code)),
        }
    }
}

/// Code and text of a refusal, or the failure in words.
fn describe_error(error: &SmtpError) -> String {
    let cause = error.source().map(ToString::to_string);
    match (error.status(), cause) {
        (Some(code), Some(text)) => format!("{code} {text}"),
        (Some(code), None) => code.to_string(),
        (None, Some(text)) => text,
        (None, None) => error.to_string(),
    }
}
