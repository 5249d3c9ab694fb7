//! Cipher suites that count decrypted data against the limits of the check's connection
//! ([`InboundMeter`]).
//!
//! reqwest gives no access to its streams; decryption is the one place that every byte of HTTPS
//! passes. The keys of a connection are created in the check's own task, which has the recorder in
//! a task-local.

use std::{
    cell::RefCell,
    sync::{Arc, LazyLock},
};

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, OtherError, SupportedCipherSuite, Tls12CipherSuite,
    Tls13CipherSuite,
    crypto::{
        CryptoProvider, aws_lc_rs,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
            MessageEncrypter, Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
        },
    },
};

use super::super::{inbound::InboundMeter, timing};

/// Returns the aws-lc-rs provider with metered cipher suites.
pub(super) fn crypto_provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: CIPHER_SUITES.clone(), ..aws_lc_rs::default_provider() }
}

/// rustls requires `'static` suites; a single leaked set serves all clients.
static CIPHER_SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| aws_lc_rs::default_provider().cipher_suites.into_iter().map(meter_suite).collect());

fn meter_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic }) => {
            let common = rustls::CipherSuiteCommon { ..*common };
            let aead_alg = Box::leak(Box::new(MeteredAead(*aead_alg)));
            let suite = Tls13CipherSuite { common, hkdf_provider: *hkdf_provider, aead_alg, quic: *quic };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls12(Tls12CipherSuite { common, prf_provider, kx, sign, aead_alg }) => {
            let common = rustls::CipherSuiteCommon { ..*common };
            let aead_alg = Box::leak(Box::new(MeteredAead(*aead_alg)));
            let suite = Tls12CipherSuite { common, prf_provider: *prf_provider, kx: *kx, sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    }
}

thread_local! {
    /// Connection whose server has just announced a new key. The new key is created outside of the
    /// check's task, by the reader of the connection, on the same thread and before any other
    /// decryption there.
    static RENEWING: RefCell<Option<Arc<InboundMeter>>> = const { RefCell::new(None) };
}

/// AEAD algorithm with metered decrypters.
struct MeteredAead<T: ?Sized + 'static>(&'static T);

/// Decrypter that fails once the server exceeds an inbound limit.
struct MeteredDecrypter {
    inner: Box<dyn MessageDecrypter>,
    inbound: Option<Arc<InboundMeter>>,
}

impl MeteredDecrypter {
    fn new_boxed(inner: Box<dyn MessageDecrypter>) -> Box<dyn MessageDecrypter> {
        let inbound = timing::current_recorder().map(|marks| marks.inbound());
        let inbound = inbound.or_else(|| RENEWING.with_borrow_mut(Option::take));
        Box::new(Self { inner, inbound })
    }
}

impl MessageDecrypter for MeteredDecrypter {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        /// Handshake type of `KeyUpdate`, its first byte.
        const KEY_UPDATE: u8 = 24;
        let plain = self.inner.decrypt(message, sequence)?;
        if let Some(inbound) = &self.inbound {
            let data = (plain.typ == ContentType::ApplicationData).then_some(plain.payload);
            inbound.count_record(data).map_err(|flood| Error::Other(OtherError(Arc::new(flood))))?;
            if plain.typ == ContentType::Handshake && plain.payload.first() == Some(&KEY_UPDATE) {
                RENEWING.set(Some(Arc::clone(inbound)));
            }
        }
        Ok(plain)
    }
}

impl Tls13AeadAlgorithm for MeteredAead<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        MeteredDecrypter::new_boxed(self.0.decrypter(key, iv))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

impl Tls12AeadAlgorithm for MeteredAead<dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv, extra)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        MeteredDecrypter::new_boxed(self.0.decrypter(key, iv))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use picket_proto::IpVersion;
    use rustls::{
        ClientConnection, ServerConfig, ServerConnection,
        pki_types::{PrivateKeyDer, ServerName},
    };
    use tokio::time::Instant;

    use super::{
        super::super::{inbound::Flood, timing::PhaseRecorder},
        *,
    };

    fn server() -> ServerConnection {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    /// Delivers the server's pending output to the client.
    fn pass(server: &mut ServerConnection, client: &mut ClientConnection) -> Result<(), Error> {
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn tls_records_without_data_are_counted_across_key_updates() {
        let marks = PhaseRecorder::new(IpVersion::Any, Instant::now());
        let mut server = server();
        let config = Arc::new(super::super::build_client_config(None).unwrap());
        let handshake = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut client = ClientConnection::new(config, name).unwrap();
            while client.is_handshaking() || server.is_handshaking() {
                let mut sent = Vec::new();
                client.write_tls(&mut sent).unwrap();
                server.read_tls(&mut sent.as_slice()).unwrap();
                server.process_new_packets().unwrap();
                pass(&mut server, &mut client).unwrap();
            }
            client
        };
        let mut client = timing::with_recorder(Arc::clone(&marks), handshake).await;

        let mut updates = 0;
        let error = loop {
            updates += 1;
            server.refresh_traffic_keys().unwrap();
            server.writer().write_all(b"x").unwrap();
            match pass(&mut server, &mut client) {
                Ok(()) => assert_eq!(client.reader().read(&mut [0; 8]).unwrap(), 1),
                Err(error) => break error,
            }
        };

        assert_eq!(marks.inbound().flood(), Some(&Flood::ControlRecords), "{error:?}");
        assert!((900..1_100).contains(&updates), "{updates}");
    }
}
