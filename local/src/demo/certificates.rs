//! A certificate authority with two certificates: valid, and expired since yesterday.

use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Certificates {
    /// Certificate of the authority in PEM, for clients that must trust it.
    pub(super) authority_pem: String,
    pub(super) server_config: Arc<ServerConfig>,
}

const ONE_DAY: Duration = Duration::from_secs(86_400);

pub(super) fn generate_certificates() -> Result<Certificates, BoxError> {
    let now = picket_runtime::clock::wall_clock_now().to_offset_datetime();
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Picket demo authority");
    set_validity(&mut params, now - 2 * ONE_DAY, now + 90 * ONE_DAY);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let chooser = CertResolver {
        valid_cert: sign_certificate(&authority, now - ONE_DAY, now + 30 * ONE_DAY)?,
        expired_cert: sign_certificate(&authority, now - 2 * ONE_DAY, now - ONE_DAY)?,
    };
    let server = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(chooser));
    Ok(Certificates { authority_pem: authority.pem(), server_config: Arc::new(server) })
}

fn set_validity(params: &mut CertificateParams, from: OffsetDateTime, to: OffsetDateTime) {
    params.not_before = from;
    params.not_after = to;
}

fn sign_certificate(
    authority: &CertifiedIssuer<'_, KeyPair>,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Result<Arc<CertifiedKey>, BoxError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    set_validity(&mut params, from, to);
    let certificate = params.signed_by(&key, authority)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// Selects the certificate by SNI: valid for a client with a host name, expired for a client that
/// connects by address.
#[derive(Debug)]
struct CertResolver {
    valid_cert: Arc<CertifiedKey>,
    expired_cert: Arc<CertifiedKey>,
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(match hello.server_name() {
            Some(_) => &self.valid_cert,
            None => &self.expired_cert,
        }))
    }
}
