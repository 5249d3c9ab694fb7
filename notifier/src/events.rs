//! Events on the bus wake the planner. What they say is read from the database.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    message::AckKind,
};
use futures_util::StreamExt;
use picket_proto::subject;
use picket_runtime::{Backoff, Bus, ErrorChain};
use picket_store::{Store, lanes};
use time::OffsetDateTime;
use tokio::{sync::Notify, time::sleep};
use tracing::{debug, info};

use crate::metrics::Metrics;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const MIN_RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Redelivery timeout of an event.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Most events of one request.
const MAX_EVENTS: usize = 500;
/// Waiting time of a request at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(5);

/// Wakes the loops: something may be unplanned, or due.
#[derive(Clone, Default)]
pub(crate) struct Wakers {
    pub(crate) plan: Arc<Notify>,
    pub(crate) deliver: Arc<Notify>,
}

/// Consumer shared by all notifiers. It begins with new events: a new installation of notifiers tells
/// nothing of the past.
fn consumer_config() -> pull::Config {
    pull::Config {
        durable_name: Some(subject::NOTIFIER_CONSUMER.to_owned()),
        filter_subject: subject::EVENT_SUBJECTS.to_owned(),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: 1_000,
        ..pull::Config::default()
    }
}

/// Follows the events for as long as the pipeline runs, and makes a deleted consumer again.
pub(crate) async fn follow_events(bus: Bus, store: Store, metrics: Metrics, wakers: Wakers) {
    let mut backoff = Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY);
    let mut consumer = None;
    loop {
        match pull_events(&bus, &store, &metrics, &wakers, &mut consumer).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                consumer = None;
                metrics.consumer_errors.inc();
                let wait = backoff.next_delay();
                debug!(error = %ErrorChain(error.as_ref()), wait_ms = wait.as_millis(), "no events; the database is polled meanwhile");
                sleep(wait).await;
            }
        }
    }
}

async fn pull_events(
    bus: &Bus,
    store: &Store,
    metrics: &Metrics,
    wakers: &Wakers,
    kept: &mut Option<PullConsumer>,
) -> Result<(), BoxError> {
    let consumer = match kept {
        Some(consumer) => consumer,
        None => {
            let made =
                bus.jetstream.create_consumer_on_stream(consumer_config(), subject::EVENTS_STREAM).await?;
            info!(consumer = subject::NOTIFIER_CONSUMER, "following events");
            kept.insert(made)
        }
    };
    let mut is_idle = true;
    let mut batch = consumer.batch().max_messages(MAX_EVENTS).expires(REQUEST_EXPIRY).messages().await?;
    while let Some(message) = batch.next().await {
        let message = message?;
        is_idle = false;
        if let Ok(info) = message.info() {
            let age = (OffsetDateTime::now_utc() - info.published).as_seconds_f64();
            metrics.consumer_lag_seconds.set(age.max(0.0));
        }
        // Acknowledged after the plan is committed, by whichever notifier.
        while lanes::plan_notices(store).await? > 0 {
            wakers.deliver.notify_one();
        }
        message.ack_with(AckKind::Ack).await?;
    }
    if is_idle {
        metrics.consumer_lag_seconds.set(0.0);
    }
    Ok(())
}
