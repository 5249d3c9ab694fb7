//! TLS to NATS and Postgres: a wrong authority, a missing certificate, a wrong credential, each refused by the name of the
//! variable that is to blame.

use picket_testkit::servers;

use crate::{Bus, Papers, picket, well};

struct Case<'a> {
    what: &'a str,
    variables: Vec<(&'a str, &'a str)>,
    /// What is said; `None` where all is well.
    says: Option<&'a str>,
}

impl Case<'_> {
    /// What is wrong with what came of it.
    fn judge(self, bus: &Bus) -> Option<String> {
        let url = bus.server.url();
        let output = picket(&["probers"], &[self.variables, vec![("NATS_URL", url.as_str())]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let is_right = match self.says {
            None => output.status.success(),
            Some(words) => !output.status.success() && said.contains(words),
        };
        (!is_right).then(|| format!("{}: {:?} {said}", self.what, output.status.code()))
    }
}

#[tokio::test]
async fn nats_over_tls_lets_in_who_has_the_right_papers_and_others_are_told_which_variable_is_wrong() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let (certificate, key, ca) = (papers.file("server.pem"), papers.file("server-key.pem"), papers.ca());
    let one_way = Bus::start(&[], &["--tls-cert", &certificate, "--tls-key", &key]).await;
    let mutual = Bus::start(&[], &["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca]).await;
    let (client, client_key) = (papers.file("client.pem"), papers.file("client-key.pem"));
    let (stranger, stranger_key) = (strangers.file("client.pem"), strangers.file("client-key.pem"));
    let other_ca = strangers.ca();
    let seed = |bus: &Bus| bus.seed("operator");
    let (one_way_seed, mutual_seed) = (seed(&one_way), seed(&mutual));
    let own = [("NATS_CERT", client.as_str()), ("NATS_KEY", client_key.as_str())];
    let strange = [("NATS_CERT", stranger.as_str()), ("NATS_KEY", stranger_key.as_str())];

    let cases = |seed, other_seed| -> Vec<Case<'_>> {
        vec![
            Case { what: "right", variables: vec![("NATS_NKEY", seed), ("NATS_CA", &ca)], says: None },
            Case {
                what: "other authority",
                variables: vec![("NATS_NKEY", seed), ("NATS_CA", &other_ca)],
                says: Some("NATS_CA: '"),
            },
            Case {
                what: "no authority",
                variables: vec![("NATS_NKEY", seed)],
                says: Some("NATS_CA is not set"),
            },
            Case { what: "no credential", variables: vec![("NATS_CA", &ca)], says: Some("NATS_NKEY") },
            Case {
                what: "another's credential",
                variables: vec![("NATS_NKEY", other_seed), ("NATS_CA", &ca)],
                says: Some("NATS_NKEY"),
            },
            Case {
                what: "no seed",
                variables: vec![("NATS_NKEY", &ca), ("NATS_CA", &ca)],
                says: Some("holds no nkey seed"),
            },
        ]
    };
    let right = vec![("NATS_NKEY", mutual_seed.as_str()), ("NATS_CA", ca.as_str())];
    let none = Case {
        what: "no certificate",
        variables: right.clone(),
        says: Some("NATS_CERT and NATS_KEY are not set"),
    };
    let with = [right, strange.to_vec()].concat();
    let another = Case { what: "a stranger's certificate", variables: with, says: Some("NATS_CERT") };
    let with_own = cases(&mutual_seed, &one_way_seed)
        .into_iter()
        .map(|case| Case { variables: [case.variables, own.to_vec()].concat(), ..case });
    let all = cases(&one_way_seed, &mutual_seed).into_iter().map(|case| (&one_way, case));
    let all = all.chain(with_own.chain([none, another]).map(|case| (&mutual, case)));
    // Side by side, since each that is refused takes its seconds.
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let judging: Vec<_> = all.map(|(bus, case)| scope.spawn(move || case.judge(bus))).collect();
        judging.into_iter().filter_map(|judged| judged.join().unwrap()).collect()
    });

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_over_tls_is_verified_and_a_wrong_authority_is_refused() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let postgres = servers::own_postgres().await;
    let database = postgres.database().await;
    let front = papers.front(postgres.port(), None).await;
    let (_, name) = database.rsplit_once('/').unwrap();
    let (user, _) = database.rsplit_once('@').unwrap();
    let with =
        |ca: &str| format!("{user}@127.0.0.1:{}/{name}?sslmode=verify-full&sslrootcert={ca}", front.port());
    well(&["migrate"], &[("DATABASE_URL", &with(&papers.ca()))]);

    let refused = picket(&["site", "list"], &[("DATABASE_URL", &with(&strangers.ca()))]);
    let elsewhere = with(&papers.ca()).replace("127.0.0.1", "localhost");
    let wrong_host = picket(&["site", "list"], &[("DATABASE_URL", &elsewhere)]);

    well(&["site", "list"], &[("DATABASE_URL", &with(&papers.ca()))]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("UnknownIssuer") && said.contains("sslrootcert"), "{said}");
    assert_eq!(wrong_host.status.code(), Some(3), "{wrong_host:?}");
}
