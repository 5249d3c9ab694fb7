//! Host name resolution: the system's resolver on a bounded number of threads, filtered by the
//! address policy.

mod name_server_probe;
mod threads;

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use picket_proto::{Cause, IpVersion};
use picket_runtime::{
    AddressPolicy,
    name_lookup::{Lookup, UNANSWERED_REASON, describe_lookup_error},
};
use prometheus_client::metrics::gauge::Gauge;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

pub(super) use self::name_server_probe::system_name_servers as name_servers;
use self::{name_server_probe::NameServers, threads::ResolverThreads};
use super::{
    os_error::is_resource_exhaustion,
    timing::{self, Phase, PhaseRecorder},
};
use crate::limits::host_limiter::{HostLimiter, HostPermit, WaitQueue};

/// Reasons why a name has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("could not resolve {host}: {why}")]
    Lookup { host: String, why: String },
    #[error("{host} has no {family} address")]
    NoAddress { host: String, family: &'static str },
    #[error("{host} is at {address}, and checks may not connect there (see PICKET_ALLOW_ADDRESSES)")]
    Blocked { host: String, address: IpAddr },
    #[error(
        "{host} could not be looked up: this prober's name servers do not answer or resolve nothing, or it has no \
         route to the world"
    )]
    Offline { host: String },
    #[error("no resolver's thread was to be had")]
    NoThread,
    /// Failure of the system's resolver for lack of files or sockets, which the system reports as
    /// an unknown name.
    #[error("{host} could not be looked up")]
    ResourcesExhausted {
        host: String,
        #[source]
        why: io::Error,
    },
}

impl ResolveError {
    /// Cause of the check result.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Offline { .. } => Cause::ProberOffline,
            _ => Cause::Dns,
        }
    }
}

/// Resolver for reqwest and hyper.
pub(super) struct Resolver {
    address_policy: AddressPolicy,
    lookup: Lookup,
    name_servers: Arc<NameServers>,
    threads: ResolverThreads,
    domain_limiter: HostLimiter,
    wait_queue: WaitQueue,
}

impl Resolver {
    /// Maximum threads for names of one registrable domain: unresponsive name servers block the
    /// threads of their own domain only.
    const MAX_THREADS_PER_DOMAIN: usize = 128;

    /// Longer than any check.
    const MAX_DOMAIN_WAIT: Duration = Duration::from_secs(120);

    /// Counts threads in `running`. `name_servers` are the servers behind `lookup`, as far as
    /// known.
    pub(super) fn new(
        address_policy: AddressPolicy,
        lookup: Lookup,
        name_servers: Vec<SocketAddr>,
        running: Gauge,
    ) -> Self {
        Self {
            address_policy,
            lookup,
            name_servers: Arc::new(NameServers::new(name_servers)),
            threads: ResolverThreads::new(running),
            domain_limiter: HostLimiter::new(Self::MAX_THREADS_PER_DOMAIN),
            // Every waiter is a running check, and their number is already bounded.
            wait_queue: WaitQueue::new(Semaphore::MAX_PERMITS),
        }
    }

    /// Resolver with another address policy and the same threads and limits.
    pub(super) fn with_policy(&self, address_policy: AddressPolicy) -> Self {
        Self {
            address_policy,
            lookup: Arc::clone(&self.lookup),
            name_servers: Arc::clone(&self.name_servers),
            threads: self.threads.clone(),
            domain_limiter: self.domain_limiter.clone(),
            wait_queue: self.wait_queue.clone(),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, threads, lookup) =
            (self.address_policy.clone(), self.threads.clone(), Arc::clone(&self.lookup));
        let (domains, room, servers) =
            (self.domain_limiter.clone(), self.wait_queue.clone(), Arc::clone(&self.name_servers));
        Box::pin(async move {
            let enter = |stage| timing::update_recorder(|marks| marks.enter_phase(stage));
            // Queueing for a thread is this prober's delay and not part of the DNS phase.
            enter(Phase::ResolverWait);
            let domain = registrable_domain(name.as_str());
            let share = acquire_domain_permit(&domains, &room, domain).await.ok_or(ResolveError::NoThread)?;
            let (thread, mut watching) =
                threads.acquire_thread(domain, share).await.ok_or(ResolveError::NoThread)?;
            let host = name.as_str().to_owned();
            let asked = host.clone();
            let marks = timing::current_recorder();
            let mut looking = tokio::task::spawn_blocking(move || {
                let _thread = thread;
                // The DNS phase begins when the blocking task runs; the wait before is the
                // prober's.
                if let Some(marks) = marks {
                    marks.enter_phase(Phase::Dns);
                }
                // A failed open of `/dev/null` shows that the process is out of files, and not that
                // the name is unknown.
                lookup(&asked).map_err(|why| match File::open("/dev/null") {
                    Err(ours) if is_resource_exhaustion(&ours) => {
                        ResolveError::ResourcesExhausted { host: asked, why: ours }
                    }
                    _ => ResolveError::Lookup { host: asked, why: describe_lookup_error(&why) },
                })
            });
            let found = match timeout(threads::HANG_THRESHOLD, &mut looking).await {
                Ok(found) => {
                    watching.mark_quick();
                    found
                }
                Err(_) => {
                    watching.mark_hanging();
                    // The lookup goes on while the name servers are probed: a late result still
                    // counts.
                    tokio::select! {
                        found = &mut looking => found,
                        is_silent = servers.is_silent() => {
                            if is_silent {
                                timing::update_recorder(PhaseRecorder::mark_silent_servers);
                            }
                            looking.await
                        }
                    }
                }
            };
            let found = match found.map_err(|_| ResolveError::NoThread)? {
                Err(ResolveError::Lookup { host, why }) if why == UNANSWERED_REASON => {
                    // The name server probe belongs to no phase.
                    enter(Phase::Between);
                    let is_offline = !servers.is_working().await;
                    enter(Phase::Dns);
                    Err(if is_offline {
                        ResolveError::Offline { host }
                    } else {
                        ResolveError::Lookup { host, why }
                    })
                }
                found => {
                    if found.is_ok() {
                        servers.observe_success();
                    }
                    found
                }
            };
            let vetted = filter_addresses(&addresses, &host, found?)?;
            enter(Phase::Connect);
            let addresses: Addrs = Box::new(vetted.into_iter());
            Ok(addresses)
        })
    }
}

/// Registrable domain of `name`, such as `example.co.uk`. Names of one registrable domain share
/// name servers; names of two domains need not.
///
/// Only suffixes of registries count. A hoster's suffix, such as `github.io`, has the same name
/// servers for every name below it: the names hang together and therefore share a limit. A private
/// registry, such as `eu.org`, counts as a hoster.
fn registrable_domain(name: &str) -> &str {
    let name = name.trim_end_matches('.');
    let mut rest = name;
    let suffix = loop {
        // A name on no list has one label as its suffix.
        let Some(suffix) = psl::suffix(rest.as_bytes()) else { return name };
        let length = suffix.as_bytes().len();
        match rest[rest.len() - length..].split_once('.') {
            Some((_, parent)) if suffix.typ() == Some(psl::Type::Private) => rest = parent,
            _ => break length,
        }
    };
    let Some(above) = name[..name.len() - suffix].strip_suffix('.') else { return name };
    &name[above.rfind('.').map_or(0, |dot| dot + 1)..]
}

async fn acquire_domain_permit(domains: &HostLimiter, room: &WaitQueue, domain: &str) -> Option<HostPermit> {
    match domains.try_acquire(domain) {
        Some(turn) => Some(turn),
        // The timeout of the check ends the wait.
        None => domains
            .enqueue(domain, room)
            .ok()?
            .acquire_permit(Instant::now() + Resolver::MAX_DOMAIN_WAIT)
            .await
            .ok(),
    }
}

fn filter_addresses(
    addresses: &AddressPolicy,
    host: &str,
    found: Vec<IpAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let marks = timing::current_recorder();
    let version = marks.as_ref().map_or(IpVersion::Any, |marks| marks.ip_version);
    let of_version: Vec<IpAddr> =
        found.into_iter().filter(|address| version.allows_address(*address)).collect();
    if of_version.is_empty() {
        let family = match version {
            IpVersion::Any => "IP",
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        };
        return Err(ResolveError::NoAddress { host: host.to_owned(), family });
    }
    let vetted = addresses.vet_addresses(of_version).map_err(|address| {
        if let Some(marks) = &marks {
            marks.set_blocked_address(address);
        }
        ResolveError::Blocked { host: host.to_owned(), address }
    })?;
    if let Some(marks) = marks {
        marks.set_candidates(vetted.iter().copied());
    }
    // reqwest takes the port from the URL.
    Ok(vetted.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrable_domain_follows_the_public_suffix_list() {
        for (name, expected) in [
            ("www.shop.example.com", "example.com"),
            ("example.com.", "example.com"),
            ("www.evil.co.uk", "evil.co.uk"),
            ("evil.co.uk", "evil.co.uk"),
            ("co.uk", "co.uk"),
            ("a.b.c.example.co.jp", "example.co.jp"),
            // Wildcard rule and its exception.
            ("a.b.example.ck", "b.example.ck"),
            ("a.www.ck", "www.ck"),
            // Names of a hoster use the hoster's name servers.
            ("someone.github.io", "github.io"),
            ("github.io", "github.io"),
            ("bucket.s3.eu-west-1.amazonaws.com", "amazonaws.com"),
            ("someone.blogspot.co.uk", "blogspot.co.uk"),
            // On no list.
            ("db.cluster.internal", "cluster.internal"),
            ("internal", "internal"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example.xn--p1ai", "example.xn--p1ai"),
            ("", ""),
        ] {
            assert_eq!(registrable_domain(name), expected, "{name}");
        }
    }
}
