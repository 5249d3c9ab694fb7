//! Client certificates and certificate authorities, which sites name and probers have.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use picket_harness::targets::{CertificateAuthority, Identity, Target, Validity};
use picket_prober::check::{CheckLimits, Checker, ClientOptions, Observation};
use picket_proto::{Cause, CheckRequest, HttpOptions, Outcome};
use picket_runtime::{Secrets, secrets::ReloadOutcome};
use tempfile::TempDir;

use crate::http::{assert_down, test_limits};

/// The files of a prober, and a checker that uses them.
pub(crate) struct Prober {
    directory: TempDir,
    secrets: Secrets,
    checker: Checker,
}

impl Prober {
    /// A prober with this secrets file and the files `files`, that trusts `authority`.
    pub(crate) fn new(authority: &CertificateAuthority, toml: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files.iter().chain(&[("secrets.toml", toml), ("roots.pem", authority.pem())]) {
            write_private(&directory.path().join(name), text);
        }
        let secrets = Secrets::load(&directory.path().join("secrets.toml")).unwrap();
        let limits = CheckLimits { ca_file: Some(directory.path().join("roots.pem")), ..test_limits() };
        let options = ClientOptions { secrets: secrets.clone(), ..ClientOptions::default() };
        let checker = Checker::with_options(&limits, options).unwrap();
        Self { directory, secrets, checker }
    }

    pub(crate) async fn check(&self, url: impl Into<String>, options: &str) -> Observation {
        self.check_within(url, options, 5_000).await
    }

    pub(crate) async fn check_within(
        &self,
        url: impl Into<String>,
        options: &str,
        timeout_ms: i64,
    ) -> Observation {
        let options: HttpOptions = serde_json::from_str(options).unwrap();
        let request = CheckRequest { options, timeout_ms, ..CheckRequest::new(url) };
        self.checker.run_check(&request.validate().unwrap()).await
    }

    /// Changes a file, as an operator who renews a certificate does.
    fn replace_file(&self, name: &str, text: &str) {
        write_private(&self.directory.path().join(name), text);
        assert_eq!(self.secrets.reload_if_changed(), ReloadOutcome::Reloaded);
    }
}

pub(crate) fn write_private(path: &Path, text: &str) {
    let staged = path.with_extension("staged");
    fs::write(&staged, text).unwrap();
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(staged, path).unwrap();
}

fn identity_pem(identity: &Identity) -> String {
    let (certificate, key) = identity.pem();
    format!("{certificate}{key}")
}

pub(crate) fn certify(authority: &CertificateAuthority, name: &str) -> Identity {
    authority.issue_identity(&[name], Validity::Current)
}

const CLIENT_SECRETS: &str = r#"
    [secret.client]
    value_file = "client.pem"
    hosts = ["localhost:PORT"]
"#;

#[tokio::test]
async fn a_client_certificate_is_presented_to_the_origin_of_the_url_alone() {
    let (authority, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let own = Target::serve_https_for_clients(&certify(&authority, "localhost"), &clients).await;
    let other = Target::serve_https_for_clients(&certify(&authority, "localhost"), &clients).await;
    let toml = CLIENT_SECRETS.replace("PORT", &own.address().port().to_string());
    let prober =
        Prober::new(&authority, &toml, &[("client.pem", &identity_pem(&certify(&clients, "picket")))]);
    let options = r#"{"client_certificate": "client"}"#;

    let seen = prober.check(own.localhost_url("/ok"), options).await;
    assert_eq!((seen.outcome, seen.http_status), (Outcome::Up, Some(200)), "{seen:?}");
    let seen = prober.check(own.localhost_url("/ok"), "{}").await;
    assert_down(&seen, Cause::Tls, "the server asks for a client's certificate");
    let there = own.localhost_url(&format!("/to/{}", other.localhost_url("/ok")));
    let seen = prober.check(there, options).await;
    assert_down(&seen, Cause::Tls, "the server asks for a client's certificate");
    assert_eq!((seen.redirects, other.received_requests().len()), (1, 0));
    // This server negotiates no version of HTTP.
    let seen = prober
        .check(own.localhost_url("/ok"), r#"{"client_certificate": "client", "http_version": "1.1"}"#)
        .await;
    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("1.1")), "{seen:?}");
    let seen = prober
        .check(own.localhost_url("/ok"), r#"{"client_certificate": "client", "http_version": "2"}"#)
        .await;
    assert_down(&seen, Cause::Http, "the server does not speak HTTP/2");
}

#[tokio::test]
async fn a_client_certificate_goes_to_no_host_that_its_entry_does_not_list() {
    let (authority, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let target = Target::serve_https_for_clients(&certify(&authority, "localhost"), &clients).await;
    let toml = CLIENT_SECRETS.replace("PORT", "1");
    let prober =
        Prober::new(&authority, &toml, &[("client.pem", &identity_pem(&certify(&clients, "picket")))]);

    let seen = prober.check(target.localhost_url("/ok"), r#"{"client_certificate": "client"}"#).await;
    let place = format!("secret 'client' may not be sent to localhost:{}", target.address().port());
    assert_down(&seen, Cause::SecretUnavailable, &place);
    let seen = prober.check(target.localhost_url("/ok"), r#"{"client_certificate": "other"}"#).await;
    assert_down(&seen, Cause::SecretUnavailable, "secret 'other' is not in the secrets file");
    assert_eq!((seen.outcome, target.accepted_connections()), (Outcome::Missed, 0));
}

#[tokio::test]
async fn a_changed_client_certificate_is_presented_from_the_next_check_on() {
    let (authority, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
    let target = Target::serve_https_for_clients(&certify(&authority, "localhost"), &clients).await;
    let toml = CLIENT_SECRETS.replace("PORT", &target.address().port().to_string());
    let stranger = certify(&CertificateAuthority::new(), "picket");
    let prober = Prober::new(&authority, &toml, &[("client.pem", &identity_pem(&stranger))]);
    let options = r#"{"client_certificate": "client"}"#;

    let refused = prober.check(target.localhost_url("/ok"), options).await;
    prober.replace_file("client.pem", &identity_pem(&certify(&clients, "picket")));
    let accepted = prober.check(target.localhost_url("/ok"), options).await;
    prober.replace_file("client.pem", "no certificate");
    let unusable = prober.check(target.localhost_url("/ok"), options).await;

    assert_down(&refused, Cause::Tls, "the server refused the TLS handshake");
    assert_eq!(accepted.outcome, Outcome::Up, "{accepted:?}");
    assert_down(
        &unusable,
        Cause::SecretUnavailable,
        "client certificate 'client' of this prober cannot be used",
    );
}

#[tokio::test]
async fn the_named_authority_alone_is_trusted_for_the_origin_of_the_url() {
    let (usual, office) = (CertificateAuthority::new(), CertificateAuthority::new());
    let of_office = Target::serve_http2(&certify(&office, "localhost")).await;
    let of_usual = Target::serve_https(&certify(&usual, "localhost")).await;
    let toml = "[ca.office]\nfile = \"office.pem\"";
    let prober = Prober::new(&usual, toml, &[("office.pem", office.pem())]);
    let options = r#"{"ca": "office"}"#;

    let seen = prober.check(of_office.localhost_url("/ok"), options).await;
    assert_eq!((seen.outcome, seen.http_version), (Outcome::Up, Some("2")), "{seen:?}");
    let seen = prober.check(of_office.localhost_url("/ok"), "{}").await;
    assert_down(&seen, Cause::Tls, "unknown issuer");
    let seen = prober.check(of_usual.localhost_url("/ok"), options).await;
    assert_down(&seen, Cause::Tls, "unknown issuer");
    let seen = prober.check(of_usual.localhost_url("/ok"), r#"{"ca": "other"}"#).await;
    assert_down(&seen, Cause::SecretUnavailable, "ca 'other' is not in the secrets file");

    // Another origin is verified by the usual authorities.
    let first = Target::serve_https(&certify(&office, "localhost")).await;
    let to_usual = first.localhost_url(&format!("/to/{}", of_usual.localhost_url("/ok")));
    let seen = prober.check(to_usual, options).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");
    let to_office = first.localhost_url(&format!("/to/{}", of_office.localhost_url("/ok")));
    assert_down(&prober.check(to_office, options).await, Cause::Tls, "unknown issuer");

    prober.replace_file("office.pem", usual.pem());
    let seen = prober.check(of_usual.localhost_url("/ok"), options).await;
    assert_eq!(seen.outcome, Outcome::Up, "{seen:?}");
    let seen = prober.check(of_office.localhost_url("/ok"), options).await;
    assert_down(&seen, Cause::Tls, "unknown issuer");
}
