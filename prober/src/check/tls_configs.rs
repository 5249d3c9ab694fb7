//! TLS configurations of checks with a client certificate, a certificate authority, or a required
//! version of HTTP. Building a configuration costs more than a check.
//!
//! Bound: 64 configurations. Loss: a discarded configuration is built again when a check needs it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use picket_proto::{Cause, http_options::HttpVersion};
use picket_runtime::tls_roots::parse_roots;
use prometheus_client::metrics::gauge::Gauge;
use quick_cache::unsync::Cache;
use rustls::{ClientConfig, RootCertStore};

use super::{
    failure::Failure,
    tls::{self, ClientIdentity},
};

/// Contents of a file of this prober, and the name under which sites refer to it.
#[derive(Clone, Copy)]
pub(super) struct NamedPem<'a> {
    pub(super) name: &'a str,
    pub(super) pem: &'a [u8],
}

/// What distinguishes the configurations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ConfigKey {
    identity: Option<Box<str>>,
    ca: Option<Box<str>>,
    verifies: bool,
    version: HttpVersion,
}

struct CachedConfig {
    config: Arc<ClientConfig>,
    /// Hash of the files that the configuration was built from.
    fingerprint: u64,
}

/// Cache of configurations.
pub(super) struct TlsConfigs {
    /// Roots for checks without a certificate authority of their own.
    roots: Arc<RootCertStore>,
    cache: Mutex<Cache<ConfigKey, CachedConfig>>,
    hasher: RandomState,
    cached: Gauge,
}

impl TlsConfigs {
    const MAX_CONFIGS: usize = 64;

    /// Counts cached configurations in `cached`.
    pub(super) fn new(roots: Arc<RootCertStore>, cached: Gauge) -> Self {
        let cache = Mutex::new(Cache::new(Self::MAX_CONFIGS));
        Self { roots, cache, hasher: RandomState::new(), cached }
    }

    /// Returns the configuration that presents `identity` and trusts `ca` alone, or the roots of
    /// this prober without `ca`. A configuration whose files have changed is built again.
    ///
    /// # Errors
    /// Fails if a file cannot be used; the failure names it.
    pub(super) fn get_or_build(
        &self,
        identity: Option<NamedPem<'_>>,
        ca: Option<NamedPem<'_>>,
        verifies: bool,
        version: HttpVersion,
    ) -> Result<Arc<ClientConfig>, Failure> {
        let key = ConfigKey {
            identity: identity.map(|file| file.name.into()),
            ca: ca.map(|file| file.name.into()),
            verifies,
            version,
        };
        let fingerprint = self.hasher.hash_one((identity.map(|file| file.pem), ca.map(|file| file.pem)));
        if let Some(known) = self.cache.lock().get(&key)
            && known.fingerprint == fingerprint
        {
            return Ok(Arc::clone(&known.config));
        }
        // Built without the lock: checks that need other configurations do not wait for it.
        let config = Arc::new(self.build(identity, ca, verifies, version)?);
        let mut cache = self.cache.lock();
        cache.insert(key, CachedConfig { config: Arc::clone(&config), fingerprint });
        self.cached.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        Ok(config)
    }

    fn build(
        &self,
        identity: Option<NamedPem<'_>>,
        ca: Option<NamedPem<'_>>,
        verifies: bool,
        version: HttpVersion,
    ) -> Result<ClientConfig, Failure> {
        let unusable = |kind: &str, name: &str, why: &str| {
            let message = format!("{kind} '{name}' of this prober cannot be used: {why}");
            Failure::new(Cause::SecretUnavailable, message)
        };
        let roots = match ca {
            Some(ca) => {
                Arc::new(parse_roots(ca.pem).map_err(|why| unusable("certificate authority", ca.name, why))?)
            }
            None => Arc::clone(&self.roots),
        };
        let own = identity
            .map(|file| {
                ClientIdentity::from_pem(file.pem)
                    .map_err(|why| unusable("client certificate", file.name, why))
            })
            .transpose()?;
        tls::build_custom_config(verifies.then_some(roots), own, version).map_err(|why| match identity {
            Some(file) => unusable("client certificate", file.name, &why.to_string()),
            None => Failure::new(Cause::Overloaded, why.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_pem() -> String {
        let own = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        own.cert.pem() + &own.signing_key.serialize_pem()
    }

    fn configs() -> TlsConfigs {
        TlsConfigs::new(Arc::new(RootCertStore::empty()), Gauge::default())
    }

    #[test]
    fn no_more_configurations_are_kept_than_allowed_and_one_in_use_is_built_once() {
        let (configs, pem) = (configs(), identity_pem());
        let get = |name: &str| {
            let file = NamedPem { name, pem: pem.as_bytes() };
            configs.get_or_build(Some(file), None, false, HttpVersion::Any).unwrap()
        };
        let first = get("often");

        for number in 0..300 {
            get(&format!("{number}"));
            assert!(Arc::ptr_eq(&first, &get("often")), "{number}");
        }

        assert_eq!(configs.cached.get(), 64);
        assert_eq!(configs.cache.lock().len(), 64);
    }

    #[test]
    fn each_name_version_and_verification_has_a_configuration_of_its_own() {
        let (configs, pem) = (configs(), identity_pem());
        let file = |name| Some(NamedPem { name, pem: pem.as_bytes() });
        let mut seen: Vec<Arc<ClientConfig>> = Vec::new();
        for (identity, ca, verifies, version) in [
            (None, None, false, HttpVersion::Any),
            (None, None, false, HttpVersion::Http1),
            (None, None, false, HttpVersion::Http2),
            (file("a"), None, false, HttpVersion::Any),
            (file("b"), None, false, HttpVersion::Any),
            (None, file("a"), true, HttpVersion::Any),
            (file("a"), file("a"), true, HttpVersion::Any),
        ] {
            let config = configs.get_or_build(identity, ca, verifies, version).unwrap();
            assert!(seen.iter().all(|other| !Arc::ptr_eq(other, &config)));
            seen.push(config);
        }
        let protocols: Vec<usize> = seen[..3].iter().map(|config| config.alpn_protocols.len()).collect();
        assert_eq!(protocols, [2, 1, 1]);
    }

    #[test]
    fn a_changed_file_replaces_its_configuration() {
        let configs = configs();
        let (old, new) = (identity_pem(), identity_pem());
        let get = |pem: &str| {
            let file = NamedPem { name: "shop", pem: pem.as_bytes() };
            configs.get_or_build(Some(file), None, false, HttpVersion::Any).unwrap()
        };

        let first = get(&old);
        let second = get(&new);

        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &get(&new)));
        assert_eq!(configs.cached.get(), 1);
    }

    #[test]
    fn an_unusable_file_is_named_and_nothing_of_it_is_repeated() {
        let (configs, pem) = (configs(), identity_pem());
        let (certificate, key) = pem.split_once("-----BEGIN PRIVATE").unwrap();
        let key = format!("-----BEGIN PRIVATE{key}");
        let other = identity_pem();
        let other_certificate = &other[..other.find("-----BEGIN PRIVATE").unwrap()];
        for (pem, why) in [
            (String::new(), "it holds no certificate in PEM"),
            (key.clone(), "it holds no certificate in PEM"),
            (certificate.to_owned(), "it holds no private key in PEM"),
            (format!("{other_certificate}{key}"), "TLS cannot be set up"),
            ("-----BEGIN MARKED\n".to_owned(), "it holds no certificate in PEM"),
        ] {
            let file = NamedPem { name: "shop", pem: pem.as_bytes() };
            let failure = configs.get_or_build(Some(file), None, false, HttpVersion::Any).unwrap_err();
            assert_eq!(failure.cause, Cause::SecretUnavailable);
            let start = format!("client certificate 'shop' of this prober cannot be used: {why}");
            assert!(failure.message.starts_with(&start), "{}", failure.message);
            assert!(!failure.message.contains("MARKED"));
        }
        let file = NamedPem { name: "office", pem: key.as_bytes() };
        let failure = configs.get_or_build(None, Some(file), true, HttpVersion::Any).unwrap_err();
        assert_eq!(
            failure.message,
            "certificate authority 'office' of this prober cannot be used: it holds no certificate in PEM"
        );
        assert_eq!(configs.cache.lock().len(), 0);
    }
}
