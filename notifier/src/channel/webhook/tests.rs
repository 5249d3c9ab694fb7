use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use picket_harness::documented_examples::DocumentedExamples;
use picket_proto::ChannelKind;
use reqwest::header::HeaderMap;

use super::*;
use crate::{
    channel::tests::{Rendered, hostile_messages, long_messages, parse, try_render},
    samples,
};

fn signed_settings() -> Value {
    json!({
        "url": "https://hooks.example.com/picket",
        "secrets": [{ "secret": "webhook-new" }, { "secret": "webhook-old" }],
        "signing_key": { "secret": "webhook-key" },
        "headers": { "X-Team": "ops", "Authorization": { "secret": "token" } },
    })
}

fn signature_headers(rendered: &Rendered) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [ID_HEADER, TIME_HEADER, SIGNATURE_HEADER] {
        headers.insert(name, rendered.header(name).parse().unwrap());
    }
    headers
}

#[test]
fn the_published_library_verifies_the_signature_by_the_new_and_by_the_old_secret() {
    let rendered = Rendered::of(ChannelKind::Webhook, &signed_settings(), &samples::down());
    let headers = signature_headers(&rendered);

    for secret in [crate::channel::tests::WEBHOOK_NEW, crate::channel::tests::WEBHOOK_OLD] {
        standardwebhooks::Webhook::new(secret).unwrap().verify(&rendered.body, &headers).unwrap();
    }
    let other = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(other.verify(&rendered.body, &headers).is_err());
    let mut changed = rendered.body.clone();
    changed[10] ^= 1;
    let right = standardwebhooks::Webhook::new(crate::channel::tests::WEBHOOK_NEW).unwrap();
    assert!(right.verify(&changed, &headers).is_err());
}

#[test]
fn the_asymmetric_signature_is_verified_by_the_public_key() {
    let rendered = Rendered::of(ChannelKind::Webhook, &signed_settings(), &samples::down());
    let all = rendered.header(SIGNATURE_HEADER);
    let encoded = all.split(' ').find_map(|signature| signature.strip_prefix("v1a,")).unwrap();
    let signature = BASE64_STANDARD.decode(encoded).unwrap();
    let signed = [
        rendered.header(ID_HEADER).as_bytes(),
        b".",
        rendered.header(TIME_HEADER).as_bytes(),
        b".",
        &rendered.body,
    ]
    .concat();

    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref()).verify(&signed, &signature).unwrap();
}

#[test]
fn an_event_has_its_type_time_and_data_and_the_id_has_no_dot() {
    let rendered = Rendered::of(ChannelKind::Webhook, &signed_settings(), &samples::down());
    let body = rendered.json();

    assert_eq!(body["type"], "incident.opened");
    assert_eq!(body["timestamp"], "2026-11-20T12:01:03.000000Z");
    assert_eq!(body["data"]["site"], "shop.example.com");
    assert_eq!(rendered.header(ID_HEADER), samples::down().id.to_string());
    assert!(!rendered.header(ID_HEADER).contains('.'));
    assert_eq!(
        (rendered.header("x-team"), rendered.header("authorization")),
        ("ops", "token-value-0123456789")
    );
}

#[test]
fn no_body_is_longer_than_20_000_bytes_and_a_shortened_one_says_so() {
    let settings = json!({ "url": "https://hooks.example.com/picket" });
    let mut large = samples::down();
    large.event.as_mut().unwrap().data["message"] = json!("x".repeat(60_000));
    large.event.as_mut().unwrap().data["tags"] = json!(vec!["tag"; 30_000]);
    let mut many = samples::digest();
    many.items = vec![many.items[0].clone(); 3_000];
    for message in [large, many] {
        let rendered = Rendered::of(ChannelKind::Webhook, &settings, &message);
        assert!(rendered.body.len() <= MAX_BODY_BYTES, "{}", rendered.body.len());
        assert_eq!(rendered.json()["truncated"], true);
    }
    for message in hostile_messages().into_iter().chain(long_messages()) {
        assert!(Rendered::of(ChannelKind::Webhook, &settings, &message).body.len() <= MAX_BODY_BYTES);
    }
}

#[test]
fn a_secret_of_another_form_is_refused_by_its_name_alone() {
    for (field, name) in [("secrets", "token"), ("secrets", "short"), ("signing_key", "token")] {
        let mut settings = json!({ "url": "https://hooks.example.com/picket" });
        settings[field] = match field {
            "secrets" => json!([{ "secret": name }]),
            _ => json!({ "secret": name }),
        };
        let refused =
            try_render(ChannelKind::Webhook, &settings, &samples::down()).err().unwrap().into_attempt();
        assert!(
            refused.message.starts_with(&format!("secret '{name}' is unusable: allowed: whs")),
            "{refused:?}"
        );
        assert!(!refused.message.contains("token-value"), "{refused:?}");
    }
}

#[test]
fn a_secret_is_not_used_for_a_host_that_it_does_not_list() {
    let mut settings = signed_settings();
    settings["url"] = json!("https://evil.example/");

    let refused = try_render(ChannelKind::Webhook, &settings, &samples::down()).err().unwrap().into_attempt();

    assert!(refused.message.contains("may not be sent to evil.example:443"), "{refused:?}");
}

#[test]
fn settings_that_cannot_be_used_are_refused_by_their_names() {
    let url = "https://hooks.example.com/";
    let many: serde_json::Map<_, _> = (0..17).map(|number| (format!("X-{number}"), json!("a"))).collect();
    for (settings, field) in [
        (json!({}), "settings.url"),
        (json!({"url": "ftp://a.example"}), "settings.url"),
        (json!({"url": "https://me:MARKED@a.example"}), "settings.url"),
        (json!({"url": {"secret": "MARKED"}}), "settings.url.secret"),
        (json!({"url": 7}), "settings.url"),
        (json!({"url": url, "secrets": [{"secret": "whsec_MARKED"}]}), "settings.secrets[0].secret"),
        (json!({"url": url, "secrets": vec![json!({"secret": "a"}); 5]}), "settings.secrets"),
        (
            json!({"url": url, "headers": {"Authorization": "Bearer MARKED"}}),
            "settings.headers.Authorization",
        ),
        (json!({"url": url, "headers": {"Host": "a"}}), "settings.headers.Host"),
        (json!({"url": url, "headers": {"Webhook-Id": "a"}}), "settings.headers.Webhook-Id"),
        (json!({"url": url, "headers": {"X-A": "a\r\nb"}}), "settings.headers.X-A"),
        (json!({"url": url, "headers": many}), "settings.headers"),
        (json!({"url": url, "secret": "MARKED"}), "settings.secret"),
        (json!({"url": url, "timeout_ms": 600_000}), "settings.timeout_ms"),
        (json!({"url": url, "ca_file": "ca.pem"}), "settings.ca_file"),
        (json!("https://MARKED"), "settings"),
    ] {
        let refusal = parse(ChannelKind::Webhook, &settings).unwrap_err();
        assert_eq!(refusal.field, field, "{refusal}");
        assert!(!refusal.to_string().contains("MARKED"), "{refusal}");
    }
}

#[test]
fn the_documented_verification_accepts_an_event_and_refuses_a_changed_one() {
    let rendered = Rendered::of(ChannelKind::Webhook, &signed_settings(), &samples::down());
    let program = format!(
        "{}\nimport sys\nfor line in sys.stdin:\n    given = json.loads(line)\n    try:\n        \
         print(read_event(given['headers'], given['body'].encode(), given['secret'])['type'])\n    \
         except ValueError as error:\n        print(error)\n",
        DocumentedExamples::read("reference/channels.md").code_block("python")
    );
    let headers: Value = [ID_HEADER, TIME_HEADER, SIGNATURE_HEADER]
        .into_iter()
        .map(|name| (name.to_owned(), Value::from(rendered.header(name))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let request =
        |body: &str, secret: &str| json!({"headers": headers, "body": body, "secret": secret}).to_string();
    let body = String::from_utf8(rendered.body.clone()).unwrap();
    let requests = [
        request(&body, crate::channel::tests::WEBHOOK_NEW),
        request(&body, crate::channel::tests::WEBHOOK_OLD),
        request(&body, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        request(&body.replace("shop", "chop"), crate::channel::tests::WEBHOOK_NEW),
    ];
    let mut python = std::process::Command::new("python3")
        .args(["-c", &program])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();

    std::io::Write::write_all(&mut python.stdin.take().unwrap(), requests.join("\n").as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();

    let said = String::from_utf8(output.stdout).unwrap();
    let refused = "not signed by us";
    assert_eq!(said.lines().collect::<Vec<_>>(), ["incident.opened", "incident.opened", refused, refused]);
}
