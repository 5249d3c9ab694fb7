//! Certificate authorities of tests, and certificates that are valid, expired or not yet valid.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use picket_runtime::clock;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

/// Validity period of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Until 2099-12-31.
    Current,
    /// Until 2020-01-02.
    Expired,
    /// From 2099-01-01.
    NotYetValid,
    /// For this many days and an hour from now.
    EndsInDays(u16),
}

const TLS12_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// Rare TLS behaviour of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsQuirk {
    /// Requires a client certificate.
    WantsClientCert,
    /// Offers only ciphers that do not fit its certificate.
    NoUsableCipher,
    /// Negotiates a protocol other than HTTP.
    OtherProtocol,
    /// Speaks no TLS version newer than 1.2.
    Tls12Only,
}

/// Certificate authority of a test.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    root: CertificateDer<'static>,
    /// Certificates from this authority up to the root, without the root.
    chain: Vec<CertificateDer<'static>>,
}

impl Default for CertificateAuthority {
    fn default() -> Self {
        Self::new()
    }
}

impl CertificateAuthority {
    /// Creates a root authority. No client trusts its certificate yet.
    pub fn new() -> Self {
        Self::issued_under(None, Validity::Current)
    }

    /// Creates an authority certified by this one.
    pub fn new_intermediate(&self, validity: Validity) -> Self {
        Self::issued_under(Some(self), validity)
    }

    fn issued_under(parent: Option<&Self>, validity: Validity) -> Self {
        let key = KeyPair::generate().expect("a key");
        // Unique names: a client would treat two authorities of the same name as one with a wrong
        // signature.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut params = certificate_params(&[], validity);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("test authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let (certificate, chain) = match parent {
            None => (params.self_signed(&key).expect("a certificate"), Vec::new()),
            Some(parent) => {
                let certificate = params.signed_by(&key, &parent.issuer).expect("a certificate");
                let chain = [vec![certificate.der().clone()], parent.chain.clone()].concat();
                (certificate, chain)
            }
        };
        let (pem, root) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, root, chain }
    }

    /// Root certificate of this authority in PEM, for clients to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for `names`, which are host names or IP addresses.
    pub fn issue_identity(&self, names: &[&str], validity: Validity) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            certificate_params(names, validity).signed_by(&key, &self.issuer).expect("a certificate");
        Identity::new(&certificate, &self.chain, &key)
    }
}

/// Certificate with its chain to the root, and the private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pem: String,
    key_pem: String,
}

impl Identity {
    /// Creates a self-signed identity.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            certificate_params(names, Validity::Current).self_signed(&key).expect("a certificate");
        Self::new(&certificate, &[], &key)
    }

    /// Drops the chain to the root, as a misconfigured server would.
    pub fn without_chain(mut self) -> Self {
        self.chain.truncate(1);
        self
    }

    /// Certificate and private key in PEM, as servers and clients read them from files.
    pub fn pem(&self) -> (&str, &str) {
        (&self.pem, &self.key_pem)
    }

    /// Certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    fn new(certificate: &Certificate, issuers: &[CertificateDer<'static>], key: &KeyPair) -> Self {
        Self {
            chain: [std::slice::from_ref(certificate.der()), issuers].concat(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Acceptor of clients that negotiate one of `protocols`.
    pub fn acceptor_with_alpn(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        self.build_acceptor(aws_lc_rs::default_provider(), rustls::ALL_VERSIONS, None, protocols)
    }

    /// Acceptor for any protocol over TLS. Clients must present a certificate of `clients`, if
    /// given.
    pub(crate) fn acceptor_for_clients(&self, clients: Option<&CertificateAuthority>) -> TlsAcceptor {
        let roots = clients.map(|authority| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates([authority.root.clone()]);
            Arc::new(roots)
        });
        self.build_acceptor(aws_lc_rs::default_provider(), rustls::ALL_VERSIONS, roots, &[])
    }

    pub(crate) fn quirky_acceptor(&self, quirk: TlsQuirk) -> TlsAcceptor {
        let mut provider = aws_lc_rs::default_provider();
        let (mut versions, mut clients) = (rustls::ALL_VERSIONS, None);
        let mut protocol: &[u8] = b"http/1.1";
        match quirk {
            TlsQuirk::WantsClientCert => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(self.chain.clone());
                clients = Some(Arc::new(roots));
            }
            TlsQuirk::NoUsableCipher => {
                // The keys of these certificates are elliptic-curve keys.
                versions = TLS12_ONLY;
                provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
            }
            TlsQuirk::OtherProtocol => protocol = b"acme-tls/1",
            TlsQuirk::Tls12Only => versions = TLS12_ONLY,
        }
        self.build_acceptor(provider, versions, clients, &[protocol])
    }

    fn build_acceptor(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<Arc<RootCertStore>>,
        protocols: &[&[u8]],
    ) -> TlsAcceptor {
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("TLS versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().expect("a verifier"),
            ),
        };
        let mut config = builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate with its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn certificate_params(names: &[&str], validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    (params.not_before, params.not_after) = match validity {
        Validity::Current => (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 12, 31)),
        Validity::Expired => (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 2)),
        Validity::NotYetValid => (date_time_ymd(2099, 1, 1), date_time_ymd(2099, 12, 31)),
        Validity::EndsInDays(days) => {
            let now = Duration::from_micros(clock::wall_clock_now().as_micros().unsigned_abs());
            let left = Duration::from_secs(3_600 + 86_400 * u64::from(days));
            (date_time_ymd(2020, 1, 1), date_time_ymd(1970, 1, 1) + now + left)
        }
    };
    params
}
