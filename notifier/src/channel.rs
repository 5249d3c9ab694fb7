//! Channels: their settings, and what each makes of a message.
//!
//! A receiver renders requests and reads answers, without any I/O; [`Sender`](crate::sender::Sender)
//! sends them.

mod alertmanager;
mod discord;
pub mod email;
pub mod exec;
mod googlechat;
mod gotify;
mod matrix;
mod ntfy;
mod opsgenie;
mod pagerduty;
mod pushover;
mod receiver;
mod settings;
mod slack;
mod teams;
mod telegram;
mod templates;
mod twilio;
mod watchdog;
mod webhook;

use std::{sync::Arc, time::Duration};

use picket_proto::{
    ChannelKind, ValidationError, channel_setting::check_channel_settings, nested_object::decode_object,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::receiver::{HttpRequest, Keys, Receiver, Unsendable};
use self::{email::EmailSettings, exec::ExecSettings, templates::Templates};
pub(crate) use self::{settings::TransportSettings, watchdog::WatchdogSettings};

/// Settings of a channel, checked.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    kind: ChannelKind,
    pub(crate) destination: Destination,
}

/// Where messages go.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// A receiver that speaks HTTP.
    Http(HttpDestination),
    /// Mailboxes.
    Email(Arc<EmailSettings>),
    /// A program.
    Exec(Arc<ExecSettings>),
}

/// A receiver that speaks HTTP.
#[derive(Clone, Debug)]
pub(crate) struct HttpDestination {
    pub(crate) transport: TransportSettings,
    pub(crate) templates: Templates,
    pub(crate) receiver: Arc<dyn Receiver>,
}

impl ChannelSettings {
    /// Decodes and checks the settings of a channel of this kind.
    ///
    /// # Errors
    /// Names the setting that is wrong. No value is repeated that may be a secret.
    pub fn parse(kind: ChannelKind, value: &Value) -> Result<Self, ValidationError> {
        if let Some(settings) = value.as_object() {
            check_channel_settings(kind, settings)?;
        }
        let destination = match kind {
            ChannelKind::Email => {
                let settings: EmailSettings = decode_object(settings::FIELD, value)?;
                settings.check().map_err(name_settings)?;
                Destination::Email(Arc::new(settings))
            }
            ChannelKind::Exec => {
                let settings: ExecSettings = decode_object(settings::FIELD, value)?;
                settings.check().map_err(name_settings)?;
                Destination::Exec(Arc::new(settings))
            }
            kind => Destination::Http(HttpDestination::parse(kind, value)?),
        };
        Ok(Self { kind, destination })
    }

    /// What the channel speaks.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    #[cfg(test)]
    fn http(&self) -> &HttpDestination {
        match &self.destination {
            Destination::Http(http) => http,
            _ => panic!("{} does not speak HTTP", self.kind),
        }
    }
}

/// The refusal with the place of the setting, as those of the other kinds have it.
fn name_settings(why: ValidationError) -> ValidationError {
    match why.field.starts_with(settings::FIELD) {
        true => why,
        false => ValidationError { field: settings::field(&why.field), ..why },
    }
}

impl HttpDestination {
    fn parse(kind: ChannelKind, value: &Value) -> Result<Self, ValidationError> {
        let (transport, rest) = TransportSettings::split(value)?;
        let (templates, own) = Templates::split(kind, &rest)?;
        let receiver: Arc<dyn Receiver> = match kind {
            ChannelKind::Webhook => decode::<webhook::WebhookSettings>(own)?,
            ChannelKind::Slack => decode::<slack::SlackSettings>(own)?,
            ChannelKind::Discord => decode::<discord::DiscordSettings>(own)?,
            ChannelKind::Teams => decode::<teams::TeamsSettings>(own)?,
            ChannelKind::Telegram => decode::<telegram::TelegramSettings>(own)?,
            ChannelKind::Pagerduty => decode::<pagerduty::PagerdutySettings>(own)?,
            ChannelKind::Alertmanager => decode::<alertmanager::AlertmanagerSettings>(own)?,
            ChannelKind::Ntfy => decode::<ntfy::NtfySettings>(own)?,
            ChannelKind::Opsgenie => decode::<opsgenie::OpsgenieSettings>(own)?,
            ChannelKind::Pushover => decode::<pushover::PushoverSettings>(own)?,
            ChannelKind::Matrix => decode::<matrix::MatrixSettings>(own)?,
            ChannelKind::Googlechat => decode::<googlechat::GooglechatSettings>(own)?,
            ChannelKind::Gotify => decode::<gotify::GotifySettings>(own)?,
            ChannelKind::Twilio => decode::<twilio::TwilioSettings>(own)?,
            ChannelKind::Watchdog => decode::<WatchdogSettings>(own)?,
            ChannelKind::Email | ChannelKind::Exec => {
                return Err(ValidationError::new("kind", kind, "a kind whose receiver speaks HTTP"));
            }
        };
        Ok(Self { transport, templates, receiver })
    }
}

/// Decodes the settings of a kind, checks them, and forgets the kind's type.
fn decode<T: Receiver + DeserializeOwned + 'static>(
    own: Value,
) -> Result<Arc<dyn Receiver>, ValidationError> {
    let settings: T = decode_object(settings::FIELD, &own)?;
    settings.check()?;
    Ok(Arc::new(settings))
}

/// Time between two messages of a channel of this kind, unless the channel says otherwise: what
/// the service tolerates for long.
pub fn default_pace(kind: ChannelKind) -> Duration {
    Duration::from_millis(match kind {
        ChannelKind::Webhook
        | ChannelKind::Alertmanager
        | ChannelKind::Pagerduty
        | ChannelKind::Opsgenie
        | ChannelKind::Exec
        | ChannelKind::Watchdog => 0,
        ChannelKind::Gotify => 200,
        ChannelKind::Slack
        | ChannelKind::Teams
        | ChannelKind::Email
        | ChannelKind::Ntfy
        | ChannelKind::Pushover
        | ChannelKind::Matrix
        | ChannelKind::Googlechat
        | ChannelKind::Twilio => 1_000,
        // 30 messages a minute.
        ChannelKind::Discord => 2_000,
        // 20 messages a minute in a group.
        ChannelKind::Telegram => 3_000,
    })
}

#[cfg(test)]
mod tests;
