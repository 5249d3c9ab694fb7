//! Acknowledgements by a real stream.

use std::time::Duration;

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use picket_coordinator::dispatch::ack_inbox::{AckInbox, PendingAcks, PublishOutcome};
use picket_proto::Role;
use picket_runtime::{
    Bus, Health,
    options::NatsOptions,
    streams::{self, StreamLimits},
};
use picket_testkit::servers;
use tokio::time::Instant;

use crate::TEST_DEADLINE;

struct AckStack {
    _nats: servers::TestNats,
    bus: Bus,
    acks: AckInbox,
}

impl AckStack {
    async fn new() -> Self {
        let nats = servers::start_nats().await;
        let options = NatsOptions::with_url(nats.url());
        let bus = Bus::connect(&options, &Role::Coordinator, "test", &Health::new()).await.unwrap();
        bus.wait_connected().await.unwrap();
        let durability = StreamLimits { max_jobs_bytes: 64 << 20, ..StreamLimits::default() };
        streams::create_if_missing(&bus.jetstream, streams::jobs_config(durability)).await.unwrap();
        let acks = AckInbox::subscribe(&bus.client).await.unwrap();
        Self { _nats: nats, bus, acks }
    }

    async fn publish_message(&self, expected: &mut PendingAcks, subject: &str, id: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        let (subject, reply) = (subject.to_owned(), expected.reply_subject().unwrap());
        let client = &self.bus.client;
        client
            .publish_with_reply_and_headers(subject, reply, headers, Bytes::from_static(b"{}"))
            .await
            .unwrap();
        expected.record_sent();
    }
}

#[tokio::test]
async fn each_message_of_a_batch_is_told_apart_by_what_the_stream_says_of_it() {
    let place = AckStack::new().await;
    let (mut one, mut other) = (place.acks.reserve_batch(12), place.acks.reserve_batch(2));

    for number in 0..10 {
        place.publish_message(&mut one, &format!("picket.job.eu.{number}"), &format!("{number}.eu.1")).await;
        if number < 2 {
            place
                .publish_message(&mut other, &format!("picket.job.eu.{number}"), &format!("{number}.eu.1"))
                .await;
        }
    }
    place.publish_message(&mut one, "picket.elsewhere", "1.elsewhere.1").await;

    let until = Instant::now() + TEST_DEADLINE;
    let answers = one.wait_all(until).await;
    assert_eq!(answers[..10], vec![Some(Ok(PublishOutcome::Stored)); 10]);
    assert!(matches!(&answers[10..], [Some(Err(why))] if why.contains("no stream")), "{answers:?}");
    assert_eq!(other.wait_all(until).await, vec![Some(Ok(PublishOutcome::Duplicate)); 2]);
    assert!(Instant::now() < until, "waited for more than was sent");
}

#[tokio::test]
async fn a_message_that_nobody_answers_is_not_taken_for_stored_and_does_not_hide_those_that_are() {
    let place = AckStack::new().await;
    let _silent = place.bus.client.subscribe("picket.elsewhere").await.unwrap();
    let mut answers = Vec::new();

    // How long the stream takes is not what this is about.
    for (number, wait) in [1, 4, 16].map(Duration::from_secs).into_iter().enumerate() {
        let mut expected = place.acks.reserve_batch(2);
        place.publish_message(&mut expected, "picket.elsewhere", "1.elsewhere.1").await;
        place.publish_message(&mut expected, "picket.job.eu.1", &format!("1.eu.{number}")).await;
        assert!(expected.reply_subject().is_none(), "there is room for two");
        answers = expected.wait_all(Instant::now() + wait).await;
        if answers[1].is_some() {
            break;
        }
    }

    assert_eq!(answers, vec![None, Some(Ok(PublishOutcome::Stored))]);
}
