//! Permissions of each credential on the bus, tested by attempts.

use std::collections::BTreeMap;

use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use picket_harness::eventually;
use tokio::time::timeout;

use crate::{SecuredNats, ServerErrors, WAIT_TIMEOUT, path_str, run_picket, run_picket_ok};

const COORDINATOR: &str = "coordinator";
const SINK: &str = "sink";
const NOTIFIER: &str = "notifier";
const API: &str = "api";
const OPERATOR: &str = "operator";
const PROBER_EU: &str = "prober-eu";
const PROBER_US: &str = "prober-us";
const ALL_USERS: [&str; 7] = [COORDINATOR, SINK, NOTIFIER, API, OPERATOR, PROBER_EU, PROBER_US];

#[derive(Clone, Copy, Debug)]
enum Attempt {
    Publish(&'static str),
    Subscribe(&'static str),
    QueueSubscribe(&'static str, &'static str),
}
use Attempt::{Publish, QueueSubscribe, Subscribe};

/// Each attempt with its permitted roles; all others are refused.
const PERMISSION_MATRIX: &[(Attempt, &[&str])] = &[
    // Jobs.
    (Publish("picket.job.us.7"), &[COORDINATOR]),
    (Publish("picket.job.us.7.confirm"), &[COORDINATOR]),
    (Publish("picket.job.us.adhoc.1"), &[COORDINATOR, OPERATOR]),
    (Subscribe("picket.job.us.>"), &[]),
    (Subscribe("picket.job.>"), &[]),
    (Publish("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-us"), &[PROBER_US]),
    (Publish("$JS.ACK.PICKET_JOBS.prober-us.1.1.1.1.0"), &[PROBER_US]),
    (Publish("$JS.API.CONSUMER.INFO.PICKET_JOBS.prober-us"), &[COORDINATOR, OPERATOR]),
    // Results.
    (Publish("picket.result.us.0"), &[PROBER_US]),
    (Publish("picket.result.us.adhoc"), &[PROBER_US]),
    (Publish("picket.result.us.0.more"), &[]),
    (Subscribe("picket.result.>"), &[API, OPERATOR]),
    (Subscribe("picket.result.eu.*"), &[API, OPERATOR]),
    (Publish("$JS.API.CONSUMER.MSG.NEXT.PICKET_RESULTS.sink"), &[SINK]),
    (Publish("$JS.ACK.PICKET_RESULTS.sink.1.1.1.1.0"), &[SINK]),
    (Publish("$JS.API.CONSUMER.INFO.PICKET_RESULTS.sink"), &[COORDINATOR, SINK, OPERATOR]),
    (Publish("$JS.API.STREAM.MSG.GET.PICKET_RESULTS"), &[COORDINATOR, OPERATOR]),
    (Publish("$JS.API.DIRECT.GET.PICKET_RESULTS"), &[OPERATOR]),
    (Publish("$JS.API.DIRECT.GET.PICKET_RESULTS.picket.result.us.0"), &[OPERATOR]),
    // Events, suspects, refusals.
    (Publish("picket.event.incident.opened"), &[SINK]),
    (Publish("picket.event.channel.failing"), &[SINK]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_EVENTS.notifier.picket.event.>"), &[NOTIFIER]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_EVENTS.mine.picket.event.>"), &[]),
    (Publish("$JS.API.CONSUMER.INFO.PICKET_EVENTS.notifier"), &[NOTIFIER, OPERATOR]),
    (Publish("$JS.API.CONSUMER.DELETE.PICKET_EVENTS.notifier"), &[]),
    (Publish("$JS.API.CONSUMER.MSG.NEXT.PICKET_EVENTS.notifier"), &[NOTIFIER]),
    (Publish("$JS.ACK.PICKET_EVENTS.notifier.1.1.1.1.0"), &[NOTIFIER]),
    (Subscribe("picket.event.>"), &[API, OPERATOR]),
    (Publish("picket.suspect.3"), &[SINK]),
    (Subscribe("picket.suspect.*"), &[COORDINATOR]),
    (Publish("picket.rejected.us"), &[PROBER_US]),
    (Subscribe("picket.rejected.*"), &[OPERATOR]),
    // Requests.
    (Publish("picket.check.us"), &[API, OPERATOR]),
    (Publish("picket.check.any"), &[API, OPERATOR]),
    (Publish("picket.check.all"), &[API, OPERATOR]),
    (QueueSubscribe("picket.check.us", "probers-us"), &[PROBER_US]),
    (QueueSubscribe("picket.check.us", "probers-eu"), &[]),
    (Subscribe("picket.check.us"), &[]),
    (Subscribe("picket.check.*"), &[]),
    (Subscribe("picket.check.any"), &[]),
    (QueueSubscribe("picket.check.any", "probers"), &[PROBER_EU, PROBER_US]),
    (QueueSubscribe("picket.check.all", "probers-us"), &[PROBER_US]),
    (Publish("$SRV.STATS.picket-prober"), &[API, OPERATOR]),
    (Publish("$SRV.PING"), &[OPERATOR]),
    (Subscribe("$SRV.PING.picket-prober.abc"), &[PROBER_EU, PROBER_US]),
    // Streams and consumers.
    (Publish("$JS.API.STREAM.INFO.PICKET_JOBS"), &[COORDINATOR, OPERATOR]),
    (Publish("$JS.API.STREAM.INFO.PICKET_RESULTS"), &[COORDINATOR, SINK, OPERATOR]),
    (Publish("$JS.API.STREAM.CREATE.PICKET_JOBS"), &[COORDINATOR]),
    (Publish("$JS.API.STREAM.CREATE.PICKET_RESULTS"), &[COORDINATOR, SINK]),
    (Publish("$JS.API.STREAM.CREATE.MINE"), &[]),
    (Publish("$JS.API.STREAM.UPDATE.PICKET_RESULTS"), &[COORDINATOR]),
    (Publish("$JS.API.STREAM.PURGE.PICKET_JOBS"), &[]),
    (Publish("$JS.API.STREAM.PURGE.PICKET_RESULTS"), &[]),
    (Publish("$JS.API.STREAM.DELETE.PICKET_JOBS"), &[]),
    (Publish("$JS.API.STREAM.DELETE.PICKET_RESULTS"), &[]),
    (Publish("$JS.API.STREAM.MSG.DELETE.PICKET_JOBS"), &[]),
    (Publish("$JS.API.STREAM.MSG.GET.PICKET_JOBS"), &[OPERATOR]),
    (Publish("$JS.API.STREAM.SNAPSHOT.PICKET_RESULTS"), &[]),
    (Publish("$JS.API.STREAM.RESTORE.PICKET_RESULTS"), &[]),
    (Publish("$JS.API.STREAM.LIST"), &[OPERATOR]),
    (Publish("$JS.API.INFO"), &[OPERATOR]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_JOBS.prober-us.picket.job.us.>"), &[COORDINATOR]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_JOBS.mine"), &[]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_JOBS"), &[]),
    (Publish("$JS.API.CONSUMER.DURABLE.CREATE.PICKET_JOBS.prober-us"), &[]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_RESULTS.mine.picket.result.>"), &[]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_RESULTS.sink.picket.result.>"), &[SINK]),
    (Publish("$JS.API.CONSUMER.CREATE.PICKET_RESULTS.sink-replay.picket.result.>"), &[SINK]),
    (Publish("$JS.API.CONSUMER.DELETE.PICKET_RESULTS.sink-replay"), &[SINK]),
    (Publish("$JS.API.CONSUMER.DELETE.PICKET_RESULTS.sink"), &[]),
    (Publish("$JS.API.CONSUMER.DELETE.PICKET_JOBS.prober-us"), &[]),
    (Publish("$JS.API.CONSUMER.PAUSE.PICKET_JOBS.prober-us"), &[]),
    (Publish("$JS.API.CONSUMER.LIST.PICKET_JOBS"), &[OPERATOR]),
    (Publish("$JS.API.CONSUMER.NAMES.PICKET_JOBS"), &[OPERATOR]),
    // Answers to others, and everything at once.
    (Subscribe("_INBOX_prober-us.>"), &[PROBER_US]),
    (Subscribe("_INBOX_sink.>"), &[SINK]),
    (Subscribe("_INBOX_notifier.>"), &[NOTIFIER]),
    (Subscribe("_INBOX_coordinator.>"), &[COORDINATOR]),
    (Subscribe("_INBOX.>"), &[OPERATOR]),
    (Publish("_INBOX.abc"), &[]),
    (Publish("_INBOX_sink.abc"), &[]),
    (Subscribe(">"), &[]),
    (Subscribe("$JS.>"), &[]),
    (Subscribe("$SYS.>"), &[]),
    (Publish("$SYS.REQ.SERVER.PING"), &[]),
    (Subscribe("picket.>"), &[]),
];

/// A client with a credential, and the server's refusals.
struct CredentialClient {
    client: Client,
    server_errors: ServerErrors,
    attempts: usize,
}

impl CredentialClient {
    async fn connect(bus: &SecuredNats, user: &str) -> Self {
        let (client, complaints) = bus.connect_client(user).await;
        Self { client, server_errors: complaints, attempts: 0 }
    }

    /// Returns true if the server permits it. Refusals arrive in the order of the attempts.
    async fn is_allowed(&mut self, attempt: Attempt) -> bool {
        self.attempts += 1;
        let after = format!("refused.to.everybody.{}", self.attempts);
        let (said, subscriber) = match attempt {
            Publish(subject) => {
                self.client.publish(subject, "{}".into()).await.unwrap();
                (format!("publish to \"{subject}\""), None)
            }
            Subscribe(subject) => {
                let subscriber = self.client.subscribe(subject).await.unwrap();
                (format!("subscription to \"{subject}\""), Some(subscriber))
            }
            QueueSubscribe(subject, group) => {
                let subscriber = self.client.queue_subscribe(subject, group.to_owned()).await.unwrap();
                (format!("subscription to \"{subject}\" using queue \"{group}\""), Some(subscriber))
            }
        };
        self.client.publish(after.clone(), "".into()).await.unwrap();
        eventually(WAIT_TIMEOUT, "the last refusal", async || {
            match self.server_errors.contains_text(&after) {
                true => Ok(()),
                false => Err(self.server_errors.0.lock().clone()),
            }
        })
        .await;
        drop(subscriber);
        !self.server_errors.contains_text(&said)
    }
}

/// The streams, and consumers that a region could be harmed by, as the server has them.
async fn snapshot_streams(jetstream: &jetstream::Context) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut streams = jetstream.streams();
    while let Some(stream) = streams.next().await {
        let stream = stream.unwrap();
        found.insert(stream.config.name.clone(), format!("{:?} {:?}", stream.config, stream.created));
        let stream = jetstream.get_stream(&stream.config.name).await.unwrap();
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.next().await {
            let consumer = consumer.unwrap();
            let (delivered, floor) =
                (consumer.delivered.consumer_sequence, consumer.ack_floor.consumer_sequence);
            let said = format!(
                "{:?} {:?} {delivered} {floor} {}",
                consumer.created, consumer.config, consumer.num_waiting
            );
            // The prober of eu may pull the jobs of eu.
            if consumer.name != PROBER_EU {
                found.insert(format!("{} {}", consumer.stream_name, consumer.name), said);
            }
        }
    }
    found
}

/// A bus of two regions with the streams and consumers of a running system, and its administrator.
async fn start_with_streams() -> (SecuredNats, jetstream::Context) {
    let bus = SecuredNats::start(&["eu", "us"], &[]).await;
    let (admin, _) = bus.connect_client("admin").await;
    let admin = jetstream::new(admin);
    let streams = [
        ("PICKET_JOBS", "picket.job.*.>"),
        ("PICKET_RESULTS", "picket.result.>"),
        ("PICKET_EVENTS", "picket.event.>"),
    ];
    for (name, subjects) in streams {
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            max_messages_per_subject: if name == "PICKET_JOBS" { 1 } else { -1 },
            ..jetstream::stream::Config::default()
        };
        admin.create_stream(config).await.unwrap();
    }
    for (stream, name, filter) in [
        ("PICKET_JOBS", PROBER_EU, "picket.job.eu.>"),
        ("PICKET_JOBS", PROBER_US, "picket.job.us.>"),
        ("PICKET_RESULTS", SINK, "picket.result.>"),
    ] {
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: filter.to_owned(),
            ..jetstream::consumer::pull::Config::default()
        };
        admin.create_consumer_on_stream(config, stream).await.unwrap();
    }
    (bus, admin)
}

#[tokio::test]
async fn each_credential_has_its_roles_permissions_and_the_server_refuses_all_others() {
    let (bus, _) = start_with_streams().await;
    let mut wrong = Vec::new();

    for user in ALL_USERS {
        let mut somebody = CredentialClient::connect(&bus, user).await;
        for (attempt, allowed) in PERMISSION_MATRIX {
            let may = somebody.is_allowed(*attempt).await;
            if may != allowed.contains(&user) {
                wrong.push(format!("{user} {} {attempt:?}", if may { "may" } else { "may not" }));
            }
        }
    }

    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        PERMISSION_MATRIX.len() * ALL_USERS.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn a_probers_attempts_on_another_region_and_on_streams_have_no_effect() {
    let (bus, admin) = start_with_streams().await;
    for job in ["picket.job.us.1", "picket.job.us.2", "picket.job.eu.1"] {
        admin.publish(job, "{}".into()).await.unwrap().await.unwrap();
    }
    let before = snapshot_streams(&admin).await;
    let messages = async |name: &str| admin.get_stream(name).await.unwrap().cached_info().state.messages;
    let mut prober = CredentialClient::connect(&bus, PROBER_EU).await;

    for (attempt, allowed) in PERMISSION_MATRIX {
        if !allowed.contains(&PROBER_EU) {
            assert!(!prober.is_allowed(*attempt).await, "{attempt:?}");
        }
    }
    let jobs = messages("PICKET_JOBS").await;
    // Permitted attempts have an effect, which shows that the others could have had one.
    assert!(prober.is_allowed(Publish("picket.result.eu.0")).await);
    eventually(WAIT_TIMEOUT, "its own result to be stored", async || {
        match messages("PICKET_RESULTS").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;

    assert_eq!(jobs, 3);
    assert_eq!(messages("PICKET_EVENTS").await, 0);
    assert_eq!(snapshot_streams(&admin).await, before);
}

#[tokio::test]
async fn a_region_is_added_and_removed_on_a_running_server_without_changing_keys() {
    let bus = SecuredNats::start(&["eu"], &[]).await;
    let dir = path_str(&bus.dir);
    let seed = std::fs::read_to_string(bus.seed_path(PROBER_EU)).unwrap();
    let (eu, _) = bus.connect_client(PROBER_EU).await;

    let shown = run_picket_ok(&["nats", "add-region", "us", "--dir", dir, "--show"], &[]);
    run_picket_ok(&["nats", "add-region", "us", "--dir", dir], &[]);
    run_picket_ok(&["nats", "init", "--dir", dir], &[]);
    bus.server.reload_config();

    assert_eq!(shown, std::fs::read_to_string(bus.seed_path(PROBER_US)).unwrap());
    assert_eq!(std::fs::read_to_string(bus.seed_path(PROBER_EU)).unwrap(), seed);
    let may_come = async || {
        let connect = async_nats::ConnectOptions::with_nkey(shown.trim().to_owned());
        connect.connect(bus.server.url()).await.map(drop).map_err(|why| why.to_string())
    };
    eventually(WAIT_TIMEOUT, "the new region to be let in", may_come).await;
    run_picket_ok(&["nats", "remove-region", "us", "--dir", dir], &[]);
    bus.server.reload_config();
    eventually(WAIT_TIMEOUT, "a refusal of the removed region", async || match may_come().await {
        Ok(()) => Err("let in"),
        Err(_) => Ok(()),
    })
    .await;
    eu.flush().await.unwrap();
    let again = run_picket(&["nats", "remove-region", "us", "--dir", dir], &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("'us' has no credential"), "{again:?}");
}

/// A request says where its answer is wanted, and the server asks nobody whether the requester might publish there. With all
/// users in one account a prober could have the empty answer to a pull sent to the subject that deletes a stream.
#[tokio::test]
async fn replies_requested_by_a_prober_reach_no_other_region_and_no_stream() {
    let (bus, admin) = start_with_streams().await;
    admin.publish("picket.job.us.8", "{}".into()).await.unwrap().await.unwrap();
    let before = snapshot_streams(&admin).await;
    let (observer, _) = bus.connect_client("admin").await;
    let mut heard = observer.subscribe(">").await.unwrap();
    observer.flush().await.unwrap();
    let (prober, complaints) = bus.connect_client(PROBER_EU).await;

    let places = [
        "$JS.API.STREAM.DELETE.PICKET_EVENTS",
        "$JS.API.STREAM.PURGE.PICKET_JOBS",
        "$JS.API.CONSUMER.DELETE.PICKET_JOBS.prober-us",
        "$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-us",
        "$JS.ACK.PICKET_JOBS.prober-us.1.1.1.1.0",
        "picket.job.us.8",
        "picket.check.us",
        "picket.result.us.0",
        "picket.suspect.3",
        "picket.event.incident.opened",
    ];
    for place in places {
        for (subject, payload) in [
            ("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-eu", r#"{"batch":1,"no_wait":true}"#),
            ("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-eu", r#"{"batch":1,"expires":1000000}"#),
            ("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-eu", "nonsense"),
            ("picket.result.eu.0", "{}"),
        ] {
            prober.publish_with_reply(subject, place, payload.into()).await.unwrap();
        }
        let mut traced = async_nats::HeaderMap::new();
        traced.insert("Nats-Trace-Dest", place);
        prober.publish_with_headers("picket.result.eu.0", traced, "{}".into()).await.unwrap();
    }
    // An answer in its own inbox shows that all earlier requests were answered.
    let ask = r#"{"batch":1,"no_wait":true}"#;
    let inbox = prober.new_inbox();
    let mut own = prober.subscribe(inbox.clone()).await.unwrap();
    prober
        .publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-eu", inbox, ask.into())
        .await
        .unwrap();
    assert!(timeout(WAIT_TIMEOUT, own.next()).await.unwrap().unwrap().status.is_some());
    observer.publish("observer.last", "".into()).await.unwrap();
    let mut reached = Vec::new();
    while let Ok(Some(message)) = timeout(WAIT_TIMEOUT, heard.next()).await {
        match message.subject.as_str() {
            "observer.last" => break,
            subject if places.contains(&subject) => reached.push(subject.to_owned()),
            _ => {}
        }
    }

    assert_eq!(reached, Vec::<String>::new());
    assert_eq!(snapshot_streams(&admin).await, before);
    let job = admin
        .get_stream("PICKET_JOBS")
        .await
        .unwrap()
        .get_last_raw_message_by_subject("picket.job.us.8")
        .await;
    assert_eq!(job.unwrap().payload, "{}");
    assert!(complaints.contains_text("picket.suspect.3"), "a trace is judged as a publish is");
}
