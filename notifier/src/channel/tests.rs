//! Requests of all kinds for the same messages, and what all kinds have in common.

use std::{os::unix::fs::PermissionsExt, sync::LazyLock};

use picket_runtime::Secrets;
use serde_json::json;

use super::*;
use crate::{message::Message, samples};

pub(crate) const WEBHOOK_NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const WEBHOOK_OLD: &str = "whsec_b2xkLXNlY3JldC1vZi10aGUtd2ViaG9vay0h";
/// The seed of 32 bytes 7.
const WEBHOOK_KEY: &str = "whsk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Secrets of the tests, for all hosts that the kinds have by default and for example.com.
pub(crate) static SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
    let values = [
        ("slack", "https://hooks.slack.com/services/T00000000/B00000000/slack-url-value-xxxx"),
        ("discord", "https://discord.com/api/webhooks/1/discord-url-value-xxxxxxxx"),
        ("teams", "https://teams.example.com/workflows/teams-url-value-xxxxxxxxx?sig=teams-signature-value"),
        (
            "googlechat",
            "https://chat.googleapis.com/v1/spaces/A/messages?key=chat-key-value-xxxxx&token=chat-token-value-xxx",
        ),
        ("token", "token-value-0123456789"),
        ("user", "user-value-0123456789"),
        ("topic", "secret-topic-value"),
        ("short", "whsec_c2hvcnQtc2VjcmV0"),
        ("webhook-new", WEBHOOK_NEW),
        ("webhook-old", WEBHOOK_OLD),
        ("webhook-key", WEBHOOK_KEY),
    ];
    let hosts = "hosts = [\"*.slack.com\", \"slack.com\", \"discord.com\", \"*.example.com\", \"chat.googleapis.com\", \
        \"api.telegram.org\", \"events.pagerduty.com\", \"ntfy.sh\", \"api.opsgenie.com\", \"api.pushover.net\", \
        \"api.twilio.com\"]";
    let entries = values.map(|(name, value)| format!("[secret.{name}]\nvalue = \"{value}\"\n{hosts}\n"));
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("secrets.toml");
    std::fs::write(&path, entries.concat()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Secrets::load(&path).unwrap()
});

/// A request in a form for tests.
pub(crate) struct Rendered {
    pub(crate) url: String,
    pub(crate) body: Vec<u8>,
    request: HttpRequest,
}

impl Rendered {
    /// The first request of `message`.
    pub(crate) fn of(kind: ChannelKind, settings: &Value, message: &Message) -> Self {
        render_all(kind, settings, message).swap_remove(0)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.request.headers[name].to_str().unwrap()
    }

    /// The request as text. Times and signatures of the attempt are left out.
    fn describe(&self) -> String {
        let mut text = format!("{} {}\n", self.request.method, self.url);
        for (name, value) in &self.request.headers {
            let is_of_attempt = matches!(name.as_str(), "webhook-timestamp" | "webhook-signature");
            let value = if is_of_attempt { "(of the attempt)" } else { value.to_str().unwrap() };
            text.push_str(&format!("{name}: {value}\n"));
        }
        let body = match serde_json::from_slice::<Value>(&self.body) {
            Ok(json) => serde_json::to_string_pretty(&json).unwrap(),
            Err(_) => String::from_utf8(self.body.clone()).unwrap(),
        };
        format!("{text}\n{body}\n")
    }
}

pub(crate) fn parse(kind: ChannelKind, settings: &Value) -> Result<ChannelSettings, ValidationError> {
    ChannelSettings::parse(kind, settings)
}

pub(crate) fn try_render(
    kind: ChannelKind,
    settings: &Value,
    message: &Message,
) -> Result<Vec<Rendered>, Unsendable> {
    let requests = parse(kind, settings).unwrap().http().receiver.render(message, &Keys::new(&SECRETS))?;
    let render =
        |request: HttpRequest| Rendered { url: request.url.to_string(), body: request.body.clone(), request };
    Ok(requests.into_iter().map(render).collect())
}

pub(crate) fn render_all(kind: ChannelKind, settings: &Value, message: &Message) -> Vec<Rendered> {
    try_render(kind, settings, message).unwrap()
}

/// Messages about a site with a name that a receiver could obey.
pub(crate) fn hostile_messages() -> Vec<Message> {
    samples::HOSTILE_NAMES.iter().map(|name| samples::named(name)).collect()
}

/// Messages that exceed every limit unless they are shortened.
pub(crate) fn long_messages() -> Vec<Message> {
    let long = samples::named(&samples::long_name());
    let mut digest = samples::digest();
    digest.items = vec![long.items[0].clone(); 300];
    for (number, item) in digest.items.iter_mut().enumerate() {
        item.name = format!("{number} {}", item.name);
    }
    let mut noted = samples::down();
    noted.notes = vec![samples::long_name(); 5];
    vec![long, digest, noted]
}

/// Settings of each kind that speaks HTTP.
pub(crate) fn all_settings() -> Vec<(ChannelKind, Value)> {
    let sid = "AC0123456789abcdef0123456789abcdef";
    let token = json!({ "secret": "token" });
    vec![
        (
            ChannelKind::Webhook,
            json!({ "url": "https://hooks.example.com/picket", "secrets": [{ "secret": "webhook-new" }] }),
        ),
        (ChannelKind::Slack, json!({ "url": { "secret": "slack" } })),
        (ChannelKind::Discord, json!({ "url": { "secret": "discord" } })),
        (ChannelKind::Teams, json!({ "url": { "secret": "teams" } })),
        (ChannelKind::Telegram, json!({ "token": token, "chat_id": "-100123" })),
        (ChannelKind::Pagerduty, json!({ "routing_key": token })),
        (ChannelKind::Alertmanager, json!({ "urls": ["https://am.example.com"] })),
        (ChannelKind::Ntfy, json!({ "topic": "ops", "token": token })),
        (ChannelKind::Opsgenie, json!({ "api_key": token })),
        (ChannelKind::Pushover, json!({ "token": token, "user": { "secret": "user" } })),
        (
            ChannelKind::Matrix,
            json!({ "api_url": "https://matrix.example.com", "room_id": "!a:example.com", "token": token }),
        ),
        (ChannelKind::Googlechat, json!({ "url": { "secret": "googlechat" } })),
        (ChannelKind::Gotify, json!({ "api_url": "https://gotify.example.com", "token": token })),
        (
            ChannelKind::Twilio,
            json!({ "account_sid": sid, "auth_token": token, "from": "+491234567", "to": "+497654321" }),
        ),
        (ChannelKind::Watchdog, json!({ "url": "https://hc.example.com/ping" })),
    ]
}

#[test]
fn each_kind_renders_each_purpose_as_recorded() {
    let messages = [
        ("down", samples::down()),
        ("up", samples::up()),
        ("reminder", samples::reminder()),
        ("digest", samples::digest()),
        ("test", samples::test()),
    ];
    for (kind, settings) in all_settings() {
        let mut text = String::new();
        for (name, message) in &messages {
            text.push_str(&format!("=== {name}\n"));
            match try_render(kind, &settings, message) {
                Ok(requests) => requests.iter().for_each(|request| text.push_str(&request.describe())),
                Err(why) => text.push_str(&format!("{}\n", why.into_attempt().message)),
            }
        }
        insta::assert_snapshot!(format!("{kind}"), text);
    }
}

#[test]
fn no_kind_fails_on_hostile_or_long_messages_and_none_shows_control_characters() {
    for (kind, settings) in all_settings() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let Ok(requests) = try_render(kind, &settings, &message) else {
                assert_eq!(kind, ChannelKind::Watchdog);
                continue;
            };
            for request in requests {
                let text = String::from_utf8(request.body).unwrap();
                assert!(!text.contains('\u{202e}') && !text.contains("\\r\\nBcc"), "{kind}: {text}");
                // Templates of a receiver do not see more than a text.
                assert!(text.len() < 40_000, "{kind}: {}", text.len());
            }
        }
    }
}

#[test]
fn settings_of_another_kind_and_unknown_ones_are_refused_without_their_values() {
    for (kind, settings) in all_settings() {
        parse(kind, &settings).unwrap();
        let mut with_more = settings.clone();
        with_more["colour"] = json!("MARKED-VALUE");
        let refusal = parse(kind, &with_more).unwrap_err();
        assert_eq!(refusal.field, "settings.colour", "{kind}");
        assert!(!refusal.to_string().contains("MARKED"), "{refusal}");
        for name in settings.as_object().unwrap().keys() {
            let mut changed = settings.clone();
            changed[name] = json!({ "secret": "MARKED VALUE" });
            let refusal = parse(kind, &changed).unwrap_err();
            assert!(refusal.field.starts_with(&format!("settings.{name}")), "{kind} {name}: {refusal}");
            assert!(!refusal.to_string().contains("MARKED"), "{kind} {name}: {refusal}");
        }
    }
    let nothing = parse(ChannelKind::Email, &json!({})).unwrap_err();
    assert!(nothing.to_string().contains("host"), "{nothing}");
}

#[test]
fn a_missing_secret_is_retried_and_the_channel_fails() {
    let settings = json!({ "url": { "secret": "absent" } });

    let attempt = try_render(ChannelKind::Slack, &settings, &samples::down()).err().unwrap().into_attempt();

    let retry = crate::attempt::AttemptOutcome::retry(None, true);
    assert_eq!(attempt.outcome, retry);
    assert_eq!(attempt.message, "secret 'absent' is not in the secrets file");
}
