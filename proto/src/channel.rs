//! Kinds of notification channels, and who reads what arrives there.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ValidationError, suggestion::describe_known_names};

macro_rules! channel_kinds {
    ($(#[doc = $doc:literal] $variant:ident = $name:literal, $audience:ident;)*) => {
        /// What a channel speaks: the protocol of a service, or a program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ChannelKind { $(#[doc = $doc] #[serde(rename = $name)] $variant,)* }

        impl ChannelKind {
            /// All kinds, in the order of the documentation.
            pub const ALL_KINDS: &[Self] = &[$(Self::$variant,)*];

            /// The kind's name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind in words.
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }.trim()
            }

            /// Readers of the messages.
            pub fn audience(self) -> Audience {
                match self { $(Self::$variant => Audience::$audience,)* }
            }
        }
    };
}

channel_kinds! {
    /// A POST with a signed event (Standard Webhooks).
    Webhook = "webhook", Programs;
    /// E-mail over SMTP.
    Email = "email", People;
    /// An incoming webhook of Slack, Mattermost or Rocket.Chat.
    Slack = "slack", People;
    /// A webhook of Discord.
    Discord = "discord", People;
    /// A workflow of Microsoft Teams.
    Teams = "teams", People;
    /// A bot of Telegram.
    Telegram = "telegram", People;
    /// Events API v2 of PagerDuty.
    Pagerduty = "pagerduty", Programs;
    /// API v2 of Prometheus Alertmanager.
    Alertmanager = "alertmanager", Programs;
    /// An ntfy server.
    Ntfy = "ntfy", People;
    /// A program on the notifier's machine.
    Exec = "exec", People;
    /// Alerts API of Opsgenie and Jira Service Management.
    Opsgenie = "opsgenie", Programs;
    /// Pushover.
    Pushover = "pushover", People;
    /// A room of Matrix.
    Matrix = "matrix", People;
    /// A webhook of Google Chat.
    Googlechat = "googlechat", People;
    /// A Gotify server.
    Gotify = "gotify", People;
    /// Text messages by Twilio.
    Twilio = "twilio", People;
    /// A URL that is requested only while the whole chain works.
    Watchdog = "watchdog", Nobody;
}

/// Who reads what arrives at a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// People: told of the present state, several sites in one message.
    People,
    /// Programs: told of each event once, in order.
    Programs,
    /// Nobody is told of incidents there.
    Nobody,
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ChannelKind {
    type Err = ValidationError;

    fn from_str(name: &str) -> Result<Self, ValidationError> {
        let known = Self::ALL_KINDS.iter().copied();
        known.clone().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = known.map(Self::as_str).collect();
            let allowed = describe_known_names(name, &names).replace("field", "kind of channel");
            ValidationError::new("kind", name, allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_and_an_unknown_one_is_refused_with_the_nearest() {
        for kind in ChannelKind::ALL_KINDS {
            assert_eq!(kind.as_str().parse::<ChannelKind>().unwrap(), *kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let refusal = "slak".parse::<ChannelKind>().unwrap_err();
        assert_eq!(refusal.field, "kind");
        assert!(refusal.expected.contains("slack"), "{refusal}");
    }
}
