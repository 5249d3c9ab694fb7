//! Probe of this machine's name servers, for lookups that hang or end without a response.
//!
//! Responding name servers prove that an unresolved name is the site's fault; any response counts.
//! Unresponsive name servers are the prober's fault and say nothing about the site.
//!
//! Bound: one probe at a time, whose result is valid for [`PROBE_RESULT_TTL`]. Loss: none.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::UdpSocket,
    sync::Mutex,
    time::{Instant, timeout},
};

/// Time to wait for a response before the single retry: a packet may get lost.
const REPLY_TIMEOUT: Duration = Duration::from_millis(600);
const PROBE_ATTEMPTS: usize = 2;
/// Validity of a probe result.
const PROBE_RESULT_TTL: Duration = Duration::from_secs(5);
/// DNS query for the name servers of the root, known to every resolver: id 1, recursion desired,
/// one question.
const PROBE_QUERY: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Name servers of this machine.
pub(super) struct NameServers {
    addresses: Vec<SocketAddr>,
    last_result: Mutex<Option<(Instant, bool)>>,
}

impl NameServers {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, last_result: Mutex::default() }
    }

    /// Returns true if any name server responds, or if no name server is known.
    pub(super) async fn is_answering(&self) -> bool {
        if self.addresses.is_empty() {
            return true;
        }
        // Concurrent callers wait for the same result.
        let mut last = self.last_result.lock().await;
        if let Some((at, answered)) = *last
            && at.elapsed() < PROBE_RESULT_TTL
        {
            return answered;
        }
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|server| probe_server(*server)).collect();
        let mut answered = false;
        while let Some(one) = asked.next().await {
            answered = one;
            if answered {
                break;
            }
        }
        *last = Some((Instant::now(), answered));
        answered
    }
}

async fn probe_server(server: SocketAddr) -> bool {
    let from: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asking = async {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(server).await?;
        for _ in 0..PROBE_ATTEMPTS {
            socket.send(&PROBE_QUERY).await?;
            if let Ok(received) = timeout(REPLY_TIMEOUT, socket.recv(&mut [0; 512])).await {
                return received.map(|_| true);
            }
        }
        Ok::<_, std::io::Error>(false)
    };
    // An ICMP refusal means that no name server runs there.
    asking.await.unwrap_or(false)
}

/// Name servers of the system's resolver, from `/etc/resolv.conf`.
pub(in crate::check) fn system_name_servers() -> Vec<SocketAddr> {
    fs::read_to_string("/etc/resolv.conf").map(|text| parse_resolv_conf(&text)).unwrap_or_default()
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    // A link-local address with a zone is skipped: it cannot be used without its link.
    let addresses = named.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
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

    #[tokio::test]
    async fn any_answering_name_server_suffices_and_an_empty_list_counts_as_answering() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (here, closed) = (socket.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 9)));
        tokio::spawn(async move {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            assert_eq!(question[..length], PROBE_QUERY);
            socket.send_to(b"any", from).await.unwrap();
        });

        let both = NameServers::new(vec![closed, here]);
        assert!(both.is_answering().await);
        assert!(both.is_answering().await, "it is not queried again immediately");
        assert!(!NameServers::new(vec![closed]).is_answering().await);
        assert!(NameServers::new(Vec::new()).is_answering().await);
    }
}
