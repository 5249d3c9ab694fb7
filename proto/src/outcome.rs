//! Outcome of a check, and the cause of an outcome other than `up`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ValidationError;

macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL_VALUES: &[Self] = &[$(Self::$variant),*];

            /// The word on the wire and in SQL.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ValidationError;

            fn from_str(word: &str) -> Result<Self, ValidationError> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(ValidationError::new($field, word, [$($word),*].join(", "))),
                }
            }
        }
    };
}

string_enum! {
    /// Judgement of a check about its site; `missed` makes no statement about the site.
    Outcome, "outcome" {
        /// The site responded in time, and as defined.
        Up = "up",
        /// The site did not respond in time, or not as defined.
        Down = "down",
        /// The check was not performed, for a reason that says nothing about the site.
        Missed = "missed",
    }
}

string_enum! {
    /// Origin of a check.
    CheckKind, "kind" {
        /// A tick of a schedule.
        Scheduled = "scheduled",
        /// Requested when a site began to fail; belongs to no tick.
        Confirm = "confirm",
        /// Requested by a person or a program.
        Adhoc = "adhoc",
    }
}

string_enum! {
    /// Reason for an outcome other than `up`.
    Cause, "cause" {
        /// The name did not resolve.
        Dns = "dns",
        /// No connection could be established.
        Connect = "connect",
        /// The TLS handshake failed, or the certificate is not trusted.
        Tls = "tls",
        /// The timeout of the check expired.
        Timeout = "timeout",
        /// The response is not HTTP, or ended early.
        Http = "http",
        /// A redirect cannot or must not be followed, or there are too many.
        Redirect = "redirect",
        /// The status is not allowed.
        Status = "status",
        /// The body does not match `regex`, or matches `not_regex`.
        Body = "body",
        /// The body was truncated at the limit before the regex was decided.
        BodyTooLarge = "body_too_large",
        /// The job had expired before a prober could check it.
        Expired = "expired",
        /// The address policy of the prober refuses the destination.
        Blocked = "blocked",
        /// The prober could not run the check in time.
        Overloaded = "overloaded",
        /// The prober had no network.
        ProberOffline = "prober_offline",
        /// No prober pulled the job.
        NoProber = "no_prober",
        /// No coordinator published the job.
        NotScheduled = "not_scheduled",
        /// The result arrived after the ledger had closed.
        ResultLate = "result_late",
        /// The request is invalid.
        Invalid = "invalid",
    }
}

impl Cause {
    /// The outcome that this cause explains.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::Timeout
            | Self::Http
            | Self::Redirect
            | Self::Status
            | Self::Body
            | Self::BodyTooLarge => Outcome::Down,
            Self::Expired
            | Self::Blocked
            | Self::Overloaded
            | Self::ProberOffline
            | Self::NoProber
            | Self::NotScheduled
            | Self::ResultLate
            | Self::Invalid => Outcome::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_as_its_variant() {
        for cause in Cause::ALL_VALUES {
            assert_eq!(cause.as_str().parse::<Cause>().unwrap(), *cause);
            assert_eq!(serde_json::to_string(cause).unwrap(), format!("\"{cause}\""));
            assert_ne!(cause.outcome(), Outcome::Up);
        }
        assert!("fine".parse::<Outcome>().unwrap_err().to_string().contains("up, down, missed"));
    }
}
