//! Publisher with a window of acknowledgements: the minimal publisher without loss.

use std::{collections::VecDeque, future::IntoFuture};

use async_nats::{
    Subject,
    jetstream::{Context, context::PublishAckFuture, message::PublishMessage},
};

use crate::{Error, testbed::with_context};

/// Publishes all messages, with at most `window` unacknowledged ones, and waits for the last
/// acknowledgement.
///
/// # Errors
/// Fails if the stream refuses a message or does not answer.
pub(crate) async fn publish_windowed(
    jetstream: &Context,
    messages: impl Iterator<Item = (Subject, PublishMessage)>,
    window: usize,
) -> Result<(), Error> {
    let mut waiting: VecDeque<PublishAckFuture> = VecDeque::with_capacity(window);
    for (subject, message) in messages {
        if waiting.len() >= window {
            // Half of the window at once: waiting for a single acknowledgement would cost a wake-up
            // each.
            for ack in waiting.drain(..window / 2) {
                ack.into_future().await.map_err(with_context("publish"))?;
            }
        }
        waiting.push_back(jetstream.send_publish(subject, message).await.map_err(with_context("publish"))?);
    }
    for ack in waiting {
        ack.into_future().await.map_err(with_context("publish"))?;
    }
    Ok(())
}
