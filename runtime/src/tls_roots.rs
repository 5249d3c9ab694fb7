//! Certificate authorities that a process trusts.

use std::{fs::File, io::Read as _, path::Path};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tracing::warn;

/// Reasons why there are no usable root certificates.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file of extra root certificates is unusable.
    #[error("{variable}: '{path}' cannot be used: {why}")]
    CaFile {
        /// Variable that names the file.
        variable: &'static str,
        /// Path of the file.
        path: String,
        /// Reason.
        why: String,
    },
    /// No root certificate is available. Every certificate would be rejected, with no relation to
    /// the servers.
    #[error(
        "there is not one root certificate on this machine; install your system's ca-certificates, \
         or name a file with SSL_CERT_FILE or {0}"
    )]
    None(&'static str),
}

/// Loads the platform's root certificates and the certificates in `ca_file`, which the operator names
/// by `variable`.
///
/// # Errors
/// Fails if the file is unreadable, or if no root certificate exists at all.
pub fn load_roots(ca_file: Option<&Path>, variable: &'static str) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(%error, "failed to load some root certificates of the platform");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = ca_file {
        let unusable = |why: String| RootsError::CaFile { variable, path: path.display().to_string(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|why| unusable(why.to_string()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(unusable("it holds no certificate".to_owned()));
        }
    }
    match roots.is_empty() {
        true => Err(RootsError::None(variable)),
        false => Ok(roots),
    }
}

/// Reads the certificates of an authority as the only roots to trust.
///
/// # Errors
/// Fails if there is no usable certificate.
pub fn parse_roots(pem: &[u8]) -> Result<RootCertStore, &'static str> {
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(parse_certificates(pem)?).0 {
        0 => Err("it holds no certificate of an authority"),
        _ => Ok(roots),
    }
}

/// Reads certificates.
///
/// # Errors
/// Fails if there is none. The error repeats nothing of `pem`, which may hold a key.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    // The errors of the parser contain lines of the file, which may be parts of a key.
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|found| !found.is_empty()).ok_or("it holds no certificate in PEM")
}

/// Maximum size of a file of certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads a file of certificates that a user named. Blocks on file access, but not on a device.
///
/// # Errors
/// Fails if it is no regular file of at most 1 MiB. The error repeats nothing of the file.
pub fn read_authority_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = path.metadata().map_err(|why| why.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err("it is no regular file of at most 1 MiB".to_owned());
    }
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|why| why.to_string())?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut pem).map_err(|why| why.to_string())?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_file_is_a_regular_file_and_its_content_is_never_repeated() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, "-----BEGIN MARKED").unwrap();

        let pem = read_authority_file(&path).unwrap();

        assert!(!parse_roots(&pem).unwrap_err().contains("MARKED"));
        assert!(read_authority_file(Path::new("/dev/zero")).unwrap_err().contains("no regular file"));
        assert!(read_authority_file(directory.path()).unwrap_err().contains("no regular file"));
        assert!(read_authority_file(Path::new("/absent")).is_err());
    }
}
