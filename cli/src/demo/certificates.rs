//! An authority, and of its two certificates one that is good and one that expired yesterday.

use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Certificates {
    /// In PEM, for who is to trust it.
    pub(super) authority: String,
    pub(super) server: Arc<ServerConfig>,
}

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn make() -> Result<Certificates, Error> {
    let now = picket_runtime::clock::wall().datetime();
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Picket demo authority");
    valid(&mut params, now - 2 * DAY, now + 90 * DAY);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let chooser = Chooser {
        good: signed(&authority, now - DAY, now + 30 * DAY)?,
        expired: signed(&authority, now - 2 * DAY, now - DAY)?,
    };
    let server = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(chooser));
    Ok(Certificates { authority: authority.pem(), server: Arc::new(server) })
}

fn valid(params: &mut CertificateParams, from: OffsetDateTime, to: OffsetDateTime) {
    params.not_before = from;
    params.not_after = to;
}

fn signed(
    authority: &CertifiedIssuer<'_, KeyPair>,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Result<Arc<CertifiedKey>, Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    valid(&mut params, from, to);
    let certificate = params.signed_by(&key, authority)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// The good one for who asks by name, the expired one for who asks by address.
#[derive(Debug)]
struct Chooser {
    good: Arc<CertifiedKey>,
    expired: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(match hello.server_name() {
            Some(_) => &self.good,
            None => &self.expired,
        }))
    }
}
