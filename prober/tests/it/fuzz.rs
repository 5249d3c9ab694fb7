//! For any response a check ends in time, with a readable verdict, and connects to no forbidden
//! address. Inputs are the stored corpus of responses, mutations of it, headers that a check reads,
//! and invalid certificates.
//!
//! `PROPTEST_CASES` sets the number of cases (256). Cases that failed once are stored beside this
//! file and run first.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use picket_harness::certificates::Identity;
use picket_prober::check::{CheckLimits, Checker, Observation};
use picket_proto::{Check, CheckRequest, Outcome};
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::http::test_limits;

const TIMEOUT: Duration = Duration::from_secs(5);

fn new_runner() -> TestRunner {
    let kept = FileFailurePersistence::WithSource("regressions");
    TestRunner::new(ProptestConfig {
        failure_persistence: Some(Box::new(kept)),
        source_file: Some(file!()),
        ..ProptestConfig::default()
    })
}

/// Sends the same bytes on each connection, and closes it.
struct FuzzedSite {
    runtime: Runtime,
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    checker: Checker,
    /// A forbidden address.
    forbidden: TcpListener,
}

impl FuzzedSite {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = Arc::new(Mutex::new(Vec::new()));
        let (listener, forbidden) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            (listener, TcpListener::bind(("127.0.0.2", port)).await.unwrap())
        });
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve_answers(listener, Arc::clone(&answer)));
        let limits =
            CheckLimits { allowed_networks: vec![IpAddr::from([127, 0, 0, 1]).into()], ..test_limits() };
        // Every name resolves to a forbidden address.
        let lookup = |_: &str| Ok(vec![IpAddr::from([127, 0, 0, 2])]);
        Self {
            runtime,
            address,
            answer,
            checker: Checker::with_lookup(&limits, Arc::new(lookup)).unwrap(),
            forbidden,
        }
    }

    fn build_request(&self) -> Check {
        let request = CheckRequest {
            timeout_ms: i64::try_from(TIMEOUT.as_millis()).unwrap(),
            regex: Some("w[e]ll".into()),
            ..CheckRequest::new(format!("http://{}/", self.address))
        };
        request.validate().unwrap()
    }

    /// The observation of a check whose site responds with `answer`.
    fn check_answer(&self, answer: Vec<u8>) -> Observation {
        *self.answer.lock() = answer;
        let began = Instant::now();
        let seen = self.runtime.block_on(self.checker.run_check(&self.build_request()));
        assert_sound(&seen);
        assert!(began.elapsed() < TIMEOUT * 2, "{seen:?}");
        let stray =
            self.runtime.block_on(async { futures_util::FutureExt::now_or_never(self.forbidden.accept()) });
        assert!(stray.is_none(), "{seen:?}");
        seen
    }
}

async fn serve_answers(listener: TcpListener, answer: Arc<Mutex<Vec<u8>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.lock().clone();
        tokio::spawn(async move {
            let _ = timeout(TIMEOUT, write_answer(stream, &answer)).await;
        });
    }
}

async fn write_answer(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer).await?;
    stream.shutdown().await
}

/// A verdict, and words that a log, a terminal and a database can hold.
fn assert_sound(seen: &Observation) {
    match (seen.outcome, seen.cause, &seen.message) {
        (Outcome::Up, None, None) => {}
        (outcome, Some(cause), Some(message)) => {
            assert_eq!(Some(outcome), cause.outcome(), "{seen:?}");
            assert!(!message.is_empty() && message.len() <= 600, "{seen:?}");
            assert!(!message.chars().any(char::is_control), "{seen:?}");
        }
        _ => panic!("{seen:?}"),
    }
    assert!(seen.body_bytes <= 100_000 && seen.redirects <= 10, "{seen:?}");
    assert!(seen.timing.total_us.is_some(), "{seen:?}");
}

fn answer_corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/answers");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "the corpus is there");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// `bytes`, with some of them changed, left out, repeated, or others put in.
fn mutate_bytes(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_u8..4, any::<u8>(), 1_usize..40);
    (bytes, prop::collection::vec(change, 0..8)).prop_map(|(mut bytes, changes)| {
        for (place, kind, byte, length) in changes {
            let at = place.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

#[test]
fn every_response_of_the_corpus_ends_in_a_verdict() {
    let site = FuzzedSite::new();

    for answer in answer_corpus() {
        site.check_answer(answer);
    }
}

#[test]
fn a_mutated_response_ends_in_a_verdict() {
    let site = FuzzedSite::new();
    let answers = mutate_bytes(prop::sample::select(answer_corpus()));

    new_runner()
        .run(&answers, |answer| {
            site.check_answer(answer);
            Ok(())
        })
        .unwrap();
}

/// The hosts are the forbidden listener in all notations, or names that resolve to it.
#[test]
fn no_redirect_leads_to_a_private_address() {
    let site = FuzzedSite::new();
    let scheme = prop::sample::select(vec![
        "http:",
        "https:",
        "",
        "HTTP:",
        "ftp:",
        "file:",
        "//",
        "javascript:",
        "http",
    ]);
    let slashes =
        prop::sample::select(vec!["//", "/", "\\\\", "/\\", "///", "", "//@", "//a:b@", "//127.0.0.1@"]);
    let host = prop_oneof![
        prop::sample::select(vec![
            "127.0.0.2",
            "127.2",
            "0x7f.2",
            "0x7f000002",
            "2130706434",
            "0177.0.0.2",
            "[::ffff:127.0.0.2]",
            "[::ffff:7f00:2]",
            "[::127.0.0.2]",
            "[64:ff9b::7f00:2]",
            "localhost",
            "a.example",
            "169.254.169.254",
            "127.0.0.2.",
            "%31%32%37.0.0.2",
            "127。0。0。2",
            "[::1]",
            "0",
            "",
        ])
        .prop_map(str::to_owned),
        ".{0,20}",
    ];
    let rest = prop_oneof![Just(String::new()), Just("/".to_owned()), "[/?#:@%\\\\ ].{0,20}"];
    let port = site.address.port();
    let location = (scheme, slashes, host, any::<bool>(), rest).prop_map(
        move |(scheme, slashes, host, with_port, rest)| {
            let port = if with_port { format!(":{port}") } else { String::new() };
            format!("{scheme}{slashes}{host}{port}{rest}").replace(['\r', '\n', '\0'], "")
        },
    );
    let bytes = prop_oneof![location.prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..60)];

    let run = new_runner().run(
        &(bytes, prop::sample::select(vec![301, 302, 303, 307, 308])),
        |(location, status)| {
            let mut answer =
                format!("HTTP/1.1 {status} Elsewhere\r\ncontent-length: 0\r\nlocation: ").into_bytes();
            answer.extend(location.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
            answer.extend(b"\r\n\r\n");
            let seen = site.check_answer(answer);
            prop_assert_ne!(seen.outcome, Outcome::Up);
            Ok(())
        },
    );
    run.unwrap();
}

#[test]
fn any_claimed_encoding_ends_in_a_verdict() {
    let site = FuzzedSite::new();
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x4b\xce\xcf\x2d\x28\x4a\x2d\x2e\x4e\x4d\x51\x48\xcc\x4b\x51\x28\x4f\xcd\xc9\x01\0\xc0\x46\xbf\x94\x13\0\0\0";
    let names = prop::collection::vec(
        prop::sample::select(vec![
            "gzip", "x-gzip", "br", "deflate", "identity", "zstd", "compress", "GZIP", "", "\u{e9}",
        ]),
        0..6,
    );
    let body = prop_oneof![mutate_bytes(Just(gzip.to_vec())), prop::collection::vec(any::<u8>(), 0..200)];

    let run = new_runner().run(&(names, body, any::<bool>()), |(names, body, has_length)| {
        let length = if has_length { format!("content-length: {}\r\n", body.len()) } else { String::new() };
        let names = names.join(", ");
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {names}\r\n{length}\r\n").into_bytes();
        answer.extend(body);
        site.check_answer(answer);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn any_cookies_still_lead_to_the_next_hop() {
    let site = FuzzedSite::new();
    let cookie = "[A-Za-z_=; .,\"-]{0,40}|__(Host|Secure)-[a-z]=[a-z]; .{0,30}|.{0,60}";
    let cookies = prop::collection::vec(cookie, 0..8);

    let run = new_runner().run(&cookies, |cookies| {
        let lines: String = cookies
            .iter()
            .map(|cookie| {
                format!("set-cookie: {}\r\n", cookie.replace(|letter: char| letter.is_control(), ""))
            })
            .collect();
        let seen = site.check_answer(
            format!("HTTP/1.1 302 F\r\n{lines}location: /\r\ncontent-length: 0\r\n\r\n").into_bytes(),
        );
        // Back at the start is a loop, or another request if a cookie was set.
        prop_assert!(seen.message.is_some_and(|message| message.contains("redirect")));
        Ok(())
    });
    run.unwrap();
}

/// Shows a certificate without asking whether it is one.
#[derive(Debug)]
struct FuzzedCertificate(Mutex<Vec<u8>>, PrivateKeyDer<'static>);

impl ResolvesServerCert for FuzzedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = aws_lc_rs::sign::any_supported_type(&self.1).ok()?;
        let certificate = CertificateDer::from(self.0.lock().clone());
        Some(Arc::new(CertifiedKey::new(vec![certificate], key)))
    }
}

#[test]
fn any_certificate_ends_in_a_verdict() {
    let site = FuzzedSite::new();
    let identity = Identity::self_signed(&["127.0.0.1"]);
    let whole = identity.certificate().to_vec();
    let shown = Arc::new(FuzzedCertificate(Mutex::default(), identity.key()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = site.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    site.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"HTTP/1.1 204 Well\r\n\r\n").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    let certificates = prop_oneof![
        9 => mutate_bytes(Just(whole)),
        1 => prop::collection::vec(any::<u8>(), 1..300),
    ];

    let run = new_runner().run(&(certificates, any::<bool>()), |(certificate, tls_verify)| {
        *shown.0.lock() = certificate;
        let request = CheckRequest { tls_verify, ..CheckRequest::new(&url) };
        assert_sound(&site.runtime.block_on(site.checker.run_check(&request.validate().unwrap())));
        Ok(())
    });
    run.unwrap();
}
