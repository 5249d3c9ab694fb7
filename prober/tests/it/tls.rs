//! Invalid certificates, and their messages.

use picket_harness::targets::{CertificateAuthority, Identity, Step, Target, TlsQuirk, Validity};
use picket_prober::check::{CheckLimits, Checker, Observation};
use picket_proto::{Cause, CheckRequest, Outcome, Timestamp};

use crate::{http::test_limits, memory::run_alone};

async fn check_trusting(authority: &CertificateAuthority, request: CheckRequest) -> Observation {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let limits = CheckLimits { ca_file: Some(file.path().to_owned()), ..test_limits() };
    Checker::new(&limits).unwrap().run_check(&request.validate().unwrap()).await
}

fn parse_day(date: &str) -> Option<Timestamp> {
    Some(format!("{date}T00:00:00Z").parse().unwrap())
}

#[tokio::test]
async fn an_untrusted_certificate_is_down_with_its_expiry() {
    let authority = CertificateAuthority::new();
    let stale = authority.new_intermediate(Validity::Expired);
    let missing = authority
        .new_intermediate(Validity::Current)
        .issue_identity(&["localhost"], Validity::Current)
        .without_chain();
    let stranger = CertificateAuthority::new()
        .new_intermediate(Validity::Current)
        .issue_identity(&["localhost"], Validity::Current);
    for (identity, message, ends) in [
        (
            authority.issue_identity(&["localhost"], Validity::Expired),
            "certificate expired on 2020-01-02 at 00:00 UTC",
            "2020-01-02",
        ),
        (
            authority.issue_identity(&["localhost"], Validity::NotYetValid),
            "certificate is not valid before 2099-01-01 at 00:00 UTC",
            "2099-12-31",
        ),
        (
            authority.issue_identity(&["a.example"], Validity::Current),
            "certificate is for a.example, not localhost",
            "2099-12-31",
        ),
        (
            authority
                .issue_identity(&["*.a.example", "a.example", "b.example", "c.example"], Validity::Current),
            "certificate is for *.a.example, a.example, b.example and 1 more, not localhost",
            "2099-12-31",
        ),
        (
            Identity::self_signed(&["localhost"]),
            "certificate is self-signed, by nobody who is trusted",
            "2099-12-31",
        ),
        (
            CertificateAuthority::new().issue_identity(&["localhost"], Validity::Current),
            "unknown issuer: 'test authority N', and the server sent no intermediate certificate",
            "2099-12-31",
        ),
        (
            missing,
            "unknown issuer: 'test authority N', and the server sent no intermediate certificate",
            "2099-12-31",
        ),
        (
            stranger,
            "unknown issuer: 'test authority N', whose chain leads to nobody who is trusted",
            "2099-12-31",
        ),
        (
            stale.issue_identity(&["localhost"], Validity::Current),
            "a certificate of the chain expired on 2020-01-02 at 00:00 UTC",
            "2099-12-31",
        ),
    ] {
        let target = Target::serve_https(&identity).await;

        let seen = check_trusting(&authority, CheckRequest::new(target.localhost_url("/ok"))).await;

        assert_eq!((seen.outcome, seen.cause), (Outcome::Down, Some(Cause::Tls)), "{seen:?}");
        let said = seen.message.clone().unwrap();
        let number = |letter: char| letter.is_ascii_digit();
        let said = match said.contains("test authority") {
            true => said.replacen(number, "N", 1).replace(number, ""),
            false => said,
        };
        assert_eq!(said, message);
        assert_eq!(seen.tls_expires_at, parse_day(ends), "{message}");
        assert!(seen.timing.tls_us.is_some() && seen.timing.first_byte_us.is_none(), "{seen:?}");
        assert!(target.received_requests().is_empty(), "no request was sent to an untrusted server");
    }
}

#[tokio::test]
async fn a_complete_chain_is_trusted_by_its_root() {
    let authority = CertificateAuthority::new();
    let identity =
        authority.new_intermediate(Validity::Current).issue_identity(&["localhost"], Validity::Current);
    let target = Target::serve_https(&identity).await;

    let seen = check_trusting(&authority, CheckRequest::new(target.localhost_url("/ok"))).await;

    assert_eq!((seen.outcome, seen.tls_expires_at), (Outcome::Up, parse_day("2099-12-31")), "{seen:?}");
}

#[tokio::test]
async fn a_failed_handshake_is_down_by_tls_with_the_reason() {
    let alert = |description: u8| vec![Step::Send(vec![21, 3, 3, 0, 2, 2, description])];
    // A ServerHello of TLS 1.0 that takes a cipher of that time.
    let mut old = vec![22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    old.extend([7; 32]);
    old.extend([0, 0, 0x2f, 0]);
    for (steps, message) in [
        (alert(70), "no TLS version in common with the server: it speaks neither 1.2 nor 1.3"),
        (vec![Step::Send(old)], "no TLS version in common with the server: it speaks neither 1.2 nor 1.3"),
        (
            alert(40),
            "the server refused the TLS handshake (HandshakeFailure): no cipher in common, or a host that it does not know",
        ),
        (alert(112), "the server refused the TLS handshake: it does not know the host (UnrecognisedName)"),
        (alert(80), "the server refused the TLS handshake (InternalError)"),
        (vec![], "connection closed in the TLS handshake"),
        (vec![Step::Reset], "connection reset in the TLS handshake"),
        (vec![Step::send("HTTP/1.1 400 Bad Request\r\n\r\n")], "the answer is not TLS"),
        (vec![Step::send("SSH-2.0-OpenSSH_9.6\r\n"), Step::Stall], "the answer is not TLS"),
    ] {
        let target = Target::serve_raw_steps(&steps).await;

        let seen =
            check_trusting(&CertificateAuthority::new(), CheckRequest::new(target.localhost_url("/"))).await;

        assert_eq!((seen.cause, seen.message.as_deref()), (Some(Cause::Tls), Some(message)));
        assert!(seen.timing.tls_us.is_some() && seen.timing.first_byte_us.is_none(), "{seen:?}");
        assert_eq!(seen.tls_expires_at, None);
    }
}

#[tokio::test]
async fn a_server_with_incompatible_tls_requirements_is_down_by_tls() {
    let authority = CertificateAuthority::new();
    for (quirk, message) in [
        (
            TlsQuirk::NoUsableCipher,
            "the server refused the TLS handshake (HandshakeFailure): no cipher in common",
        ),
        (TlsQuirk::OtherProtocol, "the server speaks neither HTTP/1.1 nor HTTP/2 (NoApplicationProtocol)"),
        (TlsQuirk::WantsClientCert, "the server asks for a client's certificate (CertificateRequired)"),
    ] {
        let identity = authority.issue_identity(&["localhost"], Validity::Current);
        let target = Target::serve_odd_https(&identity, quirk).await;

        let seen = check_trusting(&authority, CheckRequest::new(target.localhost_url("/ok"))).await;

        assert_eq!(seen.cause, Some(Cause::Tls), "{quirk:?}: {seen:?}");
        assert!(seen.message.as_deref().unwrap().starts_with(message), "{seen:?}");
    }
}

#[tokio::test]
async fn a_missing_close_notify_is_accepted_only_for_a_body_that_ends_with_the_connection() {
    let authority = CertificateAuthority::new();
    for (head, outcome) in [("", Outcome::Up), ("content-length: 100\r\n", Outcome::Down)] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\nall is well");
        let steps = move |_: &str| vec![Step::send(&answer), Step::Abandon];
        let identity = authority.issue_identity(&["localhost"], Validity::Current);
        let target = Target::serve_script_https(&identity, steps).await;

        let seen = check_trusting(&authority, CheckRequest::new(target.localhost_url("/"))).await;

        assert_eq!((seen.outcome, seen.body_bytes), (outcome, 11), "{seen:?}");
    }
}

#[tokio::test]
async fn the_earliest_expiry_of_all_hops_is_reported() {
    let authority = CertificateAuthority::new();
    let last = Target::serve_https(&authority.issue_identity(&["localhost"], Validity::Current)).await;
    let first = Target::serve_https(&authority.issue_identity(&["localhost"], Validity::Expired)).await;
    let url = first.localhost_url(&format!("/to/{}", last.localhost_url("/ok")));

    let seen = check_trusting(&authority, CheckRequest { tls_verify: false, ..CheckRequest::new(url) }).await;

    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");
    assert_eq!(seen.tls_expires_at, parse_day("2020-01-02"));
}

#[test]
fn the_roots_in_ssl_cert_file_are_trusted() {
    let authority = CertificateAuthority::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let identity = authority.issue_identity(&["localhost"], Validity::Current);
    let target = runtime.block_on(Target::serve_https(&identity));
    let url = target.localhost_url("/ok");

    let variables = [("SSL_CERT_FILE", file.path().as_os_str()), ("CHECKED_URL", url.as_ref())];
    run_alone("tls::measure_check_with_system_roots", &variables);
}

#[tokio::test]
#[ignore = "run by the_roots_in_ssl_cert_file_are_trusted in a process of its own"]
async fn measure_check_with_system_roots() {
    // By itself there is nothing to check.
    let Ok(url) = std::env::var("CHECKED_URL") else { return };
    let seen = crate::http::check_with_limits(&CheckRequest::new(url)).await;
    assert_eq!(seen.outcome, Outcome::Up, "{seen:?}");
}

#[tokio::test]
async fn a_valid_certificate_is_up_with_its_expiry() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_https(&authority.issue_identity(&["127.0.0.1"], Validity::Current)).await;

    let seen = check_trusting(&authority, CheckRequest::new(target.url("/ok"))).await;

    assert_eq!((seen.outcome, seen.tls_expires_at), (Outcome::Up, parse_day("2099-12-31")), "{seen:?}");
}

#[tokio::test]
async fn without_verification_an_expired_certificate_is_up_with_its_expiry() {
    let authority = CertificateAuthority::new();
    let target = Target::serve_https(&authority.issue_identity(&["b.example"], Validity::Expired)).await;
    let request = CheckRequest { tls_verify: false, ..CheckRequest::new(target.localhost_url("/ok")) };

    let seen = check_trusting(&authority, request).await;

    assert_eq!((seen.outcome, seen.tls_expires_at), (Outcome::Up, parse_day("2020-01-02")), "{seen:?}");
}

#[tokio::test]
async fn https_to_a_plain_http_port_is_down_by_tls() {
    let target = Target::serve_http().await;
    let url = format!("https://{}/ok", target.address());

    let seen = check_trusting(
        &CertificateAuthority::new(),
        CheckRequest { timeout_ms: 2_000, ..CheckRequest::new(url) },
    )
    .await;

    assert_eq!((seen.cause, seen.message.as_deref()), (Some(Cause::Tls), Some("the answer is not TLS")));
}

#[tokio::test]
async fn an_endless_handshake_is_a_timeout_in_the_handshake() {
    let target = Target::serve_silence().await;
    let request = CheckRequest { timeout_ms: 300, ..CheckRequest::new(target.url("/ok")) };

    let seen = check_trusting(&CertificateAuthority::new(), request).await;

    assert_eq!(seen.message.as_deref(), Some("no answer within 300 ms (in the TLS handshake)"));
    assert!(seen.timing.tls_us.unwrap() > 200_000 && seen.timing.connect_us.is_some(), "{seen:?}");
    assert_eq!(seen.remote_addr, Some(target.address()));
}

#[tokio::test]
async fn an_unusable_root_certificate_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), "/no/such/file".into()] {
        let limits = CheckLimits { ca_file: Some(path.clone()), ..test_limits() };
        let error = Checker::new(&limits).err().unwrap().to_string();
        assert!(error.contains("PICKET_CA_FILE") && error.contains(path.to_str().unwrap()), "{error}");
    }
}
