//! Publishing to a stream with a window of acknowledgements: the least that a publisher who loses nothing can do.

use std::{collections::VecDeque, future::IntoFuture};

use async_nats::{
    Subject,
    jetstream::{Context, context::PublishAckFuture, message::PublishMessage},
};

use crate::{Error, testbed::with_context};

/// Publishes all of them, with so many acknowledgements outstanding at most, until the last has come.
///
/// # Errors
/// When the stream refuses one, or does not answer.
pub(crate) async fn publish_windowed(
    jetstream: &Context,
    messages: impl Iterator<Item = (Subject, PublishMessage)>,
    window: usize,
) -> Result<(), Error> {
    let mut waiting: VecDeque<PublishAckFuture> = VecDeque::with_capacity(window);
    for (subject, message) in messages {
        if waiting.len() >= window {
            // Half of them at once: each wait for one alone would be a wake-up.
            for acknowledged in waiting.drain(..window / 2) {
                acknowledged.into_future().await.map_err(with_context("publish"))?;
            }
        }
        waiting.push_back(jetstream.send_publish(subject, message).await.map_err(with_context("publish"))?);
    }
    for acknowledged in waiting {
        acknowledged.into_future().await.map_err(with_context("publish"))?;
    }
    Ok(())
}
