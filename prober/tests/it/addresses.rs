//! Forbidden addresses, by any way that leads to them. "Private" here is a loopback address that is
//! not allowed.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use picket_harness::{builders::scheduled_job_subject, targets::Target};
use picket_prober::check::{CheckLimits, Checker, ClientOptions, Observation};
use picket_proto::{Cause, CheckRequest, Outcome, SiteId};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;

use crate::{
    bus::{STATE_TIMEOUT, TestRegion, scheduled_request},
    http::test_limits,
};

/// Answers of a name server, each of which may differ from the last; the last one stays.
struct StubResolver {
    answers: Mutex<HashMap<&'static str, Vec<Vec<IpAddr>>>>,
}

impl StubResolver {
    fn new(names: &[(&'static str, &[&[&str]])]) -> Arc<Self> {
        let parse = |address: &&str| address.parse().unwrap();
        let answers = names.iter().map(|(name, answers)| {
            (*name, answers.iter().map(|answer| answer.iter().map(parse).collect()).collect())
        });
        Arc::new(Self { answers: Mutex::new(answers.collect()) })
    }

    /// A checker with this lookup that may connect to 127.0.0.1 only.
    fn build_checker(self: &Arc<Self>) -> Checker {
        let names = Arc::clone(self);
        let lookup = move |name: &str| names.resolve_name(name);
        let limits = CheckLimits {
            allowed_networks: vec!["127.0.0.1".parse::<IpAddr>().unwrap().into()],
            ..test_limits()
        };
        Checker::with_lookup(&limits, Arc::new(lookup)).unwrap()
    }

    fn resolve_name(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.answers.lock();
        let answers = names.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

/// A listener at a forbidden address.
async fn bind_forbidden(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.2", port)).await.unwrap()
}

/// Returns true if no connection was made: an earlier one would be in the listener's queue.
async fn is_untouched(listener: &TcpListener) -> bool {
    futures_util::FutureExt::now_or_never(listener.accept()).is_none()
}

async fn check_url(checker: &Checker, url: &str) -> Observation {
    checker.run_check(&CheckRequest::new(url).validate().unwrap()).await
}

#[track_caller]
fn assert_blocked(seen: &Observation, what: &str) {
    assert_eq!((seen.outcome, seen.cause), (Outcome::Missed, Some(Cause::Blocked)), "{what}: {seen:?}");
    assert_eq!(seen.timing.connect_us, None, "{what}: {seen:?}");
}

#[tokio::test]
async fn a_private_address_is_not_connected_to_in_any_notation() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let checker = Checker::new(&CheckLimits { allowed_networks: Vec::new(), ..test_limits() }).unwrap();

    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7F.1",
        "%31%32%37.0.0.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "0x0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        // Metadata addresses of clouds, and private networks.
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
    ] {
        assert_blocked(&check_url(&checker, &format!("http://{host}:{port}/ok")).await, host);
    }
    assert_eq!(target.accepted_connections(), 0);
}

#[tokio::test]
async fn a_prober_refuses_loopback_unless_it_is_allowed() {
    let (place, target) = (TestRegion::on_shared_nats("addresses-default").await, Target::serve_http().await);
    let _prober = place.start_ready_with("one", 10, |config| config.limits.allowed_networks.clear()).await;

    place
        .publish_request(
            &scheduled_job_subject(&place.region, SiteId(1)),
            &scheduled_request(1, &target.url("/ok")),
        )
        .await;
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Blocked)));
    assert_eq!(target.accepted_connections(), 0);
}

#[tokio::test]
async fn only_allowed_addresses_of_a_name_are_connected_to() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let private = bind_forbidden(port).await;
    let names = StubResolver::new(&[
        ("mixed.example", &[&["127.0.0.2", "10.0.0.1", "127.0.0.1"]]),
        ("private.example", &[&["127.0.0.2", "10.0.0.1"]]),
        ("metadata.example", &[&["169.254.169.254", "fd00:ec2::254"]]),
        ("mapped.example", &[&["::ffff:127.0.0.2", "64:ff9b::7f00:2"]]),
    ]);
    let checker = names.build_checker();

    let seen = check_url(&checker, &format!("http://mixed.example:{port}/ok")).await;
    assert_eq!((seen.outcome, seen.remote_addr), (Outcome::Up, Some(target.address())), "{seen:?}");
    for name in ["private", "metadata", "mapped"] {
        assert_blocked(&check_url(&checker, &format!("http://{name}.example:{port}/ok")).await, name);
    }
    assert!(is_untouched(&private).await);
}

/// The trick is to answer the one who vets with a public address, and the one who connects with a private one.
#[tokio::test]
async fn dns_rebinding_reaches_no_private_address() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let private = bind_forbidden(port).await;
    let names = StubResolver::new(&[("rebinding.example", &[&["127.0.0.1"], &["127.0.0.2"]])]);
    let checker = names.build_checker();

    let first = check_url(&checker, &format!("http://rebinding.example:{port}/ok")).await;
    let second = check_url(&checker, &format!("http://rebinding.example:{port}/ok")).await;

    assert_eq!((first.outcome, first.remote_addr), (Outcome::Up, Some(target.address())), "{first:?}");
    assert_blocked(&second, "the second check");
    assert!(second.message.unwrap().contains("rebinding.example is at 127.0.0.2"));
    assert_eq!(target.accepted_connections(), 1);
    assert!(is_untouched(&private).await);
}

#[tokio::test]
async fn each_hop_is_vetted() {
    let target = Target::serve_http().await;
    let port = target.address().port();
    let private = bind_forbidden(port).await;
    let names = StubResolver::new(&[
        ("site.example", &[&["127.0.0.1"], &["127.0.0.2"]]),
        ("private.example", &[&["127.0.0.2"]]),
        ("public.example", &[&["127.0.0.1"]]),
    ]);
    let checker = names.build_checker();

    for location in [
        format!("http://private.example:{port}/ok"),
        format!("http://127.0.0.2:{port}/ok"),
        format!("http://0x7f.2:{port}/ok"),
        format!("http://2130706434:{port}/ok"),
        format!("http://[::ffff:127.0.0.2]:{port}/ok"),
        format!("//127.0.0.2:{port}/latest/meta-data/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
    ] {
        let seen = check_url(&checker, &format!("http://public.example:{port}/to/{location}")).await;
        assert_eq!(
            (seen.outcome, seen.cause),
            (Outcome::Missed, Some(Cause::Blocked)),
            "{location}: {seen:?}"
        );
        assert_eq!(seen.redirects, 1, "{location}");
    }
    // The name of the first hop once more, with another address.
    let seen = check_url(&checker, &format!("http://site.example:{port}/redirect/1")).await;
    assert_eq!((seen.outcome, seen.cause), (Outcome::Missed, Some(Cause::Blocked)), "{seen:?}");
    assert!(is_untouched(&private).await);
}

/// As when the name servers of a hoster are away: each domain has few lookups, and all of them hang.
#[tokio::test]
async fn many_domains_with_hanging_lookups_leave_threads_to_healthy_ones() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let lookup = move |name: &str| match name.starts_with("hangs-") {
        true => {
            let _ = held.lock().recv();
            Err(io::ErrorKind::TimedOut.into())
        }
        false => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
    };
    let checker = Checker::with_lookup(&test_limits(), Arc::new(lookup)).unwrap();
    let server = Target::serve_http().await;
    let port = server.address().port();

    for wave in 0..3 {
        let hanging = (0..220).map(|number| {
            let request =
                CheckRequest { timeout_ms: 500, ..CheckRequest::new(format!("http://hangs-{number}.com/")) };
            let checker = &checker;
            async move { checker.run_check(&request.validate().unwrap()).await }
        });
        let hanging = futures_util::future::join_all(hanging).await;
        assert!(hanging.iter().all(|seen| seen.outcome != Outcome::Up));
        let well = check_url(&checker, &format!("http://www.well-{wave}.com:{port}/ok")).await;
        assert_eq!(well.outcome, Outcome::Up, "wave {wave}: {well:?}");
    }
    drop(hold);
}

#[tokio::test]
async fn hanging_lookups_of_one_registrable_domain_are_counted_and_delay_no_others() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let lookups = Gauge::default();
    let lookup = move |name: &str| match name.ends_with(".hangs.co.uk") {
        true => {
            let _ = held.lock().recv();
            Err(io::ErrorKind::TimedOut.into())
        }
        false => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
    };
    let asking = ClientOptions {
        lookup: Arc::new(lookup),
        name_servers: Vec::new(),
        running_lookups: lookups.clone(),
        ..ClientOptions::default()
    };
    let checker = Checker::with_options(&test_limits(), asking).unwrap();
    let server = Target::serve_http().await;
    let port = server.address().port();

    let hanging = (0..300).map(|number| {
        let url = format!("http://{number}.hangs.co.uk/");
        let request = CheckRequest { timeout_ms: 500, ..CheckRequest::new(url) };
        let checker = &checker;
        async move { checker.run_check(&request.validate().unwrap()).await }
    });
    let hanging = futures_util::future::join_all(hanging).await;
    let well = check_url(&checker, &format!("http://www.well.co.uk:{port}/ok")).await;

    let of = |cause| hanging.iter().filter(|seen| seen.cause == Some(cause)).count();
    // Of one domain as many as may hang do; that the others had no thread is our trouble.
    assert_eq!((of(Cause::Timeout), of(Cause::Overloaded)), (128, 172));
    assert_eq!(well.outcome, Outcome::Up, "{well:?}");
    assert_eq!(lookups.get(), 128, "their threads are not free yet");
    drop(hold);
    picket_harness::eventually(STATE_TIMEOUT, "free threads", async || match lookups.get() {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}
