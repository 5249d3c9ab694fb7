//! A bus belongs to one installation.

use picket_harness::servers;
use picket_proto::{InstallationId, Role, subject};
use picket_runtime::{
    Bus, Health,
    options::NatsOptions,
    streams::{self, AdoptedStream, Error, StreamLimits},
};

const OUR_INSTALLATION: &str = "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33";
const THEIR_INSTALLATION: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_stream_of_another_installation_is_refused_until_it_is_adopted() {
    let server = servers::start_nats().await;
    let options = NatsOptions::with_url(server.url());
    let bus = Bus::connect(&options, &Role::Coordinator, "test", &Health::new()).await.unwrap();
    bus.wait_connected().await.unwrap();
    let (ours, theirs): (InstallationId, InstallationId) =
        (OUR_INSTALLATION.parse().unwrap(), THEIR_INSTALLATION.parse().unwrap());
    let results = |owner| streams::with_owner(streams::results_config(StreamLimits::default()), owner);

    // A stream of an older version has no owner until a coordinator marks it.
    streams::create_if_missing(&bus.jetstream, streams::results_config(StreamLimits::default()))
        .await
        .unwrap();
    streams::create_if_missing(&bus.jetstream, results(ours)).await.unwrap();
    streams::create_or_update(&bus.jetstream, results(theirs)).await.unwrap();

    let refused = streams::create_if_missing(&bus.jetstream, results(ours)).await.unwrap_err();
    assert!(
        matches!(&refused, Error::ForeignStream { owner, installation, .. } if (owner.as_str(), installation.as_str()) == (THEIR_INSTALLATION, OUR_INSTALLATION))
    );
    let adopted = streams::adopt_streams(&bus.jetstream, ours).await.unwrap();
    assert_eq!(
        adopted,
        [AdoptedStream {
            name: subject::RESULTS_STREAM,
            previous_owner: Some(THEIR_INSTALLATION.to_owned())
        }]
    );
    streams::create_if_missing(&bus.jetstream, results(ours)).await.unwrap();
    assert!(streams::create_if_missing(&bus.jetstream, results(theirs)).await.is_err());
    assert_eq!(streams::adopt_streams(&bus.jetstream, ours).await.unwrap(), []);
}
