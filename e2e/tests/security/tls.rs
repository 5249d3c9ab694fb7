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
    let mut wrong = Vec::new();
    let mut judge = |bus: &Bus, what: &str, variables: Vec<(&str, &str)>, says: Option<&str>| {
        let url = bus.server.url();
        let output = picket(&["probers"], &[variables, vec![("NATS_URL", url.as_str())]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_right = match says {
            None => output.status.success(),
            Some(words) => !output.status.success() && said.contains(words),
        };
        if !is_right {
            wrong.push(format!("{what}: {:?} {said}", output.status.code()));
        }
    };
    for Case { what, variables, says } in cases(&one_way_seed, &mutual_seed) {
        judge(&one_way, what, variables, says);
    }
    for Case { what, variables, says } in cases(&mutual_seed, &one_way_seed) {
        judge(&mutual, what, [variables, own.to_vec()].concat(), says);
    }
    let right = vec![("NATS_NKEY", mutual_seed.as_str()), ("NATS_CA", ca.as_str())];
    judge(&mutual, "no certificate", right.clone(), Some("NATS_CERT and NATS_KEY are not set"));
    judge(&mutual, "a stranger's certificate", [right, strange.to_vec()].concat(), Some("NATS_CERT"));

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
