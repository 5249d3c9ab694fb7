//! Regular requests: watchdogs, which hear of Picket only while the whole chain works, and
//! Alertmanagers, which forget what is not repeated. Also events that time causes.

use std::time::Duration;

use futures_util::future::join_all;
use picket_proto::{ChannelKind, Timestamp};
use picket_runtime::ErrorChain;
use picket_store::lanes::{self, PingedChannel};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::{attempt::Attempt, channel::ChannelSettings, compose::compose_repetition, worker::Worker};

/// Time between two looks for channels due.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two requests of a channel, whichever notifier makes them.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two looks for certificates that end and checks unaccounted for.
const DUE_EVENTS_INTERVAL: Duration = Duration::from_secs(600);

/// Makes the regular requests for as long as the pipeline runs.
pub(crate) async fn ping_regularly(worker: Worker) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events_recorded: Option<Instant> = None;
    loop {
        ticks.tick().await;
        if let Err(error) = ping_due_channels(&worker).await {
            worker.metrics.database_errors.inc();
            debug!(error = %ErrorChain(&error), "could not look for watchdogs");
        }
        if events_recorded.is_none_or(|at| at.elapsed() >= DUE_EVENTS_INTERVAL) {
            events_recorded = Some(Instant::now());
            if let Err(error) = lanes::record_due_events(&worker.store).await {
                worker.metrics.database_errors.inc();
                warn!(error = %ErrorChain(&error), "could not look for certificates that end");
            }
        }
    }
}

async fn ping_due_channels(worker: &Worker) -> Result<(), picket_store::Error> {
    let channels = lanes::take_pings(&worker.store, PING_INTERVAL).await?;
    // Side by side: a receiver that hangs must not delay a watchdog, which would raise an alarm.
    join_all(channels.iter().map(|channel| ping_channel(worker, channel))).await;
    Ok(())
}

async fn ping_channel(worker: &Worker, channel: &PingedChannel) {
    let Ok(kind) = channel.kind.parse::<ChannelKind>() else { return };
    let settings = match ChannelSettings::parse(kind, &channel.settings.0) {
        Ok(settings) => settings,
        Err(why) => return warn!(channel = channel.name, error = %why, "the channel cannot be used"),
    };
    let attempt = match kind {
        ChannelKind::Watchdog => ping_watchdog(worker, channel, &settings).await,
        _ => repeat_firing(worker, channel, &settings).await,
    };
    match attempt {
        Ok(Some(attempt)) if !attempt.is_delivered() => {
            warn!(
                channel = channel.name,
                status = attempt.status,
                answer = attempt.message,
                "a regular request failed"
            );
        }
        Ok(_) => {}
        Err(error) => {
            worker.metrics.database_errors.inc();
            debug!(channel = channel.name, error = %ErrorChain(&error), "could not make a regular request");
        }
    }
}

async fn ping_watchdog(
    worker: &Worker,
    channel: &PingedChannel,
    settings: &ChannelSettings,
) -> Result<Option<Attempt>, picket_store::Error> {
    let problem = lanes::find_chain_problem(&worker.store).await?;
    if let Some(problem) = &problem {
        warn!(channel = channel.name, problem, "the watchdog is not told that all is well");
    }
    Ok(worker.sender.ping(settings, problem.as_deref()).await)
}

async fn repeat_firing(
    worker: &Worker,
    channel: &PingedChannel,
    settings: &ChannelSettings,
) -> Result<Option<Attempt>, picket_store::Error> {
    let events = lanes::list_firing_events(&worker.store, &channel.name).await?;
    if events.is_empty() {
        return Ok(None);
    }
    let shared = worker.settings.current();
    let url = worker.public_url();
    let now = Timestamp::from(time::OffsetDateTime::now_utc());
    let messages: Vec<_> = events
        .iter()
        .map(|event| compose_repetition(event, shared.installation_id, url.as_deref(), now))
        .collect();
    Ok(worker.sender.send_batch(settings, &messages).await)
}
