#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod hostile_servers;
mod settings;

use picket_harness::{
    certificates::{CertificateAuthority, Identity, Validity},
    mail_server::{MailAnswers, MailServer, MailTls},
    servers::scratch_dir,
};
use serde_json::{Value, json};

use super::*;
use crate::{attempt::AttemptOutcome, samples};

const USER: &str = "picket";
const PASSWORD: &str = "correct-horse-battery";
const A: &str = "a@example.com";
const B: &str = "b@example.com";
const C: &str = "c@example.com";

/// A certificate for `name`, and the file of its authority.
fn issue_for(name: &str) -> (Identity, String) {
    let authority = CertificateAuthority::new();
    let file = scratch_dir("ca").join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    (authority.issue_identity(&[name], Validity::Current), file.to_str().unwrap().to_owned())
}

fn settings_for(port: u16, security: &str, ca_file: Option<&str>) -> EmailSettings {
    let settings = json!({
        "host": "localhost", "port": port, "security": security, "ca_file": ca_file, "timeout_ms": 6_000,
        "from": "Picket <picket@example.com>", "to": [format!("Ann <{A}>"), B, C],
    });
    serde_json::from_value(settings).unwrap()
}

fn with_login(settings: EmailSettings) -> EmailSettings {
    let password = serde_json::from_value(json!({"secret": "mail"})).unwrap();
    EmailSettings { user: Some(USER.to_owned()), password: Some(password), ..settings }
}

/// A sender that may go to this machine, trusts no authority, and knows a password for `port`.
fn sender_for(port: u16, password: &str) -> EmailSender {
    let file = scratch_dir("secrets").join("secrets.toml");
    std::fs::write(&file, format!("[secret.mail]\nvalue = \"{password}\"\nhosts = [\"localhost:{port}\"]\n"))
        .unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, permissions).unwrap();
    let networks = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
    let secrets = Secrets::load(&file).unwrap();
    EmailSender::new(secrets, AddressPolicy::new(&networks), Arc::new(RootCertStore::empty()))
}

fn left_by(attempt: &Attempt) -> Option<Value> {
    match &attempt.outcome {
        AttemptOutcome::Delivered { receiver_ref } | AttemptOutcome::Retry { receiver_ref, .. } => {
            receiver_ref.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn is_failing(attempt: &Attempt) -> bool {
    match &attempt.outcome {
        AttemptOutcome::Retry { is_channel_failing, .. } => *is_channel_failing,
        other => panic!("{other:?}: {}", attempt.message),
    }
}

#[tokio::test]
async fn a_message_arrives_over_starttls_with_both_parts_in_the_thread_of_its_opening() {
    let (identity, ca_file) = issue_for("localhost");
    let server = MailServer::start(MailTls::Starttls, &identity, None, MailAnswers::default()).await;
    let opening = samples::down();
    let message = Message { id: uuid::Uuid::now_v7(), thread: Some(opening.id), ..samples::up() };

    let sender = sender_for(server.port(), PASSWORD);
    let settings = settings_for(server.port(), "starttls", Some(&ca_file));
    let first = sender.deliver(&settings, &opening).await;
    let second = sender.deliver(&settings, &message).await;

    assert!(matches!(first.outcome, AttemptOutcome::Delivered { .. }), "{first:?}");
    assert_eq!(second.message, "delivered to 3 of 3; 250 2.0.0 accepted");
    assert_eq!(second.status, Some(250));
    let mails = server.mails();
    assert_eq!(mails.iter().map(|mail| mail.recipients().concat()).collect::<Vec<_>>(), [A, B, C, A, B, C]);
    for mail in &mails {
        assert_eq!(mail.0["is_encrypted"], true);
        assert_eq!(mail.0["defects"], json!([]));
        assert_eq!(mail.0["structure"], json!(["multipart/alternative", "text/plain", "text/html"]));
        assert_eq!(mail.0["from"], "picket@example.com");
        assert_eq!(mail.header("From"), "Picket <picket@example.com>");
        assert_eq!(mail.header("To"), "Ann <a@example.com>, b@example.com, c@example.com");
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        assert_eq!(mail.header("Date"), "Fri, 20 Nov 2026 12:02:08 +0000");
    }
    let opening_id = format!("<{}@example.com>", opening.id);
    assert_eq!(mails[0].header("Message-ID"), opening_id);
    assert_eq!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    assert_eq!(mails[0].headers("References"), Vec::<&str>::new());
    assert_eq!(mails[3].header("References"), opening_id);
    assert_eq!(mails[3].header("In-Reply-To"), opening_id);
    assert_eq!(mails[3].header("Message-ID"), format!("<{}@example.com>", message.id));
    assert_eq!(mails[3].header("Subject"), "UP shop.example.com: was down 12 min 4 s");
    assert!(
        mails[0].text("text/plain").contains("Regions: 3 of 4: eu-west, us-east, asia"),
        "{:?}",
        mails[0]
    );
    assert!(mails[0].text("text/html").contains("<b>DOWN shop.example.com"), "{:?}", mails[0]);
}

#[tokio::test]
async fn a_login_goes_over_implicit_tls_and_a_wrong_password_is_not_repeated() {
    let (identity, ca_file) = issue_for("localhost");
    let login = Some((USER, PASSWORD));
    let server = MailServer::start(MailTls::Implicit, &identity, login, MailAnswers::default()).await;
    let settings = with_login(settings_for(server.port(), "implicit", Some(&ca_file)));

    let good = sender_for(server.port(), PASSWORD).deliver(&settings, &samples::down()).await;
    let bad = sender_for(server.port(), "wrong-horse-battery").deliver(&settings, &samples::down()).await;

    assert!(matches!(good.outcome, AttemptOutcome::Delivered { .. }), "{good:?}");
    assert!(server.mails().iter().all(|mail| mail.0["user"] == USER && mail.0["is_encrypted"] == true));
    assert_eq!(server.mails().len(), 3);
    assert!(is_failing(&bad));
    assert_eq!(bad.status, Some(535));
    // The server's answer contains the password.
    assert!(
        bad.message.contains("user 'picket'") && bad.message.contains("no login with [redacted]"),
        "{}",
        bad.message
    );
    assert!(!format!("{bad:?}").contains("wrong-horse"), "{bad:?}");
}

#[tokio::test]
async fn a_login_that_the_secrets_file_does_not_allow_there_is_not_tried() {
    let (identity, ca_file) = issue_for("localhost");
    let login = Some((USER, PASSWORD));
    let server = MailServer::start(MailTls::Starttls, &identity, login, MailAnswers::default()).await;
    let settings = with_login(settings_for(server.port(), "starttls", Some(&ca_file)));

    let attempt = sender_for(server.port() ^ 1, PASSWORD).deliver(&settings, &samples::down()).await;

    assert!(is_failing(&attempt));
    let expected = format!("secret 'mail' may not be sent to localhost:{}", server.port());
    assert!(attempt.message.contains(&expected), "{}", attempt.message);
}

#[tokio::test]
async fn a_bad_recipient_of_three_does_not_stop_the_others_and_is_not_tried_again() {
    let (identity, _) = issue_for("localhost");
    let answers = MailAnswers::default().always("rcpt", B, "550 5.1.1 no such user").once(
        "rcpt",
        A,
        "450 4.2.1 try later",
    );
    let server = MailServer::start(MailTls::None, &identity, None, answers).await;
    let sender = sender_for(server.port(), PASSWORD);
    let settings = settings_for(server.port(), "none", None);

    let first = sender.deliver(&settings, &samples::down()).await;
    assert!(!is_failing(&first));
    assert_eq!(
        first.message,
        "delivered to 1 of 3; b@example.com: 550 5.1.1 no such user; a@example.com: 450 4.2.1 try later; \
         250 2.0.0 accepted"
    );
    assert_eq!(delivered_recipients(left_by(&first).as_ref()), [C]);

    let again = Message { receiver_ref: left_by(&first), ..samples::down() };
    let second = sender.deliver(&settings, &again).await;
    assert!(matches!(second.outcome, AttemptOutcome::Delivered { .. }), "{second:?}");
    assert!(second.message.starts_with("delivered to 2 of 3; b@example.com: 550"), "{}", second.message);
    let told: Vec<_> = server.mails().iter().map(|mail| mail.recipients().concat()).collect();
    assert_eq!(told, [C, A]);
}

#[tokio::test]
async fn a_message_that_no_recipient_will_ever_get_is_refused() {
    let (identity, _) = issue_for("localhost");
    let answers = [A, B, C].into_iter().fold(MailAnswers::default(), |answers, recipient| {
        answers.always("data", recipient, "554 5.6.0 message refused")
    });
    let server = MailServer::start(MailTls::None, &identity, None, answers).await;
    let settings = settings_for(server.port(), "none", None);

    let attempt = sender_for(server.port(), PASSWORD).deliver(&settings, &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::Refused, "{}", attempt.message);
    assert_eq!(attempt.status, Some(554));
}

#[tokio::test]
async fn a_refused_sender_marks_the_channel_as_failing_and_all_recipients_wait() {
    let (identity, _) = issue_for("localhost");
    let answers = MailAnswers::default().once("mail", "picket@example.com", "550 5.7.1 sender not allowed");
    let server = MailServer::start(MailTls::None, &identity, None, answers).await;
    let sender = sender_for(server.port(), PASSWORD);
    let settings = settings_for(server.port(), "none", None);

    let first = sender.deliver(&settings, &samples::down()).await;
    assert!(is_failing(&first));
    assert!(first.message.contains("refuses the sender: 550 5.7.1 sender not allowed"), "{}", first.message);

    let again = Message { receiver_ref: left_by(&first), ..samples::down() };
    let second = sender.deliver(&settings, &again).await;
    assert!(matches!(second.outcome, AttemptOutcome::Delivered { .. }), "{second:?}");
    assert_eq!(server.mails().len(), 3);
}

#[tokio::test]
async fn a_missing_answer_leads_to_a_marked_repetition_for_that_recipient_alone() {
    let (identity, _) = issue_for("localhost");
    let answers = MailAnswers::default().once("data", A, "hang");
    let server = MailServer::start(MailTls::None, &identity, None, answers).await;
    let sender = sender_for(server.port(), PASSWORD);
    let settings = settings_for(server.port(), "none", None);

    let first = sender.deliver(&settings, &samples::down()).await;
    assert_eq!(delivered_recipients(left_by(&first).as_ref()), [B, C], "{}", first.message);
    let again = Message { receiver_ref: left_by(&first), ..samples::down() };
    let second = sender.deliver(&settings, &again).await;

    assert!(matches!(second.outcome, AttemptOutcome::Delivered { .. }), "{second:?}");
    let mails = server.mails();
    assert_eq!(mails.iter().map(|mail| mail.recipients().concat()).collect::<Vec<_>>(), [A, B, C, A]);
    let notes: Vec<_> = mails.iter().map(|mail| mail.text("text/plain").contains("Sent again")).collect();
    assert_eq!(notes, [false, false, false, true]);
    assert_eq!(mails[0].header("Message-ID"), mails[3].header("Message-ID"));
}

#[tokio::test]
async fn names_that_a_mail_server_could_obey_change_neither_headers_nor_recipients() {
    let (identity, _) = issue_for("localhost");
    let server = MailServer::start(MailTls::None, &identity, None, MailAnswers::default()).await;
    let sender = sender_for(server.port(), PASSWORD);
    let settings = EmailSettings { to: vec![A.to_owned()], ..settings_for(server.port(), "none", None) };
    let long_name = samples::long_name();
    let names = samples::HOSTILE_NAMES.into_iter().chain([long_name.as_str(), ".\r\n.\r\nQUIT\r\n"]);
    let names: Vec<_> = names.collect();
    for name in &names {
        let attempt = sender.deliver(&settings, &samples::named(name)).await;
        assert!(matches!(attempt.outcome, AttemptOutcome::Delivered { .. }), "{name:?}: {attempt:?}");
    }

    let mails = server.mails();
    assert_eq!(mails.len(), names.len());
    let expected =
        ["message-id", "date", "from", "subject", "auto-submitted", "x-auto-response-suppress", "to"];
    for (mail, name) in mails.iter().zip(&names) {
        assert_eq!(mail.recipients(), [A]);
        assert_eq!(mail.0["defects"], json!([]), "{name:?}");
        for header in mail.0["headers"].as_array().unwrap() {
            let header = header[0].as_str().unwrap().to_lowercase();
            assert!(
                expected.contains(&header.as_str())
                    || header.starts_with("content-")
                    || header == "mime-version"
            );
        }
        assert!(
            mail.header("Subject").starts_with("DOWN ") && !mail.header("Subject").contains(['\r', '\n'])
        );
        assert_eq!(mail.0["is_ascii"], true);
        assert!(mail.0["longest_line"].as_u64().unwrap() <= 998, "{name:?}: {}", mail.0["longest_line"]);
        let html = mail.text("text/html");
        assert!(!html.contains("<script>") && !html.contains("<!channel>"), "{html}");
    }
    assert!(mails[3].header("Subject").contains("{{ 7*7 }}"), "{}", mails[3].header("Subject"));
}

#[tokio::test]
async fn a_digest_has_its_table_attached() {
    let (identity, _) = issue_for("localhost");
    let server = MailServer::start(MailTls::None, &identity, None, MailAnswers::default()).await;
    let settings = EmailSettings { to: vec![A.to_owned()], ..settings_for(server.port(), "none", None) };
    let row = "shop.example.com,\"connection \"\"refused\"\", \u{6771}\"\r\n";
    let csv = format!("name,cause\r\n{}", row.repeat(3_000));
    let message = Message { csv: Some(csv.clone()), ..samples::digest() };

    let attempt = sender_for(server.port(), PASSWORD).deliver(&settings, &message).await;

    assert!(matches!(attempt.outcome, AttemptOutcome::Delivered { .. }), "{attempt:?}");
    let mail = server.mails().remove(0);
    let parts = ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/csv"];
    assert_eq!(mail.0["structure"], json!(parts));
    assert_eq!(mail.0["parts"][2]["file_name"], "notification.csv");
    assert_eq!(mail.0["parts"][2]["charset"], "utf-8");
    assert_eq!(mail.text("text/csv").replace("\r\n", "\n"), csv.replace("\r\n", "\n"));
    assert!(mail.text("text/plain").contains("and 153 more"), "{:?}", mail.text("text/plain"));
}

#[tokio::test]
async fn templates_replace_subject_and_parts_and_a_broken_one_loses_nothing() {
    let (identity, _) = issue_for("localhost");
    let server = MailServer::start(MailTls::None, &identity, None, MailAnswers::default()).await;
    let sender = sender_for(server.port(), PASSWORD);
    let mut settings = EmailSettings { to: vec![A.to_owned()], ..settings_for(server.port(), "none", None) };
    settings.title = Some("[{{ severity }}] {{ items[0].name }}".to_owned());
    settings.body = Some("{{ items[0].name }} fails since {{ items[0].opened_at|time }}".to_owned());
    settings.check().unwrap();
    let good = sender.deliver(&settings, &samples::named("<shop> & co")).await;
    settings.html_body = Some("<p>{{ items[0].name }}</p>".to_owned());
    settings.title = Some("{{ items[7].name }}".to_owned());
    let broken = sender.deliver(&settings, &samples::named("<shop> & co")).await;

    assert!(matches!(good.outcome, AttemptOutcome::Delivered { .. }), "{good:?}");
    assert!(matches!(broken.outcome, AttemptOutcome::Delivered { .. }), "{broken:?}");
    assert!(
        broken.message.starts_with("sent in the built-in layout, because template 'title' failed: line 1:"),
        "{}",
        broken.message
    );
    let mails = server.mails();
    assert_eq!(mails[0].header("Subject"), "[critical] <shop> & co");
    assert_eq!(mails[0].0["structure"], json!(["multipart/alternative", "text/plain"]));
    assert_eq!(mails[0].text("text/plain").trim(), "<shop> & co fails since 2026-11-20 12:01:03 UTC");
    assert_eq!(mails[1].header("Subject"), "DOWN <shop> & co: connection refused");
    assert_eq!(mails[1].text("text/html").trim(), "<p>&lt;shop&gt; &amp; co</p>");
}
