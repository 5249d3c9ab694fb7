//! Certificates that are not well, and what is said of them.

use picket_prober::http::{Checker, Limits, Observation};
use picket_proto::{Cause, CheckRequest, Outcome, Timestamp};
use picket_testkit::target::{Authority, Identity, Target, Validity};

use crate::http::limits;

async fn check(authority: &Authority, request: CheckRequest) -> Observation {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let limits = Limits { ca_file: Some(file.path().to_owned()), ..limits() };
    Checker::new(&limits).unwrap().check(&request.validate().unwrap()).await
}

fn day(date: &str) -> Option<Timestamp> {
    Some(format!("{date}T00:00:00Z").parse().unwrap())
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_trusted_is_down_and_its_end_is_known() {
    let authority = Authority::new();
    for (identity, message, ends) in [
        (
            authority.certify(&["localhost"], Validity::Expired),
            "certificate expired on 2020-01-02",
            "2020-01-02",
        ),
        (
            authority.certify(&["localhost"], Validity::NotYet),
            "certificate is not valid before 2099-01-01",
            "2099-12-31",
        ),
        (
            authority.certify(&["a.example"], Validity::Good),
            "certificate is for a.example, not localhost",
            "2099-12-31",
        ),
        (Identity::self_signed(&["localhost"]), "unknown issuer", "2099-12-31"),
        (Authority::new().certify(&["localhost"], Validity::Good), "unknown issuer", "2099-12-31"),
    ] {
        let target = Target::https(&identity).await;

        let seen = check(&authority, CheckRequest::new(target.named_url("/ok"))).await;

        assert_eq!((seen.outcome, seen.cause), (Outcome::Down, Some(Cause::Tls)), "{seen:?}");
        assert_eq!(seen.message.as_deref(), Some(message));
        assert_eq!(seen.tls_expires_at, day(ends));
        assert!(seen.timing.tls_us.is_some() && seen.timing.first_byte_us.is_none(), "{seen:?}");
        assert!(target.requests().is_empty(), "nothing was asked of who could not be trusted");
    }
}

#[tokio::test]
async fn a_good_certificate_is_up_and_its_end_is_known() {
    let authority = Authority::new();
    let target = Target::https(&authority.certify(&["127.0.0.1"], Validity::Good)).await;

    let seen = check(&authority, CheckRequest::new(target.url("/ok"))).await;

    assert_eq!((seen.outcome, seen.tls_expires_at), (Outcome::Up, day("2099-12-31")), "{seen:?}");
}

#[tokio::test]
async fn without_verification_an_expired_certificate_is_up_and_its_end_is_known() {
    let authority = Authority::new();
    let target = Target::https(&authority.certify(&["b.example"], Validity::Expired)).await;
    let request = CheckRequest { tls_verify: false, ..CheckRequest::new(target.named_url("/ok")) };

    let seen = check(&authority, request).await;

    assert_eq!((seen.outcome, seen.tls_expires_at), (Outcome::Up, day("2020-01-02")), "{seen:?}");
}

#[tokio::test]
async fn https_where_plain_http_is_spoken_is_down_by_tls() {
    let target = Target::http().await;
    let url = format!("https://{}/ok", target.address());

    let seen = check(&Authority::new(), CheckRequest { timeout_ms: 2_000, ..CheckRequest::new(url) }).await;

    assert_eq!((seen.cause, seen.message.as_deref()), (Some(Cause::Tls), Some("the answer is not TLS")));
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_a_timeout_in_the_handshake() {
    let target = Target::mute().await;
    let request = CheckRequest { timeout_ms: 300, ..CheckRequest::new(target.url("/ok")) };

    let seen = check(&Authority::new(), request).await;

    assert_eq!(seen.message.as_deref(), Some("no answer within 300 ms (in the TLS handshake)"));
    assert!(seen.timing.tls_us.unwrap() > 200_000 && seen.timing.connect_us.is_some(), "{seen:?}");
    assert_eq!(seen.remote_addr, Some(target.address()));
}

#[tokio::test]
async fn a_file_of_roots_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), "/no/such/file".into()] {
        let limits = Limits { ca_file: Some(path.clone()), ..limits() };
        let error = Checker::new(&limits).err().unwrap().to_string();
        assert!(error.contains("PICKET_CA_FILE") && error.contains(path.to_str().unwrap()), "{error}");
    }
}
