//! The loops of a notifier, built together: planning, delivery, events that wake, signs of life.

use std::{sync::Arc, time::Duration};

use picket_runtime::{Bus, ErrorChain, Pipeline, ReadinessCheck, secrets::Secrets, spawn_task};
use picket_store::lanes;
use ractor::{ActorCell, SpawnErr};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    Config,
    aftermath::FAILING_TIME,
    events::{self, Wakers},
    metrics::ChannelLabel,
    pings,
    worker::{LEASE_TIME, Worker},
};

/// Time between two looks at the database without notifications, or while work cannot be taken.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time between two looks while notifications arrive, in case of a lost notification.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two signs of life.
const LIFE_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct NotifierPipeline {
    pub(crate) config: Config,
    pub(crate) bus: Bus,
    pub(crate) worker: Worker,
    pub(crate) secrets: Secrets,
    pub(crate) database: ReadinessCheck,
}

/// Handles for the end of a pipeline.
pub(crate) struct NotifierTasks {
    stop: CancellationToken,
    deliveries: TaskTracker,
}

impl Pipeline for NotifierPipeline {
    type Actors = NotifierTasks;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<NotifierTasks, SpawnErr> {
        let (stop, deliveries, wakers) = (CancellationToken::new(), TaskTracker::new(), Wakers::default());
        let worker = &self.worker;
        let settings_follower = worker.settings.clone().follow_database(worker.store.clone());
        spawn_task("settings_follower", settings_follower, supervisor.clone()).await?;
        let planner = plan_regularly(worker.clone(), self.database.clone(), wakers.clone());
        spawn_task("planner", planner, supervisor.clone()).await?;
        let deliverer = deliver_regularly(
            worker.clone(),
            usize::from(self.config.concurrency),
            wakers.clone(),
            deliveries.clone(),
            stop.clone(),
        );
        spawn_task("deliverer", deliverer, supervisor.clone()).await?;
        let listened = wakers.clone();
        let listener =
            events::follow_events(self.bus.clone(), worker.store.clone(), worker.metrics.clone(), wakers);
        spawn_task("event_listener", listener, supervisor.clone()).await?;
        let listener = events::follow_notifications(worker.store.clone(), listened);
        spawn_task("notification_listener", listener, supervisor.clone()).await?;
        spawn_task("pings", pings::ping_regularly(worker.clone()), supervisor.clone()).await?;
        let secrets = self.secrets.clone();
        let follower = async move { secrets.follow_changes(|_| ()).await };
        spawn_task("secrets_follower", follower, supervisor.clone()).await?;
        spawn_task("signs_of_life", show_life(worker.clone()), supervisor).await?;
        Ok(NotifierTasks { stop, deliveries })
    }

    async fn drain(&self, tasks: NotifierTasks) {
        tasks.stop.cancel();
        tasks.deliveries.close();
        if timeout(self.config.drain_timeout, tasks.deliveries.wait()).await.is_err() {
            warn!("attempts are still in progress; their messages are sent again, and say so");
        }
    }
}

/// Plans what is not planned: after an event, and regularly, because events only wake.
async fn plan_regularly(worker: Worker, database: ReadinessCheck, wakers: Wakers) {
    loop {
        match lanes::plan_notices(&worker.store).await {
            Ok(0) => {
                database.set_ready();
                let wait = if wakers.is_listening() { IDLE_INTERVAL } else { POLL_INTERVAL };
                let _ = timeout(wait, wakers.plan.notified()).await;
            }
            Ok(planned) => {
                debug!(planned, "planned who is told");
                wakers.deliver.notify_one();
            }
            Err(error) => {
                worker.metrics.database_errors.inc();
                database.set_unready(ErrorChain(&error).to_string());
                warn!(error = %ErrorChain(&error), "could not plan who is told, retrying");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// Leases lanes in which there is something to do, as many at a time as there are permits. A channel has
/// at most a quarter of them, and all channels that fail half, so that hanging receivers hold up no
/// other.
async fn deliver_regularly(
    worker: Worker,
    concurrency: usize,
    wakers: Wakers,
    deliveries: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(concurrency));
    let failing_permits = Arc::new(Semaphore::new((concurrency / 2).max(1)));
    let most_lanes = i32::try_from((concurrency / 4).max(1)).unwrap_or(i32::MAX);
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        if stop.is_cancelled() {
            // The drain ends this task.
            return std::future::pending().await;
        }
        let failing_permit = failing_permits.clone().try_acquire_owned().ok();
        let with_failing = failing_permit.is_some();
        match lanes::claim_lane(&worker.store, &worker.name, LEASE_TIME, most_lanes, with_failing).await {
            Ok(Some(lane)) => {
                let (worker, deliver) = (worker.clone(), wakers.deliver.clone());
                let failing_permit = failing_permit.filter(|_| lane.is_failing);
                deliveries.spawn(async move {
                    worker.work_lane(&lane).await;
                    drop((permit, failing_permit));
                    deliver.notify_one();
                });
            }
            Ok(None) => {
                drop(permit);
                let wait = find_wait(&worker, &wakers).await;
                let _ = timeout(wait, wakers.deliver.notified()).await;
            }
            Err(error) => {
                worker.metrics.database_errors.inc();
                warn!(error = %ErrorChain(&error), "could not look for something to tell, retrying");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// Time until the next look for a lane. The due times of lanes are known, and each change that brings a time
/// forward sends a notification.
async fn find_wait(worker: &Worker, wakers: &Wakers) -> Duration {
    if !wakers.is_listening() {
        return POLL_INTERVAL;
    }
    match lanes::find_next_work(&worker.store).await {
        Ok(None) => IDLE_INTERVAL,
        // Due, and nevertheless not leased: a limit of this notifier, or another one was faster.
        Ok(Some(next)) if next.is_zero() => POLL_INTERVAL,
        Ok(Some(next)) => next.min(IDLE_INTERVAL),
        Err(error) => {
            worker.metrics.database_errors.inc();
            debug!(error = %ErrorChain(&error), "could not look for the next work");
            POLL_INTERVAL
        }
    }
}

/// Marks this notifier alive, and reads the backlog for metrics.
async fn show_life(worker: Worker) {
    let mut ticks = interval(LIFE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = show_life_once(&worker).await {
            worker.metrics.database_errors.inc();
            debug!(error = %ErrorChain(&error), "could not show a sign of life");
        }
    }
}

async fn show_life_once(worker: &Worker) -> Result<(), picket_store::Error> {
    lanes::mark_notifier(&worker.store, &worker.name, env!("CARGO_PKG_VERSION")).await?;
    lanes::mark_failing_channels(&worker.store, FAILING_TIME).await?;
    let backlog = lanes::read_backlog(&worker.store).await?;
    worker.metrics.waiting.set(backlog.waiting);
    worker.metrics.oldest_waiting_seconds.set(backlog.oldest_seconds.unwrap_or(0.0));
    worker.metrics.unplanned.set(backlog.unplanned);
    let channels = lanes::list_channel_failures(&worker.store).await?;
    // Whichever notifier works for a channel, all show the same; a removed channel is shown no more.
    worker.metrics.channel_failing.clear();
    for (channel, is_failing) in channels {
        worker.metrics.channel_failing.get_or_create(&ChannelLabel { channel }).set(is_failing.into());
    }
    Ok(())
}
