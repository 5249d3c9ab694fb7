//! Events on the bus and notifications of the database wake the planner and the deliverer, which read
//! everything else from the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    message::AckKind,
};
use futures_util::StreamExt;
use picket_proto::subject;
use picket_runtime::{Backoff, Bus, ErrorChain};
use picket_store::{Store, change_feed::ChangeListener, lanes};
use time::OffsetDateTime;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use crate::metrics::Metrics;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const MIN_RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Redelivery timeout of an event.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Most events of a single request.
const MAX_EVENTS: usize = 500;
/// Waiting time of a request at the server.
const REQUEST_EXPIRY: Duration = Duration::from_secs(5);

/// Time after which the connection for notifications is replaced: a lost connection may stay silent.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(300);

/// Wakes the loops: something may be unplanned, or due.
#[derive(Clone, Default)]
pub(crate) struct Wakers {
    pub(crate) plan: Arc<Notify>,
    pub(crate) deliver: Arc<Notify>,
    is_listening: Arc<AtomicBool>,
}

impl Wakers {
    /// True while notifications of the database arrive.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening.load(Ordering::Relaxed)
    }

    fn wake_all(&self) {
        self.plan.notify_one();
        self.deliver.notify_one();
    }
}

/// Follows the database's notifications for as long as the pipeline runs. Without a connection the database
/// is polled more often.
pub(crate) async fn follow_notifications(store: Store, wakers: Wakers) {
    let mut backoff = Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY);
    loop {
        match ChangeListener::connect_to_notices(&store).await {
            Ok(listener) => {
                backoff.reset();
                wakers.is_listening.store(true, Ordering::Relaxed);
                wakers.wake_all();
                // Ends with the connection or after the interval, whichever comes first.
                let _ = timeout(RECONNECT_INTERVAL, wake_by_notifications(listener, &wakers)).await;
            }
            Err(error) => {
                debug!(error = %ErrorChain(&error), "could not listen for notifications, polling more often");
            }
        }
        wakers.is_listening.store(false, Ordering::Relaxed);
        wakers.wake_all();
        sleep(backoff.next_delay()).await;
    }
}

/// Runs until the connection is lost.
async fn wake_by_notifications(mut listener: ChangeListener, wakers: &Wakers) {
    while listener.next_notification().await.is_ok() {
        wakers.wake_all();
    }
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
