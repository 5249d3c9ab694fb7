//! A system with credentials: each process with its own, over TLS, and the refusals of each
//! credential.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod bus;
mod spine;
mod tls;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use async_nats::ConnectOptions;
use parking_lot::Mutex;
use picket_e2e::program_path;
use picket_harness::{
    TlsProxy,
    servers::{self, TestNats},
    targets::{CertificateAuthority, Identity, Validity},
};
use picket_proto::Role;

/// Longer than anything here takes that goes well.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the operator's command to its end.
fn run_picket(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(program_path("picket")).args(arguments).envs(variables.iter().copied()).output().unwrap()
}

/// The same, which must succeed; returns its output.
#[track_caller]
fn run_picket_ok(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run_picket(arguments, variables);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A test's certificate authority, and the files of its certificates.
struct TlsFiles {
    authority: CertificateAuthority,
    server: Option<Identity>,
    dir: PathBuf,
}

impl TlsFiles {
    fn new() -> Self {
        let papers = Self {
            authority: CertificateAuthority::new(),
            server: None,
            dir: servers::scratch_dir("papers"),
        };
        fs::write(papers.ca_path(), papers.authority.pem()).unwrap();
        papers.issue_identity("client", &["picket"]);
        let server = papers.issue_identity("server", &["127.0.0.1"]);
        Self { server: Some(server), ..papers }
    }

    fn issue_identity(&self, name: &str, names: &[&str]) -> Identity {
        let identity: Identity = self.authority.issue_identity(names, Validity::Current);
        let (certificate, key) = identity.pem();
        fs::write(self.file_path(&format!("{name}.pem")), certificate).unwrap();
        fs::write(self.file_path(&format!("{name}-key.pem")), key).unwrap();
        identity
    }

    /// TLS for the Postgres on this port, with required client certificates.
    async fn start_tls_proxy(&self, port: u16, clients: Option<&CertificateAuthority>) -> TlsProxy {
        TlsProxy::start(self.server.as_ref().unwrap(), clients, port).await
    }

    fn file_path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn ca_path(&self) -> String {
        self.file_path("ca.pem")
    }
}

/// A nats-server with the configuration that `picket nats init` writes for these regions.
struct SecuredNats {
    server: TestNats,
    dir: PathBuf,
}

impl SecuredNats {
    async fn start(regions: &[&str], options: &[&str]) -> Self {
        let dir = servers::scratch_dir("bus");
        let mut arguments: Vec<String> =
            ["nats", "init", "--replace", "--dir", dir.to_str().unwrap()].map(str::to_owned).to_vec();
        arguments.extend(regions.iter().flat_map(|region| ["--region".to_owned(), (*region).to_owned()]));
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let file = dir.join("nats.conf");
        let server = servers::start_nats_with_config(move |port| {
            let listen = format!("127.0.0.1:{port}");
            let arguments: Vec<&str> =
                arguments.iter().map(String::as_str).chain(["--listen", &listen]).collect();
            run_picket_ok(&arguments, &[]);
            file.clone()
        })
        .await;
        Self { server, dir }
    }

    /// The file with the seed of a user.
    fn seed_path(&self, user: &str) -> String {
        self.dir.join("creds").join(format!("{user}.nk")).to_str().unwrap().to_owned()
    }

    /// A client with the credential of a user, and the errors that the server sends it.
    async fn connect_client(&self, user: &str) -> (async_nats::Client, ServerErrors) {
        self.connect_with(user, ConnectOptions::new()).await
    }

    /// The same over TLS, with a certificate of its own.
    async fn connect_tls_client(&self, user: &str, papers: &TlsFiles) -> (async_nats::Client, ServerErrors) {
        let options = ConnectOptions::new()
            .add_root_certificates(papers.ca_path().into())
            .add_client_certificate(
                papers.file_path("client.pem").into(),
                papers.file_path("client-key.pem").into(),
            )
            .require_tls(true);
        self.connect_with(user, options).await
    }

    async fn connect_with(&self, user: &str, options: ConnectOptions) -> (async_nats::Client, ServerErrors) {
        let complaints = ServerErrors::default();
        let heard = complaints.clone();
        let seed = fs::read_to_string(self.seed_path(user)).unwrap();
        let client = options
            .nkey(seed.trim().to_owned())
            .custom_inbox_prefix(user.parse::<Role>().unwrap().inbox_prefix())
            .event_callback(move |event| {
                heard.0.lock().push(event.to_string().to_lowercase());
                std::future::ready(())
            })
            .connect(self.server.url())
            .await
            .unwrap();
        (client, complaints)
    }
}

/// Errors that a server sent to a client outside of an answer.
#[derive(Clone, Default)]
struct ServerErrors(Arc<Mutex<Vec<String>>>);

impl ServerErrors {
    fn contains_text(&self, what: &str) -> bool {
        self.0.lock().iter().any(|said| said.contains(&what.to_lowercase()))
    }
}

/// A path as text.
fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}
