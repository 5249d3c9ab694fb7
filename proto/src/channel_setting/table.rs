//! The table of all settings.

use super::{
    ChannelSetting, MAX_TIMEOUT_MS,
    SettingDefault::{self, Absent, Described, Required, Value},
    SettingForm::{
        self, Number, NumberOrText, PlainUrl, PlainUrls, Secret, SecretMap, Secrets, Template, Text, TextMap,
        TextOrSecret, Texts, Url, Word,
    },
};
use crate::{Audience, ChannelKind};

/// Maximum time of an attempt, in the type of a number.
const MAX_TIMEOUT: i64 = MAX_TIMEOUT_MS.cast_signed();

const fn setting(
    name: &'static str,
    form: SettingForm,
    default: SettingDefault,
    meaning: &'static str,
) -> ChannelSetting {
    ChannelSetting { name, form, default, meaning }
}

const TIMEOUT: ChannelSetting = setting(
    "timeout_ms",
    Number(100, MAX_TIMEOUT),
    Value("15000"),
    "maximum time of an attempt in milliseconds",
);
const CA_FILE: ChannelSetting = setting(
    "ca_file",
    Text,
    Absent,
    "absolute path of a file of the notifier's machine with the certificates (PEM) of the only authorities to trust",
);
const TITLE: ChannelSetting = setting("title", Template, Absent, "template of the title");
const BODY: ChannelSetting =
    setting("body", Template, Absent, "template of the text below the title, without markup");
const USER: ChannelSetting = setting("user", Text, Absent, "user to log in as, with password");
const PASSWORD: ChannelSetting = setting("password", Secret, Absent, "password of the user");

const fn service_address(default: &'static str) -> ChannelSetting {
    setting("api_url", PlainUrl, Value(default), "address of the service, or of one that speaks like it")
}

/// Settings of several kinds.
pub(super) fn common_settings(kind: ChannelKind) -> &'static [ChannelSetting] {
    match (kind, kind.audience()) {
        (ChannelKind::Email | ChannelKind::Exec, _) => &[],
        (ChannelKind::Webhook, _) => {
            const {
                &[
                    TITLE,
                    setting("body", Template, Absent, "template of the whole body, which must print JSON"),
                    TIMEOUT,
                    CA_FILE,
                ]
            }
        }
        (_, Audience::People) => const { &[TITLE, BODY, TIMEOUT, CA_FILE] },
        (_, Audience::Programs) => const { &[TITLE, TIMEOUT, CA_FILE] },
        (_, Audience::Nobody) => const { &[TIMEOUT, CA_FILE] },
    }
}

/// Settings of a single kind.
pub(super) fn own_settings(kind: ChannelKind) -> &'static [ChannelSetting] {
    match kind {
        ChannelKind::Webhook => {
            const {
                &[
                    setting("url", Url, Required, "address that receives each event by POST"),
                    setting(
                        "secrets",
                        Secrets,
                        Absent,
                        "secrets that sign each request; several during a change",
                    ),
                    setting("signing_key", Secret, Absent, "private key that signs each request (Ed25519)"),
                    setting("headers", SecretMap, Absent, "further headers, at most 16"),
                ]
            }
        }
        ChannelKind::Email => EMAIL,
        ChannelKind::Slack => {
            const {
                &[
                    setting("url", Secret, Described("required without `token`"), "the incoming webhook"),
                    setting("token", Secret, Absent, "token of a bot (chat:write), in place of url"),
                    setting(
                        "channel",
                        Text,
                        Described("required with `token`"),
                        "conversation that the bot posts to",
                    ),
                    setting(
                        "flavor",
                        Word(&["slack", "mattermost", "rocketchat"]),
                        Value("slack"),
                        "product whose incoming webhook url is",
                    ),
                    setting(
                        "mention",
                        Text,
                        Absent,
                        "mentioned if something is down: channel, here, or in Slack the id of a user (U…) or a group (S…)",
                    ),
                    service_address("https://slack.com/api"),
                ]
            }
        }
        ChannelKind::Discord => {
            const {
                &[
                    setting("url", Secret, Required, "the webhook"),
                    setting("username", Text, Absent, "name of the sender in place of the webhook's"),
                    setting(
                        "mention",
                        Text,
                        Absent,
                        "mentioned if something is down: everyone, here, role:ID or user:ID",
                    ),
                ]
            }
        }
        ChannelKind::Teams => {
            const {
                &[
                    setting("url", Secret, Required, "URL of the workflow"),
                    setting(
                        "format",
                        Word(&["message", "card"]),
                        Value("message"),
                        "what the workflow reads: a message with a card as Microsoft's template does, or the card alone",
                    ),
                ]
            }
        }
        ChannelKind::Telegram => {
            const {
                &[
                    setting("token", Secret, Required, "token of the bot"),
                    setting(
                        "chat_id",
                        NumberOrText,
                        Required,
                        "number of the chat, or @name of a public channel",
                    ),
                    setting(
                        "topic_id",
                        Number(1, i64::MAX),
                        Absent,
                        "number of a topic in a group with topics",
                    ),
                    service_address("https://api.telegram.org"),
                ]
            }
        }
        ChannelKind::Pagerduty => {
            const {
                &[
                    setting(
                        "routing_key",
                        Secret,
                        Required,
                        "integration key of the service (Events API v2)",
                    ),
                    setting(
                        "api_url",
                        PlainUrl,
                        Value("https://events.pagerduty.com"),
                        "address of the service; https://events.eu.pagerduty.com for accounts in Europe",
                    ),
                ]
            }
        }
        ChannelKind::Alertmanager => {
            const {
                &[
                    setting(
                        "urls",
                        PlainUrls,
                        Required,
                        "addresses of all instances of the cluster, at most 8",
                    ),
                    USER,
                    PASSWORD,
                    setting("token", Secret, Absent, "bearer token, in place of user and password"),
                    setting("labels", TextMap, Absent, "further labels of each alert, at most 20"),
                ]
            }
        }
        ChannelKind::Ntfy => {
            const {
                &[
                    setting(
                        "topic",
                        TextOrSecret,
                        Required,
                        "the topic; a secret where anyone who knows it may read it",
                    ),
                    setting("token", Secret, Absent, "access token"),
                    setting("user", Text, Absent, "user to log in as, in place of token"),
                    PASSWORD,
                    service_address("https://ntfy.sh"),
                ]
            }
        }
        ChannelKind::Exec => {
            const {
                &[
                    setting(
                        "program",
                        Text,
                        Required,
                        "absolute path of the program on the notifier's machine",
                    ),
                    setting("args", Texts, Absent, "arguments, at most 64; there is no shell"),
                    setting("title", Template, Absent, "template of PICKET_TITLE"),
                    setting("body", Template, Absent, "template of PICKET_BODY"),
                    TIMEOUT,
                ]
            }
        }
        ChannelKind::Opsgenie => {
            const {
                &[
                    setting("api_key", Secret, Required, "key of the API integration"),
                    setting(
                        "priority",
                        Word(&["P1", "P2", "P3", "P4", "P5"]),
                        Value("P1"),
                        "priority of sites that are down",
                    ),
                    setting("tags", Texts, Absent, "further tags of each alert, at most 20"),
                    setting(
                        "api_url",
                        PlainUrl,
                        Value("https://api.opsgenie.com"),
                        "address of the service; https://api.atlassian.com/jsm/ops/integration for Jira Service Management",
                    ),
                ]
            }
        }
        ChannelKind::Pushover => {
            const {
                &[
                    setting("token", Secret, Required, "token of the application"),
                    setting("user", Secret, Required, "key of the user or the group"),
                    setting(
                        "priority",
                        Number(-2, 2),
                        Value("1"),
                        "priority of sites that are down; 2 is an emergency",
                    ),
                    setting("device", Text, Described("all of the user"), "device that receives"),
                    service_address("https://api.pushover.net"),
                ]
            }
        }
        ChannelKind::Matrix => {
            const {
                &[
                    setting("api_url", PlainUrl, Required, "address of the homeserver"),
                    setting("room_id", Text, Required, "internal id of the room, such as !abc:example.com"),
                    setting("token", Secret, Required, "access token"),
                ]
            }
        }
        ChannelKind::Googlechat => const { &[setting("url", Secret, Required, "the webhook of the space")] },
        ChannelKind::Gotify => {
            const {
                &[
                    setting("api_url", PlainUrl, Required, "address of the server"),
                    setting("token", Secret, Required, "token of the application"),
                ]
            }
        }
        ChannelKind::Twilio => {
            const {
                &[
                    setting("account_sid", Text, Required, "number of the account (AC…)"),
                    setting("auth_token", Secret, Required, "token of the account"),
                    setting(
                        "from",
                        Text,
                        Described("required without `messaging_service_sid`"),
                        "telephone number or name of the sender",
                    ),
                    setting(
                        "messaging_service_sid",
                        Text,
                        Absent,
                        "messaging service (MG…), in place of from",
                    ),
                    setting("to", Text, Required, "telephone number of the recipient, as +4912345"),
                    service_address("https://api.twilio.com"),
                ]
            }
        }
        ChannelKind::Watchdog => {
            const {
                &[
                    setting("url", Url, Required, "requested each minute while the whole chain works"),
                    setting("fail_url", Url, Absent, "requested with the reason while it does not"),
                    setting("method", Word(&["GET", "POST"]), Value("GET"), "method of the request to url"),
                ]
            }
        }
    }
}

const EMAIL: &[ChannelSetting] = &[
    setting("host", Text, Required, "name or address of the mail server, without a port"),
    setting("from", Text, Required, "sender, as picket@example.com or Picket <picket@example.com>"),
    setting("to", Texts, Required, "recipients, at most 50; all are named in the message"),
    setting(
        "security",
        Word(&["starttls", "implicit", "none"]),
        Value("starttls"),
        "encryption: by STARTTLS, from the first byte, or none and without a password",
    ),
    setting("port", Number(1, 65_535), Described("587, 465 or 25, by `security`"), "port of the server"),
    USER,
    PASSWORD,
    setting("reply_to", Text, Absent, "address for answers"),
    setting(
        "helo",
        Text,
        Described("the notifier's address"),
        "name by which the notifier introduces itself",
    ),
    setting("title", Template, Absent, "template of the subject"),
    setting("body", Template, Absent, "template of the text"),
    setting("html_body", Template, Absent, "template of the HTML part; without it a body has no HTML part"),
    setting(
        "timeout_ms",
        Number(1_000, MAX_TIMEOUT),
        Value("20000"),
        "maximum time of an attempt at all recipients together, in milliseconds",
    ),
    CA_FILE,
];
