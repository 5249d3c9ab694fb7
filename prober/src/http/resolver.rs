//! Names to addresses: the system's resolver, on a bounded number of threads, with the addresses vetted.

mod servers;
mod threads;

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use picket_proto::{Cause, IpVersion};
use prometheus_client::metrics::gauge::Gauge;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

pub(super) use self::servers::of_system as name_servers;
use self::{servers::Servers, threads::Threads};
use super::{
    addresses::Addresses,
    phases::{self, Marks, Stage},
    verdict,
};
use crate::hosts::{Hosts, Room, Turn};

/// Why a name gave no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("could not resolve {host}: {why}")]
    Lookup { host: String, why: String },
    #[error("{host} has no {family} address")]
    NoAddress { host: String, family: &'static str },
    #[error("{host} is at {address}, where checks are not allowed to go")]
    Blocked { host: String, address: IpAddr },
    #[error(
        "{host} could not be looked up: this prober's name servers do not answer, or it has no route to the world"
    )]
    Offline { host: String },
    #[error("no resolver's thread was to be had")]
    NoThread,
    /// The system's resolver opens files and sockets, and says of a failure to do so that a name is not known.
    #[error("{host} could not be looked up")]
    Ours {
        host: String,
        #[source]
        why: io::Error,
    },
}

impl Error {
    /// What it says of the site.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Offline { .. } => Cause::ProberOffline,
            _ => Cause::Dns,
        }
    }
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
    servers: Arc<Servers>,
    threads: Threads,
    domains: Hosts,
    room: Room,
}

impl Resolver {
    /// Names of one registrable domain may have so many threads: name servers that do not answer take theirs, and no others.
    const A_DOMAINS: usize = 128;

    /// Longer than any check.
    const LONGEST: Duration = Duration::from_secs(120);

    /// Threads are counted in `running`; `name_servers` are those behind `lookup`, as far as they are known.
    pub(super) fn new(
        addresses: Addresses,
        lookup: Lookup,
        name_servers: Vec<SocketAddr>,
        running: Gauge,
    ) -> Self {
        Self {
            addresses,
            lookup,
            servers: Arc::new(Servers::new(name_servers)),
            threads: Threads::new(running),
            domains: Hosts::new(Self::A_DOMAINS),
            // Who waits is a check under way, of which there are few enough.
            room: Room::new(Semaphore::MAX_PERMITS),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, threads, lookup) =
            (self.addresses.clone(), self.threads.clone(), Arc::clone(&self.lookup));
        let (domains, room, servers) = (self.domains.clone(), self.room.clone(), Arc::clone(&self.servers));
        Box::pin(async move {
            let enter = |stage| phases::mark(|marks| marks.enter(stage));
            enter(Stage::Queue);
            let domain = domain(name.as_str());
            let share = share(&domains, &room, domain).await.ok_or(Error::NoThread)?;
            let (thread, mut watching) = threads.take(domain, share).await.ok_or(Error::NoThread)?;
            let host = name.as_str().to_owned();
            let asked = host.clone();
            let marks = phases::current();
            let mut looking = tokio::task::spawn_blocking(move || {
                let _thread = thread;
                // Until it runs, the wait is ours.
                if let Some(marks) = marks {
                    marks.enter(Stage::Dns);
                }
                lookup(&asked).map_err(|why| match File::open("/dev/null") {
                    Err(ours) if verdict::is_ours(&ours) => Error::Ours { host: asked, why: ours },
                    _ => Error::Lookup { host: asked, why: reason(&why) },
                })
            });
            let found = match timeout(threads::HANGS, &mut looking).await {
                Ok(found) => {
                    watching.mark_quick();
                    found
                }
                Err(_) => {
                    watching.hangs();
                    tokio::select! {
                        found = &mut looking => found,
                        answer = servers.answer() => {
                            if !answer {
                                phases::mark(Marks::note_silent_name_servers);
                            }
                            looking.await
                        }
                    }
                }
            };
            let found = match found.map_err(|_| Error::NoThread)? {
                Err(Error::Lookup { host, why }) if why == UNANSWERED => {
                    // What is asked now is in no phase.
                    enter(Stage::Between);
                    let is_offline = !verdict::has_public_route() || !servers.answer().await;
                    enter(Stage::Dns);
                    Err(if is_offline { Error::Offline { host } } else { Error::Lookup { host, why } })
                }
                found => found,
            };
            let vetted = vet(&addresses, &host, found?)?;
            enter(Stage::Connect);
            let addresses: Addrs = Box::new(vetted.into_iter());
            Ok(addresses)
        })
    }
}

/// The registrable domain of `name`, such as `example.co.uk`: names of one share name servers, and those of two need not.
///
/// Only the suffixes of registries count. The name servers of a hoster's suffix, such as `github.io`, are the hoster's for
/// every name below it: these hang together, and so they share. A registry that is no country's, such as `eu.org`, is
/// taken for a hoster here.
fn domain(name: &str) -> &str {
    let name = name.trim_end_matches('.');
    let mut rest = name;
    let suffix = loop {
        // What is on no list has one label as its suffix.
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

async fn share(domains: &Hosts, room: &Room, domain: &str) -> Option<Turn> {
    match domains.turn_now(domain) {
        Some(turn) => Some(turn),
        // The check's own time ends the wait.
        None => domains.sit(domain, room).ok()?.turn(Instant::now() + Resolver::LONGEST).await.ok(),
    }
}

fn vet(addresses: &Addresses, host: &str, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, Error> {
    let marks = phases::current();
    let version = marks.as_ref().map_or(IpVersion::Any, |marks| marks.ip_version);
    let of_version: Vec<IpAddr> = found.into_iter().filter(|address| version.allows(*address)).collect();
    let Some(first) = of_version.first().copied() else {
        let family = match version {
            IpVersion::Any => "IP",
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        };
        return Err(Error::NoAddress { host: host.to_owned(), family });
    };
    let vetted: Vec<IpAddr> = of_version.into_iter().filter(|address| addresses.permits(*address)).collect();
    if vetted.is_empty() {
        if let Some(marks) = marks {
            marks.block(first);
        }
        return Err(Error::Blocked { host: host.to_owned(), address: first });
    }
    if let Some(marks) = marks {
        marks.set_candidates(vetted.iter().copied());
    }
    // The port is the URL's.
    Ok(vetted.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
}

const UNANSWERED: &str = "the name servers did not answer";

/// The system's reason without its preamble.
fn reason(why: &std::io::Error) -> String {
    let text = why.to_string();
    let reason = text.rsplit(": ").next().unwrap_or(&text);
    match reason {
        "Name or service not known" => "there is no such name".to_owned(),
        "No address associated with hostname" => "the name has no address".to_owned(),
        "Temporary failure in name resolution" => UNANSWERED.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_what_one_owner_can_register() {
        for (name, expected) in [
            ("www.shop.example.com", "example.com"),
            ("example.com.", "example.com"),
            ("www.evil.co.uk", "evil.co.uk"),
            ("evil.co.uk", "evil.co.uk"),
            ("co.uk", "co.uk"),
            ("a.b.c.example.co.jp", "example.co.jp"),
            // A rule with a wildcard, and its exception.
            ("a.b.example.ck", "b.example.ck"),
            ("a.www.ck", "www.ck"),
            // A hoster's names have the hoster's name servers.
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
            assert_eq!(domain(name), expected, "{name}");
        }
    }
}
