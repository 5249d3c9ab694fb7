use super::*;

fn check(change: Value) -> Result<(), String> {
    let mut settings = json!({"host": "smtp.example.com", "from": "picket@example.com", "to": [A]});
    settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let settings: EmailSettings = serde_json::from_value(settings).map_err(|why| why.to_string())?;
    settings.check().map_err(|refusal| refusal.to_string())
}

#[test]
fn settings_that_work_are_accepted() {
    for good in [
        json!({}),
        json!({"security": "starttls", "user": "u", "password": {"secret": "mail"}, "port": 2587}),
        json!({"security": "implicit", "host": "192.0.2.7", "helo": "monitor.example.com"}),
        json!({"security": "none", "host": "::1", "timeout_ms": 5_000}),
        json!({"host": "[2001:db8::1]", "from": "\"Picket, the monitor\" <p@example.com>", "reply_to": "x@example.com"}),
        json!({"to": ["Jürgen <j@bücher.example>"], "ca_file": "/etc/picket/mail-ca.pem"}),
        json!({"title": "{{ title }}", "body": "{{ text }}", "html_body": "<b>{{ title }}</b>"}),
    ] {
        assert_eq!(check(good.clone()), Ok(()), "{good}");
    }
}

#[test]
fn a_refused_setting_is_named_with_its_value_and_what_is_allowed() {
    for (bad, field, value) in [
        (json!({"host": ""}), "host", ""),
        (json!({"host": "smtp.example.com:25"}), "host", "smtp.example.com:25"),
        (json!({"host": "a b"}), "host", "a b"),
        (json!({"port": 0}), "port", "0"),
        (json!({"from": "picket"}), "from", "picket"),
        (json!({"from": "p@example.com\r\nBcc: all@example.com"}), "from", "p@example.com"),
        (json!({"to": []}), "to", "0 of them"),
        (json!({"to": [A, A]}), "to", A),
        (json!({"to": ["a@example.com, b@example.com"]}), "to", "a@example.com, b@example.com"),
        (json!({"to": ["jürgen@example.com"]}), "to", "jürgen@example.com"),
        (json!({"reply_to": "<>"}), "reply_to", "<>"),
        (json!({"user": "u"}), "user", "u"),
        (json!({"password": {"secret": "mail"}}), "password", "(hidden)"),
        (json!({"user": "u", "password": {"secret": "P@ssw0rd"}}), "password.secret", "(hidden)"),
        (json!({"security": "none", "user": "u", "password": {"secret": "mail"}}), "security", "none"),
        (json!({"ca_file": "ca.pem"}), "ca_file", "ca.pem"),
        (json!({"timeout_ms": 10}), "timeout_ms", "10"),
        (json!({"helo": "a b"}), "helo", "a b"),
        (json!({"body": "{{ items[0].nme }}"}), "body", "{{ items[0].nme }}"),
        (json!({"html_body": "{% for %}"}), "html_body", "{% for %}"),
    ] {
        let refusal = check(bad.clone()).expect_err(&bad.to_string());
        assert!(refusal.starts_with(&format!("{field}: '{value}")), "{bad}: {refusal}");
        assert!(refusal.contains("allowed: "), "{refusal}");
        assert!(!refusal.contains("P@ssw0rd"), "{refusal}");
    }
    for unknown in
        [json!({"tls": true}), json!({"security": "opportunistic"}), json!({"password": "P@ssw0rd"})]
    {
        check(unknown.clone()).expect_err(&unknown.to_string());
    }
}

#[tokio::test]
async fn a_password_is_not_sent_without_tls_even_if_the_settings_were_never_checked() {
    let (identity, _) = issue_for("localhost");
    let server = MailServer::start(MailTls::None, &identity, None, MailAnswers::default()).await;
    let settings = with_login(settings_for(server.port(), "none", None));

    let attempt = sender_for(server.port(), PASSWORD).deliver(&settings, &samples::down()).await;

    assert!(is_failing(&attempt));
    assert!(attempt.message.contains("a password is never sent without TLS"), "{}", attempt.message);
    assert!(server.mails().is_empty());
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let settings = json!({"host": "smtp.example.com", "from": "picket@example.com", "to": [A]});
    let settings: EmailSettings = serde_json::from_value(settings).unwrap();
    let documented = |name: &str| picket_proto::ChannelKind::Email.find_setting(name).unwrap().default;
    let value = picket_proto::channel_setting::SettingDefault::Value;

    assert_eq!((documented("timeout_ms"), settings.timeout().as_millis()), (value("20000"), 20_000));
    assert_eq!((documented("security"), settings.security), (value("starttls"), Security::Starttls));
}
