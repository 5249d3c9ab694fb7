//! Attempts against real servers: answers, failures of the connection, addresses, certificates.

mod alertmanager;

use std::{net::IpAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use picket_harness::targets::{CertificateAuthority, Step, Target, Validity};
use picket_proto::ChannelKind;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::samples;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATH: &str = "/services/T00000000/B00000000/slack-path-value-xxxx";

fn channel(kind: ChannelKind, settings: Value) -> ChannelSettings {
    ChannelSettings::parse(kind, &settings).unwrap()
}

fn webhook(url: &str) -> ChannelSettings {
    channel(ChannelKind::Webhook, json!({ "url": url, "timeout_ms": 2_000 }))
}

/// Secrets for the servers of this machine, one of them the URL of a channel.
fn secrets(target: &Target) -> Secrets {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("secrets.toml");
    let hosts = format!("hosts = [\"{0}\"]\ninsecure = true\n", target.address());
    let url = target.url(PATH);
    let text = format!(
        "[secret.signing]\nvalue = \"{SECRET}\"\n{hosts}[secret.hook]\nvalue = \"{url}\"\n{hosts}\
         [secret.token]\nvalue = \"token-value-0123456789\"\n{hosts}"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Secrets::load(&path).unwrap()
}

fn loopback() -> Vec<IpNet> {
    vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]
}

/// A sender that may reach this machine.
fn sender(secrets: Secrets) -> Sender {
    Sender::new(SenderOptions { allowed_networks: loopback(), ..SenderOptions::default() }, secrets).unwrap()
}

fn answer(status: u16, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![Step::send(format!(
        "HTTP/1.1 {status} Because\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))]
}

fn path_of(request: &str) -> &str {
    request.split_whitespace().nth(1).unwrap()
}

#[tokio::test]
async fn a_signed_event_arrives_and_the_published_library_verifies_the_bytes() {
    let target = Target::serve_script(|_| answer(204, "", "")).await;
    let settings = json!({ "url": target.url("/hook"), "secrets": [{ "secret": "signing" }] });

    let attempt =
        sender(secrets(&target)).send(&channel(ChannelKind::Webhook, settings), &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::Delivered { receiver_ref: None }, "{attempt:?}");
    assert_eq!(attempt.status, Some(204));
    let requests = target.received_requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    let mut headers = HeaderMap::new();
    for line in head.lines().filter(|line| line.starts_with("webhook-")) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().unwrap());
    }
    assert_eq!(headers.len(), 3);
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(body.as_bytes(), &headers).unwrap();
}

#[tokio::test]
async fn each_status_of_a_receiver_has_its_consequence() {
    let target = Target::serve_http().await;
    let sender = sender(Secrets::none());
    for (status, outcome) in [
        (200, AttemptOutcome::Delivered { receiver_ref: None }),
        (400, AttemptOutcome::Refused),
        (404, AttemptOutcome::retry(None, true)),
        (410, AttemptOutcome::Gone),
        (429, AttemptOutcome::retry(None, false)),
        (503, AttemptOutcome::retry(None, false)),
    ] {
        let url = target.url(&format!("/status/{status}"));
        let attempt = sender.send(&webhook(&url), &samples::down()).await;
        assert_eq!((attempt.outcome, attempt.status), (outcome, Some(status)));
        assert_eq!(attempt.message, format!("{status}: a status"));
    }
}

#[tokio::test]
async fn a_demanded_delay_is_told() {
    let target = Target::serve_script(|_| answer(429, "retry-after: 30\r\n", "slow down")).await;

    let attempt = sender(Secrets::none()).send(&webhook(&target.url("/")), &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::retry(Some(Duration::from_secs(30)), false));
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_tried_again() {
    let target = Target::serve_http().await;
    let closed = Target::closed_address().await;
    let sender = sender(Secrets::none());
    for (url, why) in [
        (target.url("/reset"), "connection reset"),
        (target.url("/close"), "connection closed"),
        (target.url("/garbage"), "invalid HTTP"),
        (format!("http://{closed}/"), "connection refused"),
        ("http://name.invalid/".to_owned(), "could not resolve name.invalid"),
    ] {
        let attempt = sender.send(&webhook(&url), &samples::down()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, false), "{url}: {attempt:?}");
        assert!(attempt.message.contains(why) && attempt.status.is_none(), "{url}: {attempt:?}");
    }
}

#[tokio::test]
async fn a_receiver_of_one_byte_a_second_ends_at_the_timeout() {
    let target = Target::serve_http().await;
    let sender = sender(Secrets::none());
    for path in ["/drip", "/never"] {
        let settings = json!({ "url": target.url(path), "timeout_ms": 300 });
        let attempt = sender.send(&channel(ChannelKind::Webhook, settings), &samples::down()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, false));
        assert!(attempt.message.ends_with(": no answer within 0.3 s"), "{attempt:?}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_read_in_part_and_the_status_counts() {
    let target = Target::serve_http().await;
    let sender = sender(Secrets::none());
    for path in ["/endless", "/drip-body", "/broken-body"] {
        let settings = json!({ "url": target.url(path), "timeout_ms": 1_000 });
        let attempt = sender.send(&channel(ChannelKind::Webhook, settings), &samples::down()).await;
        assert!(attempt.is_delivered(), "{path}: {attempt:?}");
        assert!(attempt.message.len() <= 500, "{path}");
    }
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let location = "location: http://169.254.169.254/latest/meta-data/\r\n";
    let metadata = Target::serve_script(move |_| answer(307, location, "")).await;
    let looping = Target::serve_http().await;
    let sender = sender(Secrets::none());
    for (target, path) in [(&metadata, "/"), (&looping, "/loop")] {
        let attempt = sender.send(&webhook(&target.url(path)), &samples::down()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, true));
        assert!(attempt.message.contains("redirects are not followed"), "{attempt:?}");
        assert_eq!(target.received_requests().len(), 1);
    }
}

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_before_a_connection_and_names_the_variable() {
    let target = Target::serve_http().await;
    let to_metadata: Lookup = Arc::new(|_| Ok(vec!["169.254.169.254".parse::<IpAddr>().unwrap()]));
    let to_this_machine: Lookup = Arc::new(|_| Ok(vec![IpAddr::from([127, 0, 0, 1])]));
    let port = target.address().port();
    for (lookup, url, address) in [
        (system_lookup(), target.url("/"), "127.0.0.1"),
        (system_lookup(), target.localhost_url("/"), "localhost is at"),
        (system_lookup(), format!("http://[::ffff:127.0.0.1]:{port}/"), "127.0.0.1"),
        (to_this_machine, format!("http://public.example:{port}/"), "public.example is at 127.0.0.1"),
        (to_metadata, "http://public.example/".to_owned(), "public.example is at 169.254.169.254"),
    ] {
        let options = SenderOptions { lookup, ..SenderOptions::default() };
        let sender = Sender::new(options, Secrets::none()).unwrap();

        let attempt = sender.send(&webhook(&url), &samples::down()).await;

        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, true), "{url}");
        let is_named = attempt.message.contains("PICKET_NOTIFY_ALLOW_ADDRESSES");
        assert!(is_named && attempt.message.contains(address), "{url}: {attempt:?}");
    }
    assert_eq!(target.accepted_connections(), 0);
}

#[tokio::test]
async fn a_certificate_is_verified_by_the_authorities_of_the_channel() {
    let authority = CertificateAuthority::new();
    let directory = TempDir::new().unwrap();
    let file = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let own = file("own.pem", authority.pem());
    let other = file("other.pem", CertificateAuthority::new().pem());
    let broken = file("broken.pem", "-----BEGIN MARKED-----");
    let script = |_: &str| answer(200, "", "ok");
    let identity = authority.issue_identity(&["127.0.0.1"], Validity::Current);
    let target = Target::serve_script_https(&identity, script).await;
    let wrong_name = authority.issue_identity(&["other.example"], Validity::Current);
    let misnamed = Target::serve_script_https(&wrong_name, script).await;
    let sender = sender(Secrets::none());
    let send = async |url: String, ca_file: &str| {
        let settings = json!({ "url": url, "ca_file": ca_file });
        sender.send(&channel(ChannelKind::Webhook, settings), &samples::down()).await
    };

    assert!(send(target.url("/"), &own).await.is_delivered());
    for (url, ca_file, why) in [
        (target.url("/"), other.as_str(), "TLS: invalid peer certificate"),
        (misnamed.url("/"), own.as_str(), "TLS: invalid peer certificate"),
        (target.url("/"), broken.as_str(), "broken.pem' cannot be used: it holds no certificate in PEM"),
        (target.url("/"), "/dev/zero", "'/dev/zero' cannot be used: it is no regular file"),
        (target.url("/"), "/absent.pem", "'/absent.pem' cannot be used"),
    ] {
        let attempt = send(url, ca_file).await;
        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, true), "{ca_file}: {attempt:?}");
        assert!(attempt.message.contains(why) && !attempt.message.contains("MARKED"), "{attempt:?}");
    }
    assert_eq!(misnamed.received_requests(), Vec::<String>::new());
    let without = sender.send(&webhook(&target.url("/")), &samples::down()).await;
    assert!(without.message.contains("TLS: invalid peer certificate"), "{without:?}");
    // A file that changes is read again.
    std::fs::write(&other, authority.pem()).unwrap();
    assert!(send(target.url("/"), &other).await.is_delivered());
}

#[tokio::test]
async fn no_secret_is_in_the_end_of_an_attempt_that_fails() {
    let secret_texts = ["slack-path-value", "token-value", "dG9rZW4tdmFsdWU"];
    let echo = Target::serve_script(move |request| {
        // The first secret with what surrounds it.
        let found = secret_texts.iter().filter_map(|text| request.find(text)).min().unwrap();
        let start = request[..found].rfind(['/', ' ', '"']).unwrap();
        answer(500, "", &request[start.saturating_sub(60)..])
    })
    .await;
    let secrets = secrets(&echo);
    let slack = channel(ChannelKind::Slack, json!({ "url": { "secret": "hook" } }));
    let base = echo.url("/api");
    let token = json!({ "secret": "token" });
    let telegram = json!({ "token": token, "chat_id": 1, "api_url": base });
    let pushover = json!({ "token": token, "user": token, "api_url": base });
    let ntfy = json!({ "topic": "ops", "user": "me", "password": token, "api_url": base });
    let channels = [
        slack.clone(),
        channel(ChannelKind::Telegram, telegram),
        channel(ChannelKind::Pushover, pushover),
        channel(ChannelKind::Ntfy, ntfy),
    ];
    for channel in &channels {
        let attempt = sender(secrets.clone()).send(channel, &samples::down()).await;
        assert_eq!(attempt.outcome, AttemptOutcome::retry(None, false));
        assert!(attempt.message.contains("[redacted]"), "{attempt:?}");
        assert!(secret_texts.iter().all(|text| !attempt.message.contains(text)), "{attempt:?}");
    }
    assert_eq!(path_of(&echo.received_requests()[0]), PATH);
    echo.shut_down().await;
    let refused = sender(secrets).send(&slack, &samples::down()).await;
    assert!(refused.message.ends_with(": connection refused"), "{refused:?}");
    assert!(!refused.message.contains("services"), "{refused:?}");
}

#[tokio::test]
async fn a_secret_for_another_host_is_not_sent() {
    let (listed, other) = (Target::serve_http().await, Target::serve_http().await);
    let settings = json!({ "topic": "ops", "token": { "secret": "token" }, "api_url": other.url("/") });

    let attempt =
        sender(secrets(&listed)).send(&channel(ChannelKind::Ntfy, settings), &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::retry(None, true));
    assert!(attempt.message.contains("secret 'token' may not be sent to 127.0.0.1"), "{attempt:?}");
    assert_eq!(other.accepted_connections(), 0);
}

#[tokio::test]
async fn an_announced_alert_is_looked_up_once() {
    let target = Target::serve_script(|request| match request.starts_with("POST") {
        true => answer(202, "", r#"{"result":"Request will be processed","requestId":"43a29c5c"}"#),
        false => answer(200, "", r#"{"data":{"isSuccess":false,"status":"Alert creation is disabled"}}"#),
    })
    .await;
    let settings = json!({ "api_key": { "secret": "token" }, "api_url": target.url("/jsm") });

    let attempt =
        sender(secrets(&target)).send(&channel(ChannelKind::Opsgenie, settings), &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::Refused, "{attempt:?}");
    assert!(attempt.message.contains("Alert creation is disabled"));
    let requests = target.received_requests();
    let paths: Vec<_> = requests.iter().map(|request| path_of(request)).collect();
    assert_eq!(paths, ["/jsm/v2/alerts", "/jsm/v2/alerts/requests/43a29c5c"]);
}

#[tokio::test]
async fn a_test_of_pagerduty_opens_and_closes_and_a_refused_opening_ends_it() {
    let accepting = Target::serve_script(|_| answer(202, "", "{}")).await;
    let refusing = Target::serve_script(|_| answer(400, "", "{}")).await;
    for (target, count) in [(&accepting, 2), (&refusing, 1)] {
        let settings = json!({ "routing_key": { "secret": "token" }, "api_url": target.url("") });
        let attempt =
            sender(secrets(target)).send(&channel(ChannelKind::Pagerduty, settings), &samples::test()).await;
        assert_eq!(attempt.is_delivered(), count == 2, "{attempt:?}");
        assert_eq!(target.received_requests().len(), count);
    }
    assert!(accepting.received_requests()[1].contains("\"resolve\""));
}

#[tokio::test]
async fn every_instance_of_alertmanager_gets_a_batch_and_one_may_be_away() {
    let target = Target::serve_script(|_| answer(200, "", "")).await;
    let hanging = Target::serve_http().await;
    let settings = json!({ "urls": [hanging.url("/never/"), target.url("")], "timeout_ms": 1_000 });
    let batch = vec![samples::down(), samples::up()];

    let channel = channel(ChannelKind::Alertmanager, settings);
    let attempt = sender(Secrets::none()).send_batch(&channel, &batch).await.unwrap();

    assert!(attempt.is_delivered() && attempt.message.starts_with("1 of 2"), "{attempt:?}");
    let requests = target.received_requests();
    let (_, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap().as_array().unwrap().len(), 2);
    let other = webhook(&target.url("/"));
    assert_eq!(
        sender(Secrets::none()).send_batch(&other, &batch).await.unwrap().outcome,
        AttemptOutcome::Refused
    );
}

#[tokio::test]
async fn a_watchdog_is_requested_while_all_is_well_and_told_of_a_failure_if_it_has_a_place_for_it() {
    let target = Target::serve_script(|_| answer(200, "", "OK")).await;
    let with_place = json!({ "url": target.url("/ping"), "fail_url": target.url("/ping/fail") });
    let with_place = channel(ChannelKind::Watchdog, with_place);
    let without = channel(ChannelKind::Watchdog, json!({ "url": target.url("/ping"), "method": "POST" }));
    let sender = sender(Secrets::none());

    assert!(sender.ping(&with_place, None).await.unwrap().is_delivered());
    assert!(sender.ping(&with_place, Some("outbox is 90 s old")).await.unwrap().is_delivered());
    assert!(sender.ping(&without, Some("outbox is 90 s old")).await.is_none());
    assert!(sender.send(&without, &samples::test()).await.is_delivered());
    assert_eq!(sender.send(&without, &samples::down()).await.outcome, AttemptOutcome::Refused);

    let requests = target.received_requests();
    let lines: Vec<_> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
    assert_eq!(lines, ["GET /ping HTTP/1.1", "POST /ping/fail HTTP/1.1", "POST /ping HTTP/1.1"]);
    assert!(requests[1].ends_with("outbox is 90 s old"));
}
