//! TLS to NATS and Postgres: a wrong authority, a missing certificate, a wrong credential, each refused by the name of the
//! variable that is to blame.

use picket_harness::servers;

use crate::{SecuredNats, TlsFiles, run_picket, run_picket_ok};

struct TlsCase<'a> {
    name: &'a str,
    variables: Vec<(&'a str, &'a str)>,
    /// Expected error; `None` for success.
    expected_error: Option<&'a str>,
}

impl TlsCase<'_> {
    /// Difference from the expected outcome.
    fn find_mismatch(self, bus: &SecuredNats) -> Option<String> {
        let url = bus.server.url();
        let output = run_picket(&["probers"], &[self.variables, vec![("NATS_URL", url.as_str())]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let is_right = match self.expected_error {
            None => output.status.success(),
            Some(words) => !output.status.success() && said.contains(words),
        };
        (!is_right).then(|| format!("{}: {:?} {said}", self.name, output.status.code()))
    }
}

#[tokio::test]
async fn nats_over_tls_accepts_valid_certificates_and_names_the_wrong_variable_otherwise() {
    let (papers, strangers) = (TlsFiles::new(), TlsFiles::new());
    let (certificate, key, ca) =
        (papers.file_path("server.pem"), papers.file_path("server-key.pem"), papers.ca_path());
    let one_way = SecuredNats::start(&[], &["--tls-cert", &certificate, "--tls-key", &key]).await;
    let mutual =
        SecuredNats::start(&[], &["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca]).await;
    let (client, client_key) = (papers.file_path("client.pem"), papers.file_path("client-key.pem"));
    let (stranger, stranger_key) = (strangers.file_path("client.pem"), strangers.file_path("client-key.pem"));
    let other_ca = strangers.ca_path();
    let seed = |bus: &SecuredNats| bus.seed_path("operator");
    let (one_way_seed, mutual_seed) = (seed(&one_way), seed(&mutual));
    let own = [("NATS_CERT", client.as_str()), ("NATS_KEY", client_key.as_str())];
    let strange = [("NATS_CERT", stranger.as_str()), ("NATS_KEY", stranger_key.as_str())];

    let cases = |seed, other_seed| -> Vec<TlsCase<'_>> {
        vec![
            TlsCase {
                name: "right",
                variables: vec![("NATS_NKEY", seed), ("NATS_CA", &ca)],
                expected_error: None,
            },
            TlsCase {
                name: "other authority",
                variables: vec![("NATS_NKEY", seed), ("NATS_CA", &other_ca)],
                expected_error: Some("NATS_CA: '"),
            },
            TlsCase {
                name: "no authority",
                variables: vec![("NATS_NKEY", seed)],
                expected_error: Some("NATS_CA is not set"),
            },
            TlsCase {
                name: "no credential",
                variables: vec![("NATS_CA", &ca)],
                expected_error: Some("NATS_NKEY"),
            },
            TlsCase {
                name: "another's credential",
                variables: vec![("NATS_NKEY", other_seed), ("NATS_CA", &ca)],
                expected_error: Some("NATS_NKEY"),
            },
            TlsCase {
                name: "no seed",
                variables: vec![("NATS_NKEY", &ca), ("NATS_CA", &ca)],
                expected_error: Some("holds no nkey seed"),
            },
        ]
    };
    let right = vec![("NATS_NKEY", mutual_seed.as_str()), ("NATS_CA", ca.as_str())];
    let none = TlsCase {
        name: "no certificate",
        variables: right.clone(),
        expected_error: Some("NATS_CERT and NATS_KEY are not set"),
    };
    let with = [right, strange.to_vec()].concat();
    let another =
        TlsCase { name: "a stranger's certificate", variables: with, expected_error: Some("NATS_CERT") };
    let with_own = cases(&mutual_seed, &one_way_seed)
        .into_iter()
        .map(|case| TlsCase { variables: [case.variables, own.to_vec()].concat(), ..case });
    let all = cases(&one_way_seed, &mutual_seed).into_iter().map(|case| (&one_way, case));
    let all = all.chain(with_own.chain([none, another]).map(|case| (&mutual, case)));
    // Side by side, since each that is refused takes its seconds.
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let judging: Vec<_> = all.map(|(bus, case)| scope.spawn(move || case.find_mismatch(bus))).collect();
        judging.into_iter().filter_map(|judged| judged.join().unwrap()).collect()
    });

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_over_tls_is_verified_and_a_wrong_authority_is_refused() {
    let (papers, strangers) = (TlsFiles::new(), TlsFiles::new());
    let postgres = servers::start_postgres().await;
    let database = postgres.create_database().await;
    let front = papers.start_tls_proxy(postgres.port(), None).await;
    let (_, name) = database.rsplit_once('/').unwrap();
    let (user, _) = database.rsplit_once('@').unwrap();
    let with =
        |ca: &str| format!("{user}@127.0.0.1:{}/{name}?sslmode=verify-full&sslrootcert={ca}", front.port());
    run_picket_ok(&["migrate"], &[("DATABASE_URL", &with(&papers.ca_path()))]);

    let refused = run_picket(&["site", "list"], &[("DATABASE_URL", &with(&strangers.ca_path()))]);
    let elsewhere = with(&papers.ca_path()).replace("127.0.0.1", "localhost");
    let wrong_host = run_picket(&["site", "list"], &[("DATABASE_URL", &elsewhere)]);

    run_picket_ok(&["site", "list"], &[("DATABASE_URL", &with(&papers.ca_path()))]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("UnknownIssuer") && said.contains("sslrootcert"), "{said}");
    assert_eq!(wrong_host.status.code(), Some(3), "{wrong_host:?}");
}
