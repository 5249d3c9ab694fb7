//! How a check ended, and why it did not end well.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ValidationError;

macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

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
    /// What a check says of its site; `missed` says nothing of it.
    Outcome, "outcome" {
        /// The site answered in time and as it should.
        Up = "up",
        /// The site did not.
        Down = "down",
        /// The check was not done, through trouble of ours.
        Missed = "missed",
    }
}

string_enum! {
    /// Why a check is there.
    Kind, "kind" {
        /// A tick of a schedule.
        Scheduled = "scheduled",
        /// Asked for when a site began to fail; no tick.
        Confirm = "confirm",
        /// Asked for by a person or a program.
        Adhoc = "adhoc",
    }
}

string_enum! {
    /// Why an outcome is not `up`.
    Cause, "cause" {
        /// The name did not resolve.
        Dns = "dns",
        /// No connection could be made.
        Connect = "connect",
        /// The TLS handshake failed, or the certificate is not to be trusted.
        Tls = "tls",
        /// The time allowed was over.
        Timeout = "timeout",
        /// What came back is not HTTP, or broke off.
        Http = "http",
        /// A redirect that cannot or may not be followed, or too many of them.
        Redirect = "redirect",
        /// The status is not one of those allowed.
        Status = "status",
        /// A regex did not say what it should.
        Body = "body",
        /// The body was cut at the limit before the regex could be decided.
        BodyTooLarge = "body_too_large",
        /// The job was too old when a prober got it.
        Expired = "expired",
        /// The destination is an address that this prober may not connect to.
        Blocked = "blocked",
        /// The prober could not run the check in time.
        Overloaded = "overloaded",
        /// The prober itself had no network.
        ProberOffline = "prober_offline",
        /// No prober took the job.
        NoProber = "no_prober",
        /// No coordinator published the job.
        NotScheduled = "not_scheduled",
        /// A result came, but after the ledger had closed.
        ResultLate = "result_late",
        /// The request could not be used.
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
    fn every_word_reads_back_as_what_wrote_it() {
        for cause in Cause::ALL {
            assert_eq!(cause.as_str().parse::<Cause>().unwrap(), *cause);
            assert_eq!(serde_json::to_string(cause).unwrap(), format!("\"{cause}\""));
            assert_ne!(cause.outcome(), Outcome::Up);
        }
        assert!("fine".parse::<Outcome>().unwrap_err().to_string().contains("up, down, missed"));
    }
}
