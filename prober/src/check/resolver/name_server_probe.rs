//! Probe of this machine's name servers, for lookups that hang or end without a response.
//!
//! Responding name servers prove that an unresolved name is the site's fault. Unresponsive name
//! servers are the prober's fault and say nothing about the site. The same holds for name servers
//! that resolve nothing although they did before: a stub on this machine, or a router, answers for
//! itself when its uplink is dead. In a network without the root (one of its own names only) no
//! name server ever resolves the question, so any response counts there.
//!
//! Bound: one probe at a time, whose result is valid for [`PROBE_RESULT_TTL`]. Loss: none.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::UdpSocket,
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::check::os_error::has_public_route;

/// Time to wait for a response before the single retry: a packet may get lost.
const REPLY_TIMEOUT: Duration = Duration::from_millis(600);
const PROBE_ATTEMPTS: usize = 2;
/// Validity of a probe result.
const PROBE_RESULT_TTL: Duration = Duration::from_secs(5);
/// Time between two observations where the question is never resolved.
const OBSERVATION_INTERVAL: Duration = Duration::from_secs(60);
/// DNS query for the name servers of the root, known to every resolver: id 1, recursion desired,
/// one question.
const PROBE_QUERY: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Name servers of this machine.
pub(super) struct NameServers {
    addresses: Vec<SocketAddr>,
    last_result: Mutex<Option<(Instant, Reply)>>,
    /// True once a name server has resolved the question.
    has_resolved: AtomicBool,
    /// True while an observation runs or was made lately.
    is_observing: AtomicBool,
}

/// Best reply of the name servers; later variants are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reply {
    /// No name server responds.
    Silent,
    /// Only name servers of this machine respond, and resolve nothing.
    LocalRefusal,
    /// A name server elsewhere responds, and resolves nothing.
    Refusal,
    /// Only name servers of this machine resolve the question, perhaps from their caches.
    LocalAnswer,
    /// A name server elsewhere resolves the question.
    Answer,
}

impl Reply {
    fn from_message(server: SocketAddr, message: &[u8]) -> Self {
        // The low half of the fourth byte; zero without an error.
        let is_resolved = message.get(3).is_some_and(|byte| byte & 0x0f == 0);
        match (server.ip().is_loopback(), is_resolved) {
            (true, true) => Self::LocalAnswer,
            (false, true) => Self::Answer,
            (true, false) => Self::LocalRefusal,
            (false, false) => Self::Refusal,
        }
    }
}

impl NameServers {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            last_result: Mutex::default(),
            has_resolved: AtomicBool::new(false),
            is_observing: AtomicBool::new(false),
        }
    }

    /// Returns true if the name servers work, so that an unresolved name is the site's fault, or if
    /// no name server is known.
    pub(super) async fn is_working(&self) -> bool {
        if self.addresses.is_empty() {
            return has_public_route();
        }
        match self.probe().await {
            Reply::Answer => true,
            Reply::Silent => false,
            Reply::LocalAnswer => has_public_route(),
            Reply::Refusal => !self.has_resolved.load(Ordering::Relaxed),
            Reply::LocalRefusal => !self.has_resolved.load(Ordering::Relaxed) && has_public_route(),
        }
    }

    /// Returns true if name servers are known and none responds.
    pub(super) async fn is_silent(&self) -> bool {
        !self.addresses.is_empty() && self.probe().await == Reply::Silent
    }

    /// Probes the name servers after a successful lookup, in the background, until one has resolved
    /// the question: the reply in good times gives the meaning of a refusal later.
    pub(super) fn observe_success(self: &Arc<Self>) {
        if self.addresses.is_empty()
            || self.has_resolved.load(Ordering::Relaxed)
            || self.is_observing.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let servers = Arc::clone(self);
        tokio::spawn(async move {
            servers.probe().await;
            tokio::time::sleep(OBSERVATION_INTERVAL).await;
            servers.is_observing.store(false, Ordering::Relaxed);
        });
    }

    async fn probe(&self) -> Reply {
        // Concurrent callers wait for the same result.
        let mut last = self.last_result.lock().await;
        if let Some((at, reply)) = *last
            && at.elapsed() < PROBE_RESULT_TTL
        {
            return reply;
        }
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|server| probe_server(*server)).collect();
        let mut best = Reply::Silent;
        while let Some(one) = asked.next().await {
            best = best.max(one);
            if best == Reply::Answer {
                break;
            }
        }
        if best >= Reply::LocalAnswer {
            self.has_resolved.store(true, Ordering::Relaxed);
        }
        *last = Some((Instant::now(), best));
        best
    }
}

async fn probe_server(server: SocketAddr) -> Reply {
    let from: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asking = async {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(server).await?;
        for _ in 0..PROBE_ATTEMPTS {
            socket.send(&PROBE_QUERY).await?;
            let mut message = [0; 512];
            if let Ok(received) = timeout(REPLY_TIMEOUT, socket.recv(&mut message)).await {
                return received.map(|length| Reply::from_message(server, &message[..length]));
            }
        }
        Ok::<_, std::io::Error>(Reply::Silent)
    };
    // An ICMP refusal means that no name server runs there.
    asking.await.unwrap_or(Reply::Silent)
}

/// Name servers of the system's resolver, from `/etc/resolv.conf`.
pub(in crate::check) fn system_name_servers() -> Vec<SocketAddr> {
    parse_resolv_conf(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    // A link-local address with a zone is skipped: it cannot be used without its link.
    let addresses = named.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    let found: Vec<_> = addresses.map(|address| SocketAddr::new(address, 53)).collect();
    // Without any, the system's resolver asks this machine.
    if found.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_parsed_as_the_system_parses_them() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\n";

        assert_eq!(
            parse_resolv_conf(text),
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]
        );
    }

    #[test]
    fn without_a_name_server_the_machine_itself_is_asked_as_the_system_does() {
        assert_eq!(parse_resolv_conf("search example.com\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    /// Name server that answers every question with the response codes that `codes` yields, the
    /// last one for ever.
    async fn serve_codes(codes: &'static [u8]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let here = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut question = [0; 512];
            let mut next = codes.iter().chain(std::iter::repeat(&codes[codes.len() - 1]));
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                assert_eq!(question[..length], PROBE_QUERY);
                let code = next.next().unwrap();
                socket.send_to(&[0, 1, 0x81, 0x80 | code], from).await.unwrap();
            }
        });
        here
    }

    #[tokio::test]
    async fn a_single_answering_name_server_suffices_and_is_not_queried_again_immediately() {
        let (here, closed) = (serve_codes(&[0, 2]).await, SocketAddr::from(([127, 0, 0, 1], 9)));

        let both = NameServers::new(vec![closed, here]);
        assert_eq!(both.probe().await, Reply::LocalAnswer);
        assert_eq!(both.probe().await, Reply::LocalAnswer, "the second answer would be a refusal");
        assert_eq!(NameServers::new(vec![closed]).probe().await, Reply::Silent);
        assert!(!NameServers::new(vec![closed]).is_working().await);
    }

    /// A stub on this machine answers for itself when its uplink is dead.
    #[tokio::test]
    async fn a_name_server_that_resolved_the_root_once_and_now_fails_is_not_working() {
        const SERVFAIL: u8 = 2;
        let before = NameServers::new(vec![serve_codes(&[0, SERVFAIL]).await]);
        assert_eq!(before.probe().await, Reply::LocalAnswer);
        *before.last_result.lock().await = None;
        assert_eq!(before.probe().await, Reply::LocalRefusal);
        assert!(!before.is_working().await);

        // A network of its own names, where the root was never found: any response counts.
        let never = NameServers::new(vec![serve_codes(&[SERVFAIL]).await]);
        assert_eq!(never.is_working().await, has_public_route());
    }

    #[test]
    fn a_reply_from_elsewhere_says_more_than_one_of_this_machine() {
        let (stub, router) = ("127.0.0.53:53".parse().unwrap(), "192.168.1.1:53".parse().unwrap());

        assert_eq!(Reply::from_message(stub, &[0, 1, 0x81, 0x82]), Reply::LocalRefusal);
        assert_eq!(Reply::from_message(router, &[0, 1, 0x81, 0x82]), Reply::Refusal);
        assert_eq!(Reply::from_message(router, &[0, 1, 0x81, 0x80]), Reply::Answer);
        assert_eq!(Reply::from_message(router, b"an"), Reply::Refusal, "no DNS message");
        assert!(Reply::LocalAnswer > Reply::Refusal);
    }
}
