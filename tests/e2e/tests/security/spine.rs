//! The whole system with a credential, a database role and a certificate for each process.

use std::{fs, time::Duration};

use futures_util::StreamExt;
use picket_e2e::{Process, Stack};
use picket_harness::{TlsProxy, servers, targets::Target};
use sqlx::postgres::PgPoolOptions;
use tokio::time::timeout;

use crate::{SecuredNats, TlsFiles, WAIT_TIMEOUT, run_picket, run_picket_ok};

/// Environment variables of a process.
type ProcessVariables = Vec<(&'static str, String)>;

/// The servers and their credentials.
struct SecuredServers {
    tls_files: TlsFiles,
    bus: SecuredNats,
    postgres: servers::TestPostgres,
    /// TLS in front of it, with required client certificates.
    tls_proxy: TlsProxy,
    database: String,
}

impl SecuredServers {
    async fn start(regions: &[&str]) -> Self {
        let papers = TlsFiles::new();
        let postgres = servers::start_postgres().await;
        let database = postgres.create_database().await;
        let front = papers.start_tls_proxy(postgres.port(), Some(&papers.authority)).await;
        run_picket_ok(&["migrate", "--shards", "4"], &[("DATABASE_URL", &database)]);
        for role in ["coordinator", "sink", "notifier", "api", "report"] {
            let sql = format!("CREATE ROLE {role}_1 LOGIN PASSWORD 'of-{role}' IN ROLE picket_{role}");
            postgres.run_admin_sql(&sql).await;
        }
        let (certificate, key) = (papers.file_path("server.pem"), papers.file_path("server-key.pem"));
        let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &papers.ca_path()];
        let bus = SecuredNats::start(regions, &tls).await;
        Self { tls_files: papers, bus, postgres, tls_proxy: front, database }
    }

    /// The database for a role, over fully verified TLS with a client certificate.
    fn database_url(&self, role: &str) -> String {
        let (_, name) = self.database.rsplit_once('/').unwrap();
        format!(
            "postgres://{role}_1:of-{role}@127.0.0.1:{}/{name}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
            self.tls_proxy.port(),
            self.tls_files.ca_path(),
            self.tls_files.file_path("client.pem"),
            self.tls_files.file_path("client-key.pem"),
        )
    }

    /// For a user of the bus; it has a role in the database only if it needs one.
    fn process_variables(&self, user: &str, role: Option<&str>) -> ProcessVariables {
        vec![
            ("DATABASE_URL", role.map_or_else(String::new, |role| self.database_url(role))),
            ("NATS_URL", self.bus.server.url()),
            ("NATS_NKEY", self.bus.seed_path(user)),
            ("NATS_CA", self.tls_files.ca_path()),
            ("NATS_CERT", self.tls_files.file_path("client.pem")),
            ("NATS_KEY", self.tls_files.file_path("client-key.pem")),
        ]
    }
}

fn borrow_pairs(variables: &ProcessVariables) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn spawn_process(
    stack: &Stack,
    program: &str,
    options: &[&str],
    variables: &ProcessVariables,
) -> Process {
    stack.spawn_process(program, options, &borrow_pairs(variables)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_system_runs_with_a_credential_a_database_role_and_tls_for_each_process() {
    let secured = SecuredServers::start(&["eu", "us"]).await;
    // Around all processes, as the superuser.
    let stack = Stack::without_schema(servers::start_nats().await, secured.database.clone());
    let operator = secured.process_variables("operator", Some("api"));
    let operate = |arguments: &[&str]| run_picket_ok(arguments, &borrow_pairs(&operator));
    // The coordinator can create a missing partition although it owns none.
    stack.execute_sql("SELECT picket.drop_results(30)").await;
    let last = "check_results_' || to_char((now() AT TIME ZONE 'UTC')::date + 7, 'YYYYMMDD')";
    let day = stack.query_lines(&format!("SELECT '{last}")).await.remove(0);
    stack.execute_sql(&format!("DROP TABLE picket.{day}")).await;

    let local = ["--allow-addresses", "127.0.0.0/8"];
    stack.execute_sql("UPDATE picket.settings SET ledger_grace = '10s'").await;
    let processes = [
        spawn_process(
            &stack,
            "picket-coordinator",
            &[],
            &secured.process_variables("coordinator", Some("coordinator")),
        )
        .await,
        spawn_process(&stack, "picket-sink", &[], &secured.process_variables("sink", Some("sink"))).await,
        spawn_process(
            &stack,
            "picket-notifier",
            &[],
            &secured.process_variables("notifier", Some("notifier")),
        )
        .await,
        spawn_process(
            &stack,
            "picket-prober",
            &[&local[..], &["--region", "eu"]].concat(),
            &secured.process_variables("prober-eu", None),
        )
        .await,
        spawn_process(
            &stack,
            "picket-prober",
            &[&local[..], &["--region", "us"]].concat(),
            &secured.process_variables("prober-us", None),
        )
        .await,
    ];
    for region in ["eu", "us"] {
        operate(&["region", "add", region]);
    }
    stack
        .execute_sql(
            "INSERT INTO picket.channels (name, kind) VALUES ('ops', 'webhook');
             INSERT INTO picket.routes (name, channels) VALUES ('all', '{ops}')",
        )
        .await;
    for process in &processes {
        process.wait_ready().await;
    }
    let (api, _) = secured.bus.connect_tls_client("api", &secured.tls_files).await;
    let mut events = api.subscribe("picket.event.incident.*").await.unwrap();
    api.flush().await.unwrap();
    let (target, closed) = (Target::serve_http().await, Target::closed_address().await);
    operate(&["site", "add", &target.url("/ok"), "--interval", "5s"]);
    operate(&["site", "add", &format!("http://{closed}/"), "--interval", "5s"]);

    let event = timeout(WAIT_TIMEOUT, events.next()).await.expect("an event").unwrap();
    assert_eq!(event.subject.as_str(), "picket.event.incident.opened");
    assert!(String::from_utf8_lossy(&event.payload).contains(&closed.to_string()));
    stack
        .wait_at_least(WAIT_TIMEOUT, 4, "SELECT count(*) FROM picket.check_results WHERE outcome = 'up'")
        .await;
    assert_eq!(
        stack.query_number(&format!("SELECT count(*) FROM pg_class WHERE relname = '{day}'")).await,
        1
    );
    stack
        .wait_at_least(
            WAIT_TIMEOUT,
            1,
            "SELECT count(*) FROM picket.notices AS notice JOIN picket.channel_lanes AS lane USING (channel, lane)
             JOIN picket.transitions USING (transition_id)
             WHERE event = 'incident.opened' AND lane.epoch > 0 AND EXISTS (SELECT FROM picket.notifiers)",
        )
        .await;
    // Requests reach the probers of both regions, and the answers reach the requester.
    let answers = operate(&["check", &target.url("/ok"), "--output", "json"]);
    assert_eq!(answers.matches(r#""outcome": "up""#).count(), 2, "{answers}");
    let one = operate(&["check", &target.url("/ok"), "--region", "us", "--output", "json"]);
    assert!(one.contains(r#""region": "us""#), "{one}");
    let probers = operate(&["probers"]);
    assert!(probers.contains("eu") && probers.contains("us"), "{probers}");
    let any = secured.bus.connect_tls_client("operator", &secured.tls_files).await.0;
    let request = format!(r#"{{"url":"{}"}}"#, target.url("/ok"));
    let inbox = any.new_inbox();
    let mut replies = any.subscribe(inbox.clone()).await.unwrap();
    any.publish_with_reply("picket.check.any", inbox, request.into()).await.unwrap();
    timeout(WAIT_TIMEOUT, replies.next()).await.expect("an answer").unwrap();
    let second = timeout(Duration::from_secs(1), replies.next()).await;
    assert!(second.is_err(), "any one prober answers, of whatever region: {second:?}");
    assert_eq!(run_picket(&["status"], &borrow_pairs(&operator)).status.code(), Some(1), "a site is down");

    let to = "(SELECT max(scheduled_at) FROM picket.check_results WHERE outcome <> 'missed')";
    let to = stack.query_lines(&format!("SELECT {to}::text")).await.remove(0);
    stack.wait_ledger_closed(&to).await;
    let left =
        format!("SELECT count(*) FROM report.ledger(now() - interval '1 h', '{to}') WHERE unaccounted <> 0");
    assert_eq!(stack.query_number(&left).await, 0);
    assert!(secured.tls_proxy.forwarded_sessions() > 2, "the processes' sessions came over TLS");

    for refusal in ["permission denied", "must be owner"] {
        assert!(!secured.postgres.read_log().contains(refusal), "{}", secured.postgres.read_log());
    }
    assert!(
        !secured.bus.server.read_log().to_lowercase().contains("violation"),
        "{}",
        secured.bus.server.read_log()
    );
    let followed = "following events";
    assert!(processes.iter().any(|process| process.read_log().contains(followed)), "the notifier's consumer");
    let secrets = ["operator", "coordinator", "sink", "notifier", "prober-eu", "prober-us"]
        .map(|user| fs::read_to_string(secured.bus.seed_path(user)).unwrap().trim().to_owned());
    for process in processes {
        let log = process.read_log();
        assert!(!log.contains("violation") && !log.contains("permission denied"), "{log}");
        let secret = secrets
            .iter()
            .map(String::as_str)
            .chain(["of-sink", "of-notifier", "of-coordinator"])
            .find(|secret| log.contains(secret));
        assert_eq!(secret, None, "in the log of {}", process.name());
        process.stop().await;
    }
}

/// A prober knows no database, and its credential opens none.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_client_certificates_refuses_connections_without_one_or_with_a_probers() {
    let secured = SecuredServers::start(&["eu"]).await;
    let with = secured.database_url("report");
    let without = with.split("&sslcert=").next().unwrap();
    let connect = async |url: &str| {
        let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(10)).max_connections(1);
        pool.connect(url).await.map(drop).map_err(|why| format!("{why:?}"))
    };

    assert_eq!(connect(&with).await, Ok(()));
    let refused = connect(without).await.unwrap_err();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    let plain = with.replace("verify-full", "disable");
    assert!(connect(&plain).await.is_err());
    let seed = fs::read_to_string(secured.bus.seed_path("prober-eu")).unwrap();
    let as_prober = with.replace("report_1:of-report", &format!("prober-eu:{}", seed.trim()));
    let refused = connect(&as_prober).await.unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
}
