//! TLS for checks: nothing is resumed, the certificate is noted before it is judged.

use std::{fmt, path::Path, sync::Arc};

use der::{Decode, Reader, SliceReader, Tag, Tagged, asn1::AnyRef};
use picket_proto::Timestamp;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tracing::warn;

use super::phases::{self, Marks, Stage};

/// The platform's roots and those of `ca_file`.
///
/// # Errors
/// When the file cannot be read, or when there is not one root.
pub(super) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, super::Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(%error, "some of the platform's root certificates could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = ca_file {
        let unusable = |why: String| super::Error::CaFile { path: path.display().to_string(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|why| unusable(why.to_string()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(unusable("it holds no certificate".to_owned()));
        }
    }
    match roots.is_empty() {
        true => Err(super::Error::NoRoots),
        false => Ok(roots),
    }
}

/// A client's settings that judge certificates by `roots`, or take every one when there are none given.
///
/// # Errors
/// When rustls refuses them.
pub(super) fn config(roots: Option<Arc<RootCertStore>>) -> Result<ClientConfig, super::Error> {
    let refused = |why: &dyn fmt::Display| super::Error::Tls(why.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let judge = roots
        .map(|roots| WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build())
        .transpose()
        .map_err(|why| refused(&why))?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| refused(&why))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Witness { judge, provider }))
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(NoSessions));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Keeps no session, so that each handshake is a whole one; is asked first of all, when a handshake begins.
#[derive(Debug)]
struct NoSessions;

impl ClientSessionStore for NoSessions {
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        phases::mark(|marks| marks.enter(Stage::Tls));
        None
    }

    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// Notes when the certificate ends, then leaves the judging to webpki, or judges nothing.
#[derive(Debug)]
struct Witness {
    judge: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        phases::mark(|marks: &Marks| marks.set_certificate_ends(not_after(end_entity)));
        match &self.judge {
            Some(judge) => {
                judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// When a certificate ends, read from as little of it as needed, so that a strange one tells it too.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let whole = AnyRef::from_der(certificate).ok()?;
    let mut outer = SliceReader::new(whole.value()).ok()?;
    let signed = AnyRef::decode(&mut outer).ok()?;
    let mut fields = SliceReader::new(signed.value()).ok()?;
    let first = AnyRef::decode(&mut fields).ok()?;
    // The version is the one tagged field before the serial number; certificates of version 1 leave it out.
    let before_validity = if first.tag() == Tag::Integer { 2 } else { 3 };
    for _ in 0..before_validity {
        AnyRef::decode(&mut fields).ok()?;
    }
    let validity = AnyRef::decode(&mut fields).ok()?;
    let mut moments = SliceReader::new(validity.value()).ok()?;
    AnyRef::decode(&mut moments).ok()?;
    let end: AnyRef<'_> = moments.decode().ok()?;
    let since_epoch = match end.tag() {
        Tag::UtcTime => end.decode_as::<der::asn1::UtcTime>().ok()?.to_unix_duration(),
        Tag::GeneralizedTime => end.decode_as::<der::asn1::GeneralizedTime>().ok()?.to_unix_duration(),
        _ => return None,
    };
    Some(Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)))
}

/// Why a handshake failed, for a person.
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => explain_certificate(why),
        Error::AlertReceived(alert) => format!("the server refused the TLS handshake ({alert:?})"),
        Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        Error::PeerIncompatible(_) => "no TLS version or cipher in common with the server".to_owned(),
        Error::NoCertificatesPresented => "the server showed no certificate".to_owned(),
        other => other.to_string(),
    }
}

fn explain_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", date(*not_before))
        }
        CertificateError::UnknownIssuer => "unknown issuer".to_owned(),
        CertificateError::NotValidForName => "certificate is for another host".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("certificate is for {}, not {}", names(presented), expected.to_str())
        }
        CertificateError::BadEncoding => "certificate cannot be read".to_owned(),
        CertificateError::BadSignature => "certificate's signature is wrong".to_owned(),
        CertificateError::Revoked => "certificate was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for servers".to_owned()
        }
        other => format!("certificate is not to be trusted: {other}"),
    }
}

fn date(moment: UnixTime) -> String {
    let moment =
        Timestamp::from_millis(i64::try_from(moment.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000));
    moment.datetime().date().to_string()
}

/// The names in rustls's list, which has them as `DnsName("a.example")`.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<&str> = presented
        .iter()
        .take(SHOWN)
        .map(|name| {
            let name = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
            name.trim_end_matches(')').trim_matches('"')
        })
        .collect();
    if presented.len() > SHOWN {
        shown.push("others");
    }
    match shown.is_empty() {
        true => "no name".to_owned(),
        false => shown.join(", "),
    }
}
