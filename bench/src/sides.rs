//! The two sides of the comparison: the prober's check, and the least that does the same request with reqwest.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::ValueEnum;
use picket_prober::http::{Checker, Limits};
use picket_proto::{Check, Outcome, check};
use reqwest::{Client, Url};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// `picket_prober::http::Checker`.
    Check,
    /// One reqwest client: send, read the body to its end, look at the status. No timeout, no timing, no vetting of
    /// addresses; like a check a fresh connection with a whole handshake each time.
    Bare,
}

/// One side, ready. Clones share everything.
#[derive(Clone)]
pub(crate) enum Side {
    Check(Checker),
    Bare(Client),
}

impl Side {
    /// `authority` is a file with what is to be trusted.
    pub(crate) fn new(which: Which, authority: &Path) -> Result<Self, Error> {
        match which {
            Which::Check => {
                let allow = vec!["127.0.0.0/8".parse().map_err(|why| Error::Failed(format!("{why}")))?];
                let limits = Limits { allow, ca_file: Some(authority.to_owned()), body: 1 << 20 };
                Ok(Self::Check(Checker::new(&limits).map_err(|why| Error::Failed(why.to_string()))?))
            }
            Which::Bare => Ok(Self::Bare(bare(authority).map_err(|why| Error::Failed(why.to_string()))?)),
        }
    }

    /// Does the request once.
    ///
    /// # Errors
    /// When the answer is not a 200 that came whole.
    pub(crate) async fn once(&self, asked: &Asked) -> Result<(), Error> {
        match self {
            Self::Check(checker) => check_once(checker, asked).await,
            Self::Bare(client) => bare_once(client, asked).await,
        }
    }
}

/// [`Side::once`] by our check.
pub(crate) async fn check_once(checker: &Checker, asked: &Asked) -> Result<(), Error> {
    let seen = checker.check(&asked.check).await;
    match seen.outcome {
        Outcome::Up => Ok(()),
        _ => Err(Error::Failed(format!("a check failed: {seen:?}"))),
    }
}

/// [`Side::once`] by the bare loop.
pub(crate) async fn bare_once(client: &Client, asked: &Asked) -> Result<(), Error> {
    let failed = |why: reqwest::Error| Error::Failed(format!("a request failed: {why:?}"));
    let mut response = client.get(asked.check.url.clone()).send().await.map_err(failed)?;
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        std::hint::black_box(chunk.len());
    }
    match response.status().as_u16() {
        200 => Ok(()),
        other => Err(Error::Failed(format!("status {other}"))),
    }
}

/// What is asked, by either side.
#[derive(Clone)]
pub(crate) struct Asked {
    check: Check,
}

impl Asked {
    pub(crate) fn new(address: SocketAddr, tls: bool, timeout: Duration) -> Result<Self, Error> {
        let scheme = if tls { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{address}/page"))
            .map_err(|why| Error::Failed(format!("{address}: {why}")))?;
        let check = Check {
            url,
            method: check::Method::Get,
            headers: Vec::new(),
            body: None,
            timeout,
            status: picket_proto::status::StatusRule::default(),
            regex: None,
            not_regex: None,
            max_redirects: 10,
            ip_version: picket_proto::IpVersion::Any,
            tls_verify: true,
        };
        Ok(Self { check })
    }
}

fn bare(authority: &Path) -> Result<Client, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.resumption = Resumption::disabled();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Client::builder().tls_backend_preconfigured(tls).pool_max_idle_per_host(0).no_proxy();
    Ok(client.build()?)
}

/// As many open files as the system lets this process have.
pub(crate) fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer the checks say so themselves.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
