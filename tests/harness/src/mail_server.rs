//! A mail server (aiosmtpd, a package of Python) that records what it accepts.

use std::{fs, path::PathBuf, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
};

use crate::{certificates::Identity, servers};

/// Encryption that the server demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// None, and no offer of it.
    None,
    /// By the command STARTTLS.
    Starttls,
    /// From the first byte.
    Implicit,
}

/// Answers that the server gives instead of acceptance, by stage (`mail`, `rcpt`, `data`) and
/// address. The answer `hang` to `data` means acceptance without an answer.
#[derive(Clone, Debug, Default)]
pub struct MailAnswers {
    once: Vec<(&'static str, &'static str, &'static str)>,
    always: Vec<(&'static str, &'static str, &'static str)>,
}

impl MailAnswers {
    /// Adds an answer that is given once.
    #[must_use]
    pub fn once(mut self, stage: &'static str, address: &'static str, answer: &'static str) -> Self {
        self.once.push((stage, address, answer));
        self
    }

    /// Adds an answer that is always given.
    #[must_use]
    pub fn always(mut self, stage: &'static str, address: &'static str, answer: &'static str) -> Self {
        self.always.push((stage, address, answer));
        self
    }
}

/// A running mail server. Ends when dropped.
pub struct MailServer {
    directory: PathBuf,
    port: u16,
    _process: Child,
}

/// A message that the server has accepted, as Python's `email` package reads it.
#[derive(Clone, Debug)]
pub struct ReceivedMail(pub Value);

impl ReceivedMail {
    /// Values of all headers of a name.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let all = self.0["headers"].as_array().into_iter().flatten();
        let named = all.filter(|pair| pair[0].as_str().is_some_and(|found| found.eq_ignore_ascii_case(name)));
        named.filter_map(|pair| pair[1].as_str()).collect()
    }

    /// Value of the only header of a name.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let [value] = self.headers(name)[..] else { panic!("one header {name}: {}", self.0["headers"]) };
        value
    }

    /// Text of the only part of a type.
    #[track_caller]
    pub fn text(&self, content_type: &str) -> &str {
        let parts = self.0["parts"].as_array().into_iter().flatten();
        let texts: Vec<_> =
            parts.filter(|part| part["type"] == content_type).map(|part| &part["text"]).collect();
        let [Value::String(text)] = texts[..] else { panic!("one part {content_type}: {}", self.0) };
        text
    }

    /// Recipients of the transaction.
    pub fn recipients(&self) -> Vec<&str> {
        self.0["to"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

impl MailServer {
    /// Starts a server with the certificate of `identity`. It demands `login`, a user and a password,
    /// if given.
    pub async fn start(
        tls: MailTls,
        identity: &Identity,
        login: Option<(&str, &str)>,
        answers: MailAnswers,
    ) -> Self {
        static PACKAGES: OnceCell<PathBuf> = OnceCell::const_new();
        let packages = PACKAGES.get_or_init(install_packages).await;
        let directory = servers::scratch_dir("mail");
        let (certificate, key) = identity.pem();
        fs::write(directory.join("certificate.pem"), certificate).expect("a certificate is written");
        fs::write(directory.join("key.pem"), key).expect("a key is written");
        let settings = json!({
            "tls": match tls {
                MailTls::None => "none",
                MailTls::Starttls => "starttls",
                MailTls::Implicit => "implicit",
            },
            "login": login.map(|(user, password)| [user, password]),
            "once": group_answers(&answers.once),
            "always": group_answers(&answers.always),
        });
        let mut process = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/smtp_server.py"))
            .arg(&directory)
            .arg(settings.to_string())
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 runs");
        let output = process.stdout.take().expect("its output is a pipe");
        let line = BufReader::new(output).lines().next_line().await;
        let line = line.expect("its output can be read").expect("the mail server prints its port");
        Self { directory, port: line.parse().expect("a port"), _process: process }
    }

    /// Listen port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Messages accepted so far, in order.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        (1..).map_while(|number| self.read_mail(number)).collect()
    }

    fn read_mail(&self, number: usize) -> Option<ReceivedMail> {
        let text = fs::read_to_string(self.directory.join(format!("{number}.json"))).ok()?;
        Some(ReceivedMail(serde_json::from_str(&text).expect("the server writes JSON")))
    }
}

fn group_answers(answers: &[(&str, &str, &str)]) -> Value {
    let mut grouped = json!({});
    for (stage, address, answer) in answers {
        grouped[stage][address] = json!(answer);
    }
    grouped
}

async fn install_packages() -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let output = Command::new(root.join("tools/install-packages"))
        .arg(servers::tools_dir())
        .arg("smtp")
        .arg(root.join("tests/harness/smtp-requirements.txt"))
        .stderr(Stdio::inherit())
        .output()
        .await
        .expect("tools/install-packages runs");
    assert!(output.status.success(), "tools/install-packages failed ({}); above is why", output.status);
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
