//! Names to addresses: the system's resolver, on a bounded number of threads, with the addresses vetted.

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

use self::threads::Threads;
use super::{
    addresses::Addresses,
    phases::{self, Stage},
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
    #[error("{host} could not be looked up: this prober has no route to any name server, nor to the world")]
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
    /// Where nobody answers, a machine that has no route to the world is at fault, and not the name's servers.
    fn of_lookup(host: String, why: &io::Error, has_route: impl FnOnce() -> bool) -> Self {
        match reason(why) {
            why if why == UNANSWERED && !has_route() => Self::Offline { host },
            why => Self::Lookup { host, why },
        }
    }

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
    threads: Threads,
    domains: Hosts,
    room: Room,
}

impl Resolver {
    /// Names of one registrable domain may have so many threads: name servers that do not answer take theirs, and no others.
    const A_DOMAINS: usize = 128;

    /// Longer than any check.
    const LONGEST: Duration = Duration::from_secs(120);

    /// Threads are counted in `running`.
    pub(super) fn new(addresses: Addresses, lookup: Lookup, running: Gauge) -> Self {
        Self {
            addresses,
            lookup,
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
        let (domains, room) = (self.domains.clone(), self.room.clone());
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
                    _ => Error::of_lookup(asked, &why, verdict::has_public_route),
                })
            });
            let found = match timeout(threads::HANGS, &mut looking).await {
                Ok(found) => {
                    watching.is_quick();
                    found
                }
                Err(_) => {
                    watching.hangs();
                    looking.await
                }
            };
            let vetted = vet(&addresses, &host, found.map_err(|_| Error::NoThread)??)?;
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
    fn a_lookup_that_nobody_answers_is_the_probers_fault_where_it_has_no_route() {
        let no_answer =
            io::Error::other("failed to lookup address information: Temporary failure in name resolution");
        let no_name = io::Error::other("failed to lookup address information: Name or service not known");
        let of = |why, has_route| Error::of_lookup("a.example".to_owned(), why, || has_route).cause();

        assert_eq!(of(&no_answer, false), Cause::ProberOffline);
        assert_eq!(of(&no_answer, true), Cause::Dns);
        assert_eq!(of(&no_name, false), Cause::Dns, "somebody has answered");
    }

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
