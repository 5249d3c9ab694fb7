//! The documented settings are those of the code.

use std::collections::BTreeSet;

use picket_proto::{
    ChannelKind,
    channel_setting::{ChannelSetting, SettingDefault},
};
use serde_json::json;

use super::{
    super::{
        ChannelSettings, Destination, HttpDestination,
        email::EmailSettings,
        exec::ExecSettings,
        tests::{all_settings, parse, render_all},
    },
    *,
};
use crate::samples;

/// Settings that the code of a kind knows of itself, from its refusal of an unknown one.
fn known_to_code(kind: ChannelKind) -> BTreeSet<String> {
    let unknown = json!({"zzzzzzzz": 1});
    let refusal = match kind {
        ChannelKind::Email => decode_object::<EmailSettings>(FIELD, &unknown).map(drop),
        ChannelKind::Exec => decode_object::<ExecSettings>(FIELD, &unknown).map(drop),
        kind => HttpDestination::parse(kind, &unknown).map(drop),
    };
    let refusal = refusal.unwrap_err().expected;
    let (_, names) = refusal.split_once("there are ").unwrap_or_else(|| panic!("{kind}: {refusal}"));
    names.split(", ").map(str::to_owned).collect()
}

/// Settings of the transport and templates, which kinds that speak HTTP share.
const SHARED_NAMES: [&str; 4] = ["title", "body", "timeout_ms", "ca_file"];

#[test]
fn the_documented_settings_of_each_kind_are_those_that_its_code_reads() {
    for kind in ChannelKind::ALL_KINDS {
        let is_shared = |setting: &&ChannelSetting| {
            !matches!(kind, ChannelKind::Email | ChannelKind::Exec) && SHARED_NAMES.contains(&setting.name)
        };
        let documented: BTreeSet<_> = kind
            .settings()
            .filter(|setting| !is_shared(setting))
            .map(|setting| setting.name.to_owned())
            .collect();
        assert_eq!(documented, known_to_code(*kind), "{kind}");
    }
}

#[test]
fn a_documented_requirement_is_one_of_the_code() {
    for (kind, settings) in all_settings() {
        for setting in kind.settings().filter(|setting| setting.default == SettingDefault::Required) {
            let mut without = settings.clone();
            without.as_object_mut().unwrap().remove(setting.name);
            let refusal = parse(kind, &without).unwrap_err();
            assert_eq!(refusal.field, field(setting.name), "{kind}: {refusal}");
            let by_code = HttpDestination::parse(kind, &without).unwrap_err();
            assert!(by_code.expected.contains("missing field"), "{kind} {}: {by_code}", setting.name);
        }
    }
}

#[test]
fn a_documented_default_is_that_of_the_code() {
    let http = |settings: ChannelSettings| match settings.destination {
        Destination::Http(http) => http,
        _ => panic!("no HTTP"),
    };
    for (kind, settings) in all_settings() {
        for setting in kind.settings() {
            let SettingDefault::Value(text) = setting.default else { continue };
            let mut explicit = settings.clone();
            explicit[setting.name] = setting.form.parse_text("", text);
            let (by_default, by_value) = (parse(kind, &settings).unwrap(), parse(kind, &explicit).unwrap());
            let (by_default, by_value) = (http(by_default), http(by_value));
            assert_eq!(by_default.transport, by_value.transport, "{kind} {}", setting.name);
            // An address of the service is filled in when a request is made.
            if setting.name == "api_url" {
                let requests = |settings: &Value| {
                    render_all(kind, settings, &samples::down())
                        .into_iter()
                        .map(|request| (request.url, request.body))
                        .collect::<Vec<_>>()
                };
                assert_eq!(requests(&settings), requests(&explicit), "{kind}");
            } else {
                let text = |http: &HttpDestination| format!("{:?}", http.receiver);
                assert_eq!(text(&by_default), text(&by_value), "{kind} {}", setting.name);
            }
        }
    }
}

#[test]
fn settings_that_people_get_wrong_are_refused_in_words_that_say_what_is_right() {
    let token = json!({"secret": "token"});
    let telegram = |chat: Value| json!({"token": token, "chat_id": chat});
    let webhook = |name: &str, value: Value| {
        let mut settings = json!({"url": "https://hooks.example.com/"});
        settings[name] = value;
        settings
    };
    let email = |name: &str, value: Value| {
        let mut settings =
            json!({"host": "mail.example.com", "from": "a@example.com", "to": ["b@example.com"]});
        settings[name] = value;
        settings
    };
    for (kind, settings, name, allowed) in [
        (ChannelKind::Webhook, json!({"url": "hooks.example.com"}), "url", "an http or https URL"),
        (
            ChannelKind::Webhook,
            json!({"url": "https://me:pw@hooks.example.com/"}),
            "url",
            "without user, password",
        ),
        (ChannelKind::Webhook, json!({"url": ""}), "url", "an http or https URL"),
        (
            ChannelKind::Webhook,
            webhook("secrets", json!([{"secret": "A B"}])),
            "secrets[0].secret",
            "lower-case",
        ),
        (
            ChannelKind::Webhook,
            webhook("headers", json!({"Host": "a"})),
            "headers.Host",
            "does not set itself",
        ),
        (ChannelKind::Webhook, webhook("headers", json!({"X Y": "a"})), "headers.X Y", "does not set itself"),
        (
            ChannelKind::Webhook,
            webhook("headers", json!({"X-Api-Key": "MARK"})),
            "headers.X-Api-Key",
            "of a secret",
        ),
        (ChannelKind::Webhook, webhook("body", json!("{{ title }")), "body", "syntax error"),
        (ChannelKind::Webhook, webhook("body", json!("{\"a\": {{ titel }}}")), "body", "lists all variables"),
        (ChannelKind::Webhook, webhook("ca_file", json!("ca.pem")), "ca_file", "an absolute path"),
        (ChannelKind::Slack, json!({}), "url", "either url (an incoming webhook), or token and channel"),
        (ChannelKind::Slack, json!({"token": token}), "url", "or token and channel"),
        (
            ChannelKind::Slack,
            json!({"url": token, "mention": "@ops"}),
            "mention",
            "channel, here, or in Slack",
        ),
        (
            ChannelKind::Discord,
            json!({"url": token, "mention": "@everyone"}),
            "mention",
            "everyone, here, role:ID",
        ),
        (ChannelKind::Telegram, telegram(json!("shop")), "chat_id", "such as -1001234567890, or @name"),
        (ChannelKind::Ntfy, json!({"topic": "two words"}), "topic", "letters, digits, '-' and '_'"),
        (
            ChannelKind::Ntfy,
            json!({"topic": "a", "user": "me"}),
            "token",
            "a token, or user and password, or neither",
        ),
        (
            ChannelKind::Matrix,
            json!({"api_url": "https://m.example", "room_id": "#a:m.example", "token": token}),
            "room_id",
            "internal id of a room",
        ),
        (
            ChannelKind::Twilio,
            json!({"account_sid": "7", "auth_token": token, "from": "+4912345", "to": "+4912345"}),
            "account_sid",
            "AC and 32 hexadecimal digits",
        ),
        (ChannelKind::Alertmanager, json!({"urls": []}), "urls", "1 to 8"),
        (
            ChannelKind::Alertmanager,
            json!({"urls": ["https://a.example"], "labels": {"site": "a"}}),
            "labels",
            "none of alertname",
        ),
        (ChannelKind::Email, email("host", json!("mail.example.com:25")), "host", "without a port"),
        (ChannelKind::Email, email("to", json!(["b"])), "to", "an e-mail address"),
        (ChannelKind::Email, email("to", json!([])), "to", "1 to 50 recipients"),
        (ChannelKind::Email, email("user", json!("me")), "user", "a user with a password"),
        (ChannelKind::Email, email("body", json!("{% if %}")), "body", "syntax error"),
        (ChannelKind::Exec, json!({"program": "notify"}), "program", "absolute path of a program"),
    ] {
        let refusal = parse(kind, &settings).expect_err(&settings.to_string());
        assert_eq!(refusal.field, field(name), "{kind} {settings}: {refusal}");
        assert!(refusal.expected.contains(allowed), "{kind} {settings}: {refusal}");
        assert!(!refusal.to_string().contains("MARK"), "{refusal}");
    }
}
