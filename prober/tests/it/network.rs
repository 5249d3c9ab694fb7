//! Names, families of addresses, and connections that do not come about.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use picket_harness::targets::{FullBacklog, Target};
use picket_prober::check::{CheckLimits, Checker, ClientOptions, Lookup, Observation};
use picket_proto::{Cause, CheckRequest, IpVersion, Outcome};
use tokio::time::Instant;

use crate::http::{assert_down, check_with_limits, get_request, test_limits};

const LOCALHOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A check of a name that `lookup` resolves.
async fn check_named(
    request: &CheckRequest,
    lookup: impl Fn() -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> Observation {
    let checker = Checker::with_lookup(&test_limits(), Arc::new(move |_| lookup())).unwrap();
    checker.run_check(&request.validate().unwrap()).await
}

fn named_request(port: u16) -> CheckRequest {
    CheckRequest { timeout_ms: 5_000, ..CheckRequest::new(format!("http://two.example:{port}/ok")) }
}

/// Whether this machine has IPv6 at all; without it there is nothing to test.
async fn has_ipv6() -> bool {
    let there = tokio::net::TcpListener::bind((LOCALHOST_V6, 0)).await.is_ok();
    if !there {
        eprintln!("no IPv6 here: nothing is tested");
    }
    there
}

#[tokio::test]
async fn a_site_at_an_ipv6_address_is_checked() {
    if !has_ipv6().await {
        return;
    }
    let target = Target::serve_http_at(SocketAddr::new(LOCALHOST_V6, 0)).await.unwrap();

    let seen = get_request(target.url("/ok")).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");

    let only_v4 = CheckRequest { ip_version: IpVersion::V4, ..CheckRequest::new(target.url("/ok")) };
    assert_down(&check_with_limits(&only_v4).await, Cause::Dns, "::1 is no IPv4 address");
}

#[tokio::test]
async fn a_name_with_an_unreachable_family_is_up_by_the_other() {
    if !has_ipv6().await {
        return;
    }
    let target = Target::serve_http().await;
    let port = target.address().port();
    // One that refuses, then one that does not answer at all.
    let seen = check_named(&named_request(port), || Ok(vec![LOCALHOST_V6, LOCALHOST_V4])).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");

    let silent = FullBacklog::listen_at(SocketAddr::new(LOCALHOST_V6, port)).await.unwrap();
    let began = Instant::now();
    let seen = check_named(&named_request(port), || Ok(vec![LOCALHOST_V6, LOCALHOST_V4])).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{seen:?}");
    assert!(seen.timing.connect_us >= Some(250_000), "the wait for the dead address is included: {seen:?}");

    let v6 = CheckRequest { ip_version: IpVersion::V6, timeout_ms: 500, ..named_request(port) };
    let seen = check_named(&v6, || Ok(vec![LOCALHOST_V6, LOCALHOST_V4])).await;
    let waited = format!("no answer within 500 ms (connecting to {})", silent.address());
    assert_down(&seen, Cause::Timeout, &waited);
    let v4 = CheckRequest { ip_version: IpVersion::V4, ..named_request(port) };
    assert_eq!(check_named(&v4, || Ok(vec![LOCALHOST_V6, LOCALHOST_V4])).await.outcome, Outcome::Up);
}

#[tokio::test]
async fn each_check_resolves_the_name_and_opens_a_connection() {
    let target = Target::serve_http().await;
    let request = named_request(target.address().port());
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let lookup: Lookup = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(vec![LOCALHOST_V4])
    });
    let checker = Checker::with_lookup(&test_limits(), lookup).unwrap();

    for _ in 0..3 {
        let seen = checker.run_check(&request.validate().unwrap()).await;
        assert!(seen.timing.dns_us.is_some() && seen.timing.connect_us.is_some(), "{seen:?}");
    }

    assert_eq!((lookups.load(Ordering::SeqCst), target.accepted_connections()), (3, 3));
}

#[tokio::test]
async fn a_name_without_a_reachable_address_is_down_and_lists_its_addresses() {
    let port = Target::closed_address().await.port();
    let other = IpAddr::from([127, 0, 0, 2]);

    let seen = check_named(&named_request(port), move || Ok(vec![LOCALHOST_V4, other])).await;

    let message = format!("connection refused (connecting to 127.0.0.1:{port}, 127.0.0.2:{port})");
    assert_down(&seen, Cause::Connect, &message);
    assert!(seen.timing.dns_us.is_some() && seen.timing.connect_us.is_some(), "{seen:?}");
    assert!(seen.timing.first_byte_us.is_none() && seen.remote_addr.is_none(), "{seen:?}");
}

/// Also on a machine without IPv6, which was once reported as exhausted ports.
#[tokio::test]
async fn a_name_with_closed_ports_in_both_families_is_down_by_connect() {
    let port = Target::closed_address().await.port();
    for addresses in [vec![LOCALHOST_V4, LOCALHOST_V6], vec![LOCALHOST_V6, LOCALHOST_V4]] {
        let seen = check_named(&named_request(port), move || Ok(addresses.clone())).await;

        assert_eq!((seen.outcome, seen.cause), (Outcome::Down, Some(Cause::Connect)), "{seen:?}");
    }
}

#[tokio::test]
async fn a_host_that_drops_connections_is_down_by_timeout_while_connecting() {
    let silent = FullBacklog::listen_at(SocketAddr::new(LOCALHOST_V4, 0)).await.unwrap();
    let url = format!("http://{}/", silent.address());

    let seen = check_with_limits(&CheckRequest { timeout_ms: 300, ..CheckRequest::new(url) }).await;

    let message = format!("no answer within 300 ms (connecting to {})", silent.address());
    assert_down(&seen, Cause::Timeout, &message);
    assert!(seen.timing.connect_us > Some(200_000) && seen.timing.first_byte_us.is_none(), "{seen:?}");
    assert!(seen.timing.dns_us.is_none() && seen.remote_addr.is_none(), "{seen:?}");
}

/// Nobody may connect to the broadcast address: it stands for one without a route.
#[tokio::test]
async fn a_name_without_a_route_is_missed_and_not_down() {
    let checker = Checker::with_lookup(
        &CheckLimits { allowed_networks: vec!["255.255.255.255/32".parse().unwrap()], ..test_limits() },
        Arc::new(|_| Ok(vec![[255, 255, 255, 255].into()])),
    )
    .unwrap();

    let seen = checker.run_check(&named_request(80).validate().unwrap()).await;

    assert_eq!((seen.outcome, seen.cause), (Outcome::Missed, Some(Cause::ProberOffline)), "{seen:?}");
    let message = seen.message.as_deref().unwrap_or_default();
    assert_eq!(message, "this prober has no route (connecting to 255.255.255.255:80)");
}

#[tokio::test]
async fn a_name_without_addresses_is_down_by_dns() {
    let nobody = io::ErrorKind::NotFound;
    let seen =
        check_named(&named_request(80), move || Err(io::Error::new(nobody, "Name or service not known")))
            .await;
    assert_down(&seen, Cause::Dns, "could not resolve two.example: there is no such name");
    let seen = check_named(&named_request(80), || {
        Err(io::Error::other("failed to lookup address information: Temporary failure in name resolution"))
    })
    .await;
    match seen.outcome {
        // On a machine without a route to the world the fault is its own.
        Outcome::Missed => assert_eq!(seen.cause, Some(Cause::ProberOffline), "{seen:?}"),
        _ => assert_down(&seen, Cause::Dns, "could not resolve two.example: the name servers did not answer"),
    }
    let seen = check_named(&named_request(80), || Ok(Vec::new())).await;
    assert_down(&seen, Cause::Dns, "two.example has no IP address");
    let v6 = CheckRequest { ip_version: IpVersion::V6, ..named_request(80) };
    let seen = check_named(&v6, || Ok(vec![LOCALHOST_V4])).await;
    assert_down(&seen, Cause::Dns, "two.example has no IPv6 address");
    assert!(seen.timing.dns_us.is_some() && seen.timing.connect_us.is_none(), "{seen:?}");
}

#[tokio::test]
async fn an_unanswered_lookup_is_missed_when_all_name_servers_are_silent() {
    let answering = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = answering.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((_, from)) = answering.recv_from(&mut question).await {
            // No error: the low half of the fourth byte is zero.
            let _ = answering.send_to(&[0, 1, 0x81, 0x80], from).await;
        }
    });
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let no_answer =
        || io::Error::other("failed to lookup address information: Temporary failure in name resolution");
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let lookup: Lookup = Arc::new(move |name| {
        if name == "hangs.example" {
            let _ = held.lock().recv();
        }
        Err(no_answer())
    });
    let seen = async |name: &str, name_server| {
        let asking = ClientOptions {
            lookup: Arc::clone(&lookup),
            name_servers: vec![name_server],
            ..ClientOptions::default()
        };
        let request = CheckRequest { timeout_ms: 4_000, ..CheckRequest::new(format!("http://{name}/")) };
        Checker::with_options(&test_limits(), asking).unwrap().run_check(&request.validate().unwrap()).await
    };

    let offline = (Outcome::Missed, Some(Cause::ProberOffline));
    let silent = silent.local_addr().unwrap();
    for name in ["fails.example", "hangs.example"] {
        let seen = seen(name, silent).await;
        assert_eq!((seen.outcome, seen.cause), offline, "{seen:?}");
    }
    let seen = seen("hangs.example", server).await;
    assert_down(&seen, Cause::Timeout, "no answer within 4 s (resolving the name)");
    drop(hold);
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_in_time_is_down_by_timeout_while_resolving() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let request = CheckRequest { timeout_ms: 300, ..named_request(80) };
    let began = Instant::now();

    let seen = check_named(&request, move || {
        let _ = held.lock().recv();
        Ok(Vec::new())
    })
    .await;

    assert_down(&seen, Cause::Timeout, "no answer within 300 ms (resolving the name)");
    assert!(began.elapsed() < Duration::from_secs(3), "the thread is not waited for");
    assert!(seen.timing.dns_us > Some(200_000) && seen.timing.connect_us.is_none(), "{seen:?}");
    drop(release);
}
