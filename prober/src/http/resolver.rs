//! Names to addresses: the system's resolver, on a bounded number of threads, with the addresses vetted.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use picket_proto::IpVersion;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::{
    addresses::Addresses,
    phases::{self, Stage},
};

/// Why a name gave no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("could not resolve {host}: {why}")]
    Lookup { host: String, why: String },
    #[error("{host} has no {family} address")]
    NoAddress { host: String, family: &'static str },
    #[error("{host} is at {address}, where checks are not allowed to go")]
    Blocked { host: String, address: IpAddr },
    #[error("no resolver's thread was to be had")]
    NoThread,
}

/// Finds a host's addresses, and may block its thread meanwhile.
pub type Lookup = Arc<dyn Fn(&str) -> std::io::Result<Vec<IpAddr>> + Send + Sync>;

/// The system's resolver.
pub(super) fn system() -> Lookup {
    Arc::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

/// What reqwest asks for addresses.
pub(super) struct Resolver {
    addresses: Addresses,
    lookup: Lookup,
    threads: Arc<Semaphore>,
}

impl Resolver {
    /// Lookups that may be under way. The system's resolver blocks a thread and cannot be interrupted.
    const THREADS: usize = 256;

    pub(super) fn new(addresses: Addresses, lookup: Lookup) -> Self {
        Self { addresses, lookup, threads: Arc::new(Semaphore::new(Self::THREADS)) }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, threads) = (self.addresses.clone(), Arc::clone(&self.threads));
        let lookup = Arc::clone(&self.lookup);
        Box::pin(async move {
            let enter = |stage| phases::mark(|marks| marks.enter(stage));
            enter(Stage::Queue);
            let permit = threads.acquire_owned().await.map_err(|_| Error::NoThread)?;
            enter(Stage::Dns);
            let host = name.as_str().to_owned();
            let asked = host.clone();
            let found = tokio::task::spawn_blocking(move || {
                // The thread keeps the permit: a check that gave up has not freed it.
                let _permit = permit;
                lookup(&asked).map(|found| found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect())
            })
            .await
            .map_err(|_| Error::NoThread)?
            .map_err(|why| Error::Lookup { host: host.clone(), why: reason(&why) })?;
            let vetted = vet(&addresses, &host, found)?;
            enter(Stage::Connect);
            let addresses: Addrs = Box::new(vetted.into_iter());
            Ok(addresses)
        })
    }
}

fn vet(addresses: &Addresses, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
    let marks = phases::current();
    let version = marks.as_ref().map_or(IpVersion::Any, |marks| marks.ip_version);
    let of_version: Vec<SocketAddr> =
        found.into_iter().filter(|address| version.allows(address.ip())).collect();
    let Some(first) = of_version.first().map(SocketAddr::ip) else {
        let family = match version {
            IpVersion::Any => "IP",
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        };
        return Err(Error::NoAddress { host: host.to_owned(), family });
    };
    let vetted: Vec<SocketAddr> =
        of_version.into_iter().filter(|address| addresses.permits(address.ip())).collect();
    if vetted.is_empty() {
        if let Some(marks) = marks {
            marks.block(first);
        }
        return Err(Error::Blocked { host: host.to_owned(), address: first });
    }
    if let Some(marks) = marks {
        marks.set_candidates(vetted.iter().map(SocketAddr::ip));
    }
    Ok(vetted)
}

/// The system's reason without its preamble.
fn reason(why: &std::io::Error) -> String {
    let text = why.to_string();
    let reason = text.rsplit(": ").next().unwrap_or(&text);
    match reason {
        "Name or service not known" => "there is no such name".to_owned(),
        "No address associated with hostname" => "the name has no address".to_owned(),
        "Temporary failure in name resolution" => "the name servers did not answer".to_owned(),
        other => other.to_owned(),
    }
}
