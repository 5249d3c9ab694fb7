//! The results stream as read by a replay: its positions, and the consumer of the replay.

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{self, AckPolicy, DeliverPolicy, PullConsumer},
    context::{ConsumerInfoError, ConsumerInfoErrorKind},
    stream::{ConsumerCreateStrictError, ConsumerCreateStrictErrorKind},
};
use picket_proto::{Timestamp, subject};
use picket_runtime::Bus;
use tokio::time::timeout;

use super::{Error, REPLAY_CONSUMER_TTL, REQUEST_TIMEOUT};
use crate::installation_guard::InstallationGuard;

/// Delivery metadata of a message.
pub(super) struct Delivery {
    /// Number of the message among all messages delivered by the consumer.
    pub(super) consumer_sequence: u64,
    /// Sequence of the message in the stream.
    pub(super) stream_sequence: u64,
    /// Time at which the stream stored the message.
    pub(super) stored_at: Timestamp,
}

/// Sequences of the stream and of the sinks' shared consumer.
pub(super) struct StreamPositions {
    pub(super) created_at: Timestamp,
    /// First message still in the stream.
    pub(super) first_sequence: u64,
    /// Acknowledgement floor of the shared consumer.
    pub(super) ack_floor: u64,
    /// Last message delivered by the shared consumer.
    pub(super) last_delivered: u64,
}

/// Reads the positions of the results stream. Rejects a stream of another installation.
pub(super) async fn fetch_positions(bus: &Bus, keys: &InstallationGuard) -> Result<StreamPositions, Error> {
    let fetching = async {
        let stream = bus
            .jetstream
            .get_stream(subject::RESULTS_STREAM)
            .await
            .map_err(|error| Error::Bus(error.into()))?;
        let info = stream.cached_info();
        // Sequences of another installation's stream have no meaning for this database.
        keys.check_owner(&info.config).map_err(Error::Foreign)?;
        let (created, first) = (Timestamp::from(info.created), info.state.first_sequence);
        let (acknowledged, delivered) =
            consumer_sequences(stream.consumer_info(subject::SINK_CONSUMER).await)?;
        Ok(StreamPositions {
            created_at: created,
            first_sequence: first,
            ack_floor: acknowledged,
            last_delivered: delivered,
        })
    };
    timeout(REQUEST_TIMEOUT, fetching).await.map_err(|elapsed| Error::Bus(elapsed.into()))?
}

pub(super) fn parse_delivery(bus: &Bus, message: &async_nats::Message) -> Option<Delivery> {
    let message = jetstream::Message { message: message.clone(), context: bus.jetstream.clone() };
    let info = message.info().ok()?;
    Some(Delivery {
        consumer_sequence: info.consumer_sequence,
        stream_sequence: info.stream_sequence,
        stored_at: Timestamp::from(info.published),
    })
}

/// Creates the consumer of this replay. For an existing consumer of this replay the server returns
/// its current state; the server rejects the request if the consumer is another sink's.
pub(super) async fn create_consumer(
    bus: &Bus,
    config: &consumer::pull::Config,
) -> Result<PullConsumer, Error> {
    let creating = bus.jetstream.create_consumer_strict_on_stream(config.clone(), subject::RESULTS_STREAM);
    match timeout(REQUEST_TIMEOUT, creating).await {
        Ok(Ok(consumer)) => Ok(consumer),
        Ok(Err(error)) if is_existing_consumer(&error) => Err(Error::Busy),
        Ok(Err(error)) if error.kind() == ConsumerCreateStrictErrorKind::TimedOut => {
            // The server may have created the consumer although its answer was lost.
            Err(Error::Unanswered(error.into()))
        }
        Ok(Err(error)) => Err(Error::Bus(error.into())),
        Err(elapsed) => Err(Error::Unanswered(elapsed.into())),
    }
}

/// A consumer that starts at the message `from` and needs no acknowledgements. `owner` is unique,
/// so that the server rejects a second consumer instead of sharing the first.
pub(super) fn consumer_config(from: u64, owner: String) -> consumer::pull::Config {
    consumer::pull::Config {
        name: Some(subject::SINK_REPLAY_CONSUMER.to_owned()),
        description: Some(owner),
        filter_subject: subject::RESULT_SUBJECTS.to_owned(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
        // A replay reads by sequence and starts again from the watermark after a failure.
        ack_policy: AckPolicy::None,
        inactive_threshold: REPLAY_CONSUMER_TTL,
        num_replicas: 1,
        memory_storage: true,
        ..consumer::pull::Config::default()
    }
}

/// The acknowledgement floor of the sinks' shared consumer, and the last message delivered by it.
fn consumer_sequences(found: Result<consumer::Info, ConsumerInfoError>) -> Result<(u64, u64), Error> {
    match found {
        Ok(info) => Ok((info.ack_floor.stream_sequence, info.delivered.stream_sequence)),
        // A deleted consumer is created again and starts at the first message.
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok((0, 0)),
        // A missing answer does not mean that nothing was delivered.
        Err(error) => Err(Error::Bus(error.into())),
    }
}

/// Returns true if the consumer exists already.
fn is_existing_consumer(error: &ConsumerCreateStrictError) -> bool {
    match error.kind() {
        ConsumerCreateStrictErrorKind::AlreadyExists => true,
        ConsumerCreateStrictErrorKind::JetStream(why) => why.error_code() == ErrorCode::CONSUMER_NAME_EXIST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_consumer_counts_as_having_delivered_nothing() {
        let absent = consumer_sequences(Err(ConsumerInfoError::new(ConsumerInfoErrorKind::NotFound)));
        assert!(matches!(absent, Ok((0, 0))), "{absent:?}");

        for kind in [
            ConsumerInfoErrorKind::TimedOut,
            ConsumerInfoErrorKind::Offline,
            ConsumerInfoErrorKind::StreamNotFound,
            ConsumerInfoErrorKind::NoResponders,
            ConsumerInfoErrorKind::Request,
        ] {
            let unknown = consumer_sequences(Err(ConsumerInfoError::new(kind.clone())));
            assert!(matches!(&unknown, Err(error) if error.is_transient()), "{kind}: {unknown:?}");
        }
    }
}
