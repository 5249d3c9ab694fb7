//! TLS for checks: no session resumption; certificates are recorded before verification.

mod metered_crypto;
mod tls_error_text;

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tracing::warn;

pub(super) use self::tls_error_text::explain_tls_error;
use super::{
    certificate::{Certificate, CertificateEnd},
    timing::{self, Phase},
};

/// Loads the platform's root certificates and the certificates in `ca_file`.
///
/// # Errors
/// Fails if the file is unreadable, or if no root certificate exists at all.
pub(super) fn load_roots(ca_file: Option<&Path>) -> Result<RootCertStore, super::Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(%error, "failed to load some root certificates of the platform");
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

/// Builds a client configuration that verifies certificates against `roots`, or accepts every
/// certificate without `roots`.
///
/// # Errors
/// Fails if rustls rejects the configuration.
pub(super) fn build_client_config(roots: Option<Arc<RootCertStore>>) -> Result<ClientConfig, super::Error> {
    let refused = |why: &dyn fmt::Display| super::Error::Tls(why.to_string());
    let provider = Arc::new(metered_crypto::crypto_provider());
    let judge = roots
        .map(|roots| WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build())
        .transpose()
        .map_err(|why| refused(&why))?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| refused(&why))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CapturingVerifier { verifier: judge, provider }))
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(NoSessions));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Session store without sessions: every handshake is a full handshake. rustls queries the store
/// first, which marks the start of the TLS phase.
#[derive(Debug)]
struct NoSessions;

impl ClientSessionStore for NoSessions {
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        timing::update_recorder(|marks| marks.enter_phase(Phase::Tls));
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

/// Records the certificate, then verifies it with webpki, or accepts it unverified.
#[derive(Debug)]
struct CapturingVerifier {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CapturingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        timing::update_recorder(|marks| {
            let first_end =
                CertificateEnd::find_first(end_entity, intermediates.iter().map(|other| &other[..]));
            marks.set_certificate(Certificate::parse_der(end_entity, intermediates.len()), first_end);
        });
        match &self.verifier {
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
