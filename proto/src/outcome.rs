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
        /// The response is valid in its protocol, and is not the one that was asserted.
        UnexpectedResponse = "unexpected_response",
        /// A header of the response is not as asserted.
        Header = "header",
        /// The certificate is trusted, and is not as asserted.
        Certificate = "certificate",
        /// The response took longer than the hard limit.
        Slow = "slow",
        /// A heartbeat did not arrive in time.
        Overdue = "overdue",
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
        /// The prober cannot perform such a check: its version, its platform or its rights.
        Unsupported = "unsupported",
        /// The prober has no such secret, or may not send it to this host.
        SecretUnavailable = "secret_unavailable",
        /// A service other than the site, which the check asks about it, did not respond.
        SourceUnavailable = "source_unavailable",
        /// A cause that is unknown to this version; the message begins with its word.
        Other = "other",
    }
}

string_enum! {
    /// Property of an `up` result that needs attention. The outcome stays `up`.
    Warning, "warning" {
        /// The response took longer than `warn_after_ms`.
        Slow = "slow",
        /// A certificate ends soon.
        Certificate = "certificate",
        /// The registration of the domain ends soon.
        Domain = "domain",
        /// Packets were lost.
        Loss = "loss",
    }
}

impl Cause {
    /// The outcome that this cause explains; `None` for [`Other`](Self::Other), which may explain
    /// `down` or `missed`.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::Timeout
            | Self::Http
            | Self::Redirect
            | Self::Status
            | Self::Body
            | Self::BodyTooLarge
            | Self::UnexpectedResponse
            | Self::Header
            | Self::Certificate
            | Self::Slow
            | Self::Overdue => Some(Outcome::Down),
            Self::Expired
            | Self::Blocked
            | Self::Overloaded
            | Self::ProberOffline
            | Self::NoProber
            | Self::NotScheduled
            | Self::ResultLate
            | Self::Invalid
            | Self::Unsupported
            | Self::SecretUnavailable
            | Self::SourceUnavailable => Some(Outcome::Missed),
            Self::Other => None,
        }
    }

    /// Returns true if a result with `outcome` may have this cause.
    pub fn explains_outcome(self, outcome: Outcome) -> bool {
        outcome != Outcome::Up && self.outcome().is_none_or(|own| own == outcome)
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
            assert_ne!(cause.outcome(), Some(Outcome::Up));
            assert!(!cause.explains_outcome(Outcome::Up));
        }
        assert!(
            Cause::Other.explains_outcome(Outcome::Down) && Cause::Other.explains_outcome(Outcome::Missed)
        );
        assert!(
            Cause::Slow.explains_outcome(Outcome::Down) && !Cause::Slow.explains_outcome(Outcome::Missed)
        );
        assert!("fine".parse::<Outcome>().unwrap_err().to_string().contains("up, down, missed"));
    }
}
