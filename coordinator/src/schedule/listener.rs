//! Listens for notifications of the database and wakes the affected actors.
//!
//! Only an optimization: each of these actors also polls. Bound: notifications within
//! [`COALESCE_WINDOW`] are combined. Loss: none; polling compensates for missed notifications.

use std::time::Duration;

use picket_runtime::{Backoff, ErrorChain};
use picket_store::{
    Store,
    change_feed::{ChangeListener, Notification},
};
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::{lease, schedule::catalog, settings_follower, stream_setup};

/// Notifications within this time are combined.
const COALESCE_WINDOW: Duration = Duration::from_millis(50);
/// The driver does not notice a connection that died silently, so the connection is replaced
/// regularly.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(600);

/// The listener and the actors it wakes.
#[derive(Clone)]
pub(crate) struct NotificationListener {
    pub(crate) store: Store,
    pub(crate) catalog: ActorRef<catalog::Msg>,
    pub(crate) lease_manager: ActorRef<lease::Msg>,
    pub(crate) stream_reconciler: ActorRef<stream_setup::Msg>,
    pub(crate) settings_follower: ActorRef<settings_follower::Msg>,
}

/// What has changed.
#[derive(Clone, Copy, Default)]
struct Changes {
    sites: bool,
    leases: bool,
    settings: bool,
}

impl Changes {
    /// After a time without a connection anything may have changed.
    const ALL_CHANGES: Self = Self { sites: true, leases: true, settings: true };
}

impl NotificationListener {
    /// Runs until the pipeline ends.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match ChangeListener::connect(&self.store).await {
                Ok(listener) => {
                    backoff.reset();
                    // Ends with the connection or after the interval, whichever comes first.
                    let _ = timeout(RECONNECT_INTERVAL, self.process_notifications(listener)).await;
                }
                Err(error) => {
                    debug!(error = %ErrorChain(&error), "could not listen for notifications; polling continues")
                }
            }
            self.wake_actors(Changes::ALL_CHANGES);
            sleep(backoff.next_delay()).await;
        }
    }

    /// Runs until the connection is lost.
    async fn process_notifications(&self, mut listener: ChangeListener) {
        loop {
            let mut changes = Changes::default();
            let mut call = listener.next_notification().await;
            // Counted from the first notification, so that a steady stream of them wakes the actors.
            let until = Instant::now() + COALESCE_WINDOW;
            loop {
                match call {
                    Ok(Notification::Sites) => changes.sites = true,
                    Ok(Notification::Leases) => changes.leases = true,
                    Ok(Notification::Settings) => changes.settings = true,
                    // Not subscribed to.
                    Ok(Notification::Notices) => {}
                    Ok(Notification::Reconnected) => changes = Changes::ALL_CHANGES,
                    Err(_) => return,
                }
                match timeout_at(until, listener.next_notification()).await {
                    Ok(next) if !changes.leases => call = next,
                    _ => break,
                }
            }
            #[cfg(test)]
            picket_harness::injected_panic::panic_if_injected("notification_listener");
            self.wake_actors(changes);
        }
    }

    fn wake_actors(&self, changes: Changes) {
        // An actor that has stopped takes the pipeline down with it.
        if changes.leases {
            let _ = self.lease_manager.cast(lease::Msg::LeasesAvailable);
        }
        if changes.settings {
            let _ = self.settings_follower.cast(settings_follower::Msg::Notified);
        }
        if changes.sites {
            let _ = self.catalog.cast(catalog::Msg::Notified);
            let _ = self.stream_reconciler.cast(stream_setup::Msg::Notified(Instant::now()));
        }
    }
}
