//! Listens for notifications of the database and wakes the affected actors.
//!
//! Only an optimization: each of these actors also polls. Bound: notifications within
//! [`COALESCE_WINDOW`] are combined. Loss: none; polling compensates for missed
//! notifications.
//! polling does not make up for.

use std::time::Duration;

use picket_runtime::{Backoff, ErrorChain};
use picket_store::{
    Store,
    change_feed::{ChangeListener, Notification},
};
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::{catalog, lease, settings_follower, stream_setup};

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
    /// Runs until the actors have stopped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match ChangeListener::connect(&self.store).await {
                Ok(listener) => {
                    backoff.reset();
                    if timeout(RECONNECT_INTERVAL, self.process_notifications(listener))
                        .await
                        .is_ok_and(|gone| gone)
                    {
                        return;
                    }
                }
                Err(error) => {
                    debug!(error = %ErrorChain(&error), "could not listen for notifications; polling continues")
                }
            }
            if self.wake_actors(Changes::ALL_CHANGES).is_err() {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Returns true once the actors have stopped, and false if the connection is lost.
    async fn process_notifications(&self, mut listener: ChangeListener) -> bool {
        loop {
            let mut changes = Changes::default();
            let mut call = listener.next_notification().await;
            loop {
                match call {
                    Ok(Notification::Sites) => changes.sites = true,
                    Ok(Notification::Leases) => changes.leases = true,
                    Ok(Notification::Settings) => changes.settings = true,
                    Ok(Notification::Reconnected) => changes = Changes::ALL_CHANGES,
                    Err(_) => return false,
                }
                match timeout(COALESCE_WINDOW, listener.next_notification()).await {
                    Ok(next) if !changes.leases => call = next,
                    _ => break,
                }
            }
            if self.wake_actors(changes).is_err() {
                return true;
            }
        }
    }

    fn wake_actors(&self, changes: Changes) -> Result<(), ()> {
        if changes.leases {
            self.lease_manager.cast(lease::Msg::LeasesAvailable).map_err(|_| ())?;
        }
        if changes.settings {
            self.settings_follower.cast(settings_follower::Msg::Notified).map_err(|_| ())?;
        }
        if changes.sites {
            self.catalog.cast(catalog::Msg::Notified).map_err(|_| ())?;
            self.stream_reconciler.cast(stream_setup::Msg::Notified(Instant::now())).map_err(|_| ())?;
        }
        Ok(())
    }
}
