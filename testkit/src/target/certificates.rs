//! Certificates for targets: good, expired, of another host, of nobody known.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Until 2099-12-31.
    Good,
    /// Until 2020-01-02.
    Expired,
    /// From 2099-01-01.
    NotYet,
}

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        // Two of one name would be taken for one with a wrong signature.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `names`, which are hosts or addresses.
    pub fn certify(&self, names: &[&str], validity: Validity) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, validity).signed_by(&key, &self.issuer).expect("a certificate");
        Identity::new(certificate.der().clone(), &key)
    }
}

/// A certificate and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Signed by itself.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, Validity::Good).self_signed(&key).expect("a certificate");
        Self::new(certificate.der().clone(), &key)
    }

    fn new(certificate: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    pub(super) fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .expect("a certificate with its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn params(names: &[&str], validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    (params.not_before, params.not_after) = match validity {
        Validity::Good => (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 12, 31)),
        Validity::Expired => (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 2)),
        Validity::NotYet => (date_time_ymd(2099, 1, 1), date_time_ymd(2099, 12, 31)),
    };
    params
}
