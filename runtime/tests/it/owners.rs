//! A bus belongs to one installation.

use picket_proto::{InstallationId, Role, subject};
use picket_runtime::{
    Bus, Health,
    options::NatsOptions,
    streams::{self, Adopted, Durability, Error},
};
use picket_testkit::servers;

const OURS: &str = "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33";
const THEIRS: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_stream_of_another_installation_is_refused_until_it_is_adopted() {
    let server = servers::nats().await;
    let options = NatsOptions::at(server.url());
    let bus = Bus::connect(&options, &Role::Coordinator, "test", &Health::new()).await.unwrap();
    bus.connected().await.unwrap();
    let (ours, theirs): (InstallationId, InstallationId) = (OURS.parse().unwrap(), THEIRS.parse().unwrap());
    let results = |owner| streams::owned(streams::results(Durability::default()), owner);

    // One that an older version made is anybody's, until a coordinator marks it.
    streams::ensure(&bus.jetstream, streams::results(Durability::default())).await.unwrap();
    streams::ensure(&bus.jetstream, results(ours)).await.unwrap();
    streams::bring_up_to_date(&bus.jetstream, results(theirs)).await.unwrap();

    let refused = streams::ensure(&bus.jetstream, results(ours)).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Foreign { owner, installation, .. } if (owner.as_str(), installation.as_str()) == (THEIRS, OURS))
    );
    let adopted = streams::adopt(&bus.jetstream, ours).await.unwrap();
    assert_eq!(adopted, [Adopted { name: subject::RESULTS, owner: Some(THEIRS.to_owned()) }]);
    streams::ensure(&bus.jetstream, results(ours)).await.unwrap();
    assert!(streams::ensure(&bus.jetstream, results(theirs)).await.is_err());
    assert_eq!(streams::adopt(&bus.jetstream, ours).await.unwrap(), []);
}
