//! URLs of services as credentials: knowledge of the URL is the right to post.

use serde_json::Value;
use url::Url;

use crate::{ChannelKind, ValidationError, nested_object::HIDDEN_VALUE};

/// The kind of channel for the service of `url`, if the URL itself is a credential.
pub fn find_service_of_url(url: &Url) -> Option<ChannelKind> {
    let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
    let is_below = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
    let path = url.path();
    let services = [
        (is_below("hooks.slack.com") || is_below("hooks.slack-gov.com"), ChannelKind::Slack),
        (
            (is_below("discord.com") || is_below("discordapp.com")) && path.contains("/webhooks/"),
            ChannelKind::Discord,
        ),
        (
            is_below("webhook.office.com") || is_below("logic.azure.com") || is_below("powerplatform.com"),
            ChannelKind::Teams,
        ),
        (is_below("api.telegram.org") && path.starts_with("/bot"), ChannelKind::Telegram),
        (is_below("chat.googleapis.com"), ChannelKind::Googlechat),
    ];
    services.into_iter().find_map(|(is_match, kind)| is_match.then_some(kind))
}

/// Refuses a value with a credential of a service in any part.
pub(super) fn refuse_service_urls(field: &str, value: &Value) -> Result<(), ValidationError> {
    match value {
        Value::String(text) => {
            let url = Url::parse(text.trim()).ok();
            match url.as_ref().and_then(|url| Some((find_service_of_url(url)?, url.host_str()?))) {
                Some((kind, host)) => {
                    Err(ValidationError::new(field, HIDDEN_VALUE, describe_storage(kind, host)))
                }
                None => Ok(()),
            }
        }
        Value::Array(values) => values.iter().try_for_each(|value| refuse_service_urls(field, value)),
        Value::Object(fields) => fields.values().try_for_each(|value| refuse_service_urls(field, value)),
        _ => Ok(()),
    }
}

/// How to keep a URL of the service for `kind`: the entry of the secrets file, and the command.
fn describe_storage(kind: ChannelKind, host: &str) -> String {
    let (value, options) = match kind {
        ChannelKind::Telegram => (
            "the token of the bot (the part of the path between /bot and the next slash)",
            format!("--set token=secret:{kind} --set chat_id=NUMBER"),
        ),
        _ => ("the URL", format!("--url secret:{kind}")),
    };
    format!(
        "the name of a secret, because a URL of {kind} is a credential. Keep {value} in the secrets file of the \
         notifiers (.picket/secrets.toml of picket up): [secret.{kind}], value = '…', hosts = ['{host}']; then give its \
         name: picket channel add NAME --kind {kind} {options}"
    )
}
