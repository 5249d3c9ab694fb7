use serde_json::json;

use super::*;

fn check(kind: &str, settings: Value) -> Result<(), ValidationError> {
    check_channel_settings(kind.parse().unwrap(), settings.as_object().unwrap())
}

fn refusal(kind: &str, settings: Value) -> ValidationError {
    check(kind, settings.clone()).expect_err(&format!("{kind} {settings}"))
}

#[test]
fn each_setting_of_a_kind_stands_once_and_its_default_has_its_form() {
    for kind in ChannelKind::ALL_KINDS {
        for setting in kind.settings() {
            let twins = kind.settings().filter(|other| other.name == setting.name).count();
            assert_eq!(twins, 1, "{kind}: {}", setting.name);
            assert!(
                !setting.meaning.is_empty() && !setting.meaning.ends_with('.'),
                "{kind}: {}",
                setting.name
            );
            if let SettingDefault::Value(text) = setting.default {
                let fault = setting.form.find_fault(&setting.form.parse_text("", text)).is_some();
                assert!(!fault, "{kind}: {}", setting.name);
            }
        }
    }
}

#[test]
fn a_refusal_names_the_setting_what_is_allowed_and_the_purpose_and_hides_what_may_be_a_secret() {
    let slack = |extra: Value| {
        let mut settings = json!({"url": {"secret": "slack"}});
        settings.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        settings
    };
    let email = json!({"host": "mail.example.com", "from": "a@example.com", "to": ["b@example.com"]});
    let email = |name: &str, value: Value| {
        let mut settings = email.clone();
        settings[name] = value;
        settings
    };
    for (kind, settings, field, allowed) in [
        // Unknown names.
        (
            "slack",
            slack(json!({"chanel": "MARK"})),
            "chanel",
            "did you mean channel (conversation that the bot",
        ),
        (
            "slack",
            slack(json!({"colour": "MARK"})),
            "colour",
            "there are url (the incoming webhook), token (",
        ),
        (
            "pagerduty",
            json!({"routing_key": {"secret": "k"}, "body": "MARK"}),
            "body",
            "title (template of the title)",
        ),
        ("email", email("timeout", json!("MARK")), "timeout", "did you mean timeout_ms (maximum time"),
        // Absent ones.
        ("email", json!({}), "host", "which email needs; also absent: from, to"),
        ("telegram", json!({"chat_id": 7}), "token", "token of the bot"),
        ("discord", json!({}), "url", "the webhook"),
        // Values of another form.
        ("slack", json!({"url": "https://chat.example.com/hooks/MARK"}), "url", "PICKET_SECRETS_FILE"),
        ("slack", json!({"url": {"secret": 7}}), "url", "the name of a secret"),
        ("slack", slack(json!({"flavor": "discord"})), "flavor", "one of slack, mattermost, rocketchat"),
        ("slack", slack(json!({"flavor": 7})), "flavor", "one of slack"),
        ("slack", slack(json!({"mention": 7})), "mention", "in quotation marks, as '7'"),
        ("slack", slack(json!({"title": {"a": 1}})), "title", "a template"),
        (
            "slack",
            slack(json!({"timeout_ms": 60_000})),
            "timeout_ms",
            "a whole number, 100 to 25000 (maximum time",
        ),
        ("slack", slack(json!({"timeout_ms": "15s"})), "timeout_ms", "in milliseconds"),
        ("email", email("port", json!("smtp")), "port", "a whole number, 1 to 65535"),
        ("email", email("port", json!(0)), "port", "a whole number, 1 to 65535"),
        ("email", email("to", json!("MARK@example.com")), "to", "a list of texts (recipients"),
        ("email", email("to", json!([7])), "to[0]", "in quotation marks"),
        ("email", email("security", json!("tls")), "security", "one of starttls, implicit, none"),
        ("webhook", json!({"url": 7}), "url", "a URL, or the name of a secret"),
        (
            "webhook",
            json!({"url": "https://a.example", "secrets": ["MARK"]}),
            "secrets[0]",
            "the name of a secret",
        ),
        (
            "webhook",
            json!({"url": "https://a.example", "secrets": {"secret": "a"}}),
            "secrets",
            "a list of names",
        ),
        (
            "webhook",
            json!({"url": "https://a.example", "headers": {"X-A": 7}}),
            "headers.X-A",
            "a text, or the name",
        ),
        ("webhook", json!({"url": "https://a.example", "headers": "MARK"}), "headers", "an object of texts"),
        ("alertmanager", json!({"urls": "https://a.example/MARK"}), "urls", "a list of URLs"),
        ("alertmanager", json!({"urls": ["https://a.example"], "labels": {"team": 7}}), "labels.team", "'7'"),
        ("telegram", json!({"token": {"secret": "t"}, "chat_id": true}), "chat_id", "a number, or a text"),
        (
            "telegram",
            json!({"token": {"secret": "t"}, "chat_id": 7, "topic_id": "x"}),
            "topic_id",
            "from 1 (number",
        ),
        (
            "pushover",
            json!({"token": {"secret": "t"}, "user": {"secret": "u"}, "priority": 3}),
            "priority",
            "-2 to 2",
        ),
        ("pushover", json!({"token": {"secret": "t"}, "user": "MARK"}), "user", "the name of a secret"),
        ("exec", json!({"program": ["/bin/true"]}), "program", "a text (absolute path"),
        ("exec", json!({"program": "/bin/true", "args": "-v"}), "args", "a list of texts (arguments"),
        ("watchdog", json!({"url": "https://a.example", "method": "PUT"}), "method", "one of GET, POST"),
    ] {
        let refusal = refusal(kind, settings);
        assert_eq!(refusal.field, format!("settings.{field}"), "{kind}: {refusal}");
        assert!(refusal.expected.contains(allowed), "{kind} {field}: {refusal}");
        assert!(!refusal.to_string().contains("MARK"), "{kind} {field}: {refusal}");
    }
    assert_eq!(
        refusal("pushover", json!({"token": {"secret": "t"}, "user": {"secret": "u"}, "priority": 3})).value,
        "3"
    );
}

#[test]
fn a_url_of_a_service_is_refused_with_the_kind_the_entry_of_the_secrets_file_and_the_command() {
    for (url, kind, host, option) in [
        ("https://hooks.slack.com/services/T/B/MARK", "slack", "hooks.slack.com", "--url secret:slack"),
        ("https://discord.com/api/webhooks/1/MARK", "discord", "discord.com", "--url secret:discord"),
        (
            "https://canary.discord.com/api/v10/webhooks/1/MARK",
            "discord",
            "canary.discord.com",
            "secret:discord",
        ),
        (
            "https://a.webhook.office.com/webhookb2/MARK",
            "teams",
            "a.webhook.office.com",
            "--url secret:teams",
        ),
        (
            "https://prod-1.westeurope.logic.azure.com:443/workflows/MARK?sig=MARK",
            "teams",
            "logic.azure.com",
            "teams",
        ),
        (
            "https://a.b.environment.api.powerplatform.com/workflows/MARK",
            "teams",
            "powerplatform.com",
            "teams",
        ),
        (
            "https://api.telegram.org/bot1:MARK/sendMessage",
            "telegram",
            "api.telegram.org",
            "--set token=secret:telegram",
        ),
        (
            "https://chat.googleapis.com/v1/spaces/A/messages?key=MARK",
            "googlechat",
            "chat.googleapis.com",
            "googlechat",
        ),
    ] {
        for (of, settings) in [
            ("webhook", json!({"url": url})),
            ("watchdog", json!({"url": "https://a.example", "fail_url": url})),
            ("alertmanager", json!({"urls": ["https://a.example", url]})),
            ("ntfy", json!({"topic": url})),
        ] {
            let refusal = refusal(of, settings);
            assert_eq!(refusal.value, HIDDEN_VALUE);
            for part in
                [format!("[secret.{kind}]"), format!("--kind {kind} "), host.to_owned(), option.to_owned()]
            {
                assert!(refusal.expected.contains(&part), "{part}: {refusal}");
            }
            assert!(!refusal.to_string().contains("MARK"), "{refusal}");
        }
    }
    for fine in
        ["https://hooks.example.com/slack", "https://discord.com/", "https://notdiscord.com/api/webhooks/1/2"]
    {
        check("webhook", json!({"url": fine})).unwrap();
    }
    check("webhook", json!({"url": {"secret": "hook"}, "body": "https://hooks.slack.com/services/a"}))
        .unwrap();
}

#[test]
fn a_text_of_the_command_line_becomes_a_value_of_the_form_of_its_setting() {
    let parse = |kind: &str, name: &str, place: &str, text: &str| {
        kind.parse::<ChannelKind>().unwrap().find_setting(name).unwrap().form.parse_text(place, text)
    };
    for (kind, name, place, text, value) in [
        ("webhook", "body", "", "{\"text\": {{ title }}}", json!("{\"text\": {{ title }}}")),
        ("webhook", "body", "", "{\"text\": 1}", json!("{\"text\": 1}")),
        ("slack", "title", "", "7", json!("7")),
        ("slack", "channel", "", "true", json!("true")),
        ("email", "port", "", "465", json!(465)),
        ("email", "port", "", "smtp", json!("smtp")),
        ("email", "to", "", "a@example.com", json!(["a@example.com"])),
        ("email", "to", "", "[\"a@example.com\"]", json!(["a@example.com"])),
        ("exec", "args", "", "a,b", json!(["a,b"])),
        ("telegram", "chat_id", "", "-100123", json!(-100_123)),
        ("telegram", "chat_id", "", "@shop", json!("@shop")),
        ("telegram", "token", "", "secret:bot", json!({"secret": "bot"})),
        ("ntfy", "topic", "", "ops", json!("ops")),
        ("webhook", "secrets", "", "secret:new,secret:old", json!([{"secret": "new"}, {"secret": "old"}])),
        ("webhook", "headers", "X-Count", "5", json!("5")),
        ("webhook", "headers", "X-Key", "secret:key", json!({"secret": "key"})),
        ("webhook", "headers", "", "{\"X-A\": \"b\"}", json!({"X-A": "b"})),
        ("alertmanager", "labels", "team", "7", json!("7")),
    ] {
        assert_eq!(parse(kind, name, place, text), value, "{kind} {name} {text}");
    }
}
