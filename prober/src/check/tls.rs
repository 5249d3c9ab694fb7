//! TLS for checks: no session resumption; certificates are recorded before verification.

mod metered_crypto;
mod tls_error_text;

use std::{fmt, sync::Arc};

use picket_proto::http_options::HttpVersion;
use picket_runtime::tls_roots::parse_certificates;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

pub(super) use self::tls_error_text::explain_tls_error;
use super::{
    certificate::{Certificate, CertificateEnd},
    timing::{self, Phase},
};

/// Names of the HTTP versions in the TLS handshake (ALPN).
const HTTP1_PROTOCOL: &[u8] = b"http/1.1";
pub(super) const HTTP2_PROTOCOL: &[u8] = b"h2";

/// Certificate chain and private key that a check presents to a server.
pub(super) struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientIdentity {
    /// Reads certificates and a private key, in any order.
    ///
    /// # Errors
    /// Fails if either is missing or cannot be read. The error repeats nothing of `pem`.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        Ok(Self {
            chain: parse_certificates(pem)?,
            key: PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it holds no private key in PEM")?,
        })
    }
}

/// Builds the client configuration of checks without options. It verifies certificates against
/// `roots`, or accepts every certificate without `roots`.
///
/// # Errors
/// Fails if rustls rejects the configuration.
pub(super) fn build_client_config(roots: Option<Arc<RootCertStore>>) -> Result<ClientConfig, super::Error> {
    build_custom_config(roots, None, HttpVersion::Any)
}

/// As [`build_client_config`], with a client certificate and only one version of HTTP.
///
/// # Errors
/// Fails if rustls rejects the configuration, for example because the key is not the
/// certificate's.
pub(super) fn build_custom_config(
    roots: Option<Arc<RootCertStore>>,
    identity: Option<ClientIdentity>,
    version: HttpVersion,
) -> Result<ClientConfig, super::Error> {
    let refused = |why: &dyn fmt::Display| super::Error::Tls(why.to_string());
    let provider = Arc::new(metered_crypto::crypto_provider());
    let judge = roots
        .map(|roots| WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build())
        .transpose()
        .map_err(|why| refused(&why))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| refused(&why))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CapturingVerifier { verifier: judge, provider }));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(own.chain, own.key).map_err(|why| refused(&why))?,
    };
    config.resumption = Resumption::store(Arc::new(NoSessions));
    config.alpn_protocols = match version {
        HttpVersion::Any => vec![HTTP2_PROTOCOL.to_vec(), HTTP1_PROTOCOL.to_vec()],
        HttpVersion::Http1 => vec![HTTP1_PROTOCOL.to_vec()],
        HttpVersion::Http2 => vec![HTTP2_PROTOCOL.to_vec()],
    };
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
