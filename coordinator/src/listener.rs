//! Listens to what the database calls out, and wakes who should look.
//!
//! For speed only: whoever is woken also looks by itself. Bound: calls within [`TOGETHER`] are one. Loss: none that
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

use crate::{catalog, lease, stream_setup};

/// Calls that come within this are one.
const COALESCE_WINDOW: Duration = Duration::from_millis(50);
/// The driver notices no connection that died silently, so that it is made anew now and then.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(600);

/// Whom to wake.
#[derive(Clone)]
pub(crate) struct NotificationListener {
    pub(crate) store: Store,
    pub(crate) catalog: ActorRef<catalog::Msg>,
    pub(crate) lease_manager: ActorRef<lease::Msg>,
    pub(crate) stream_reconciler: ActorRef<stream_setup::Msg>,
}

impl NotificationListener {
    /// Listens until those it wakes are gone.
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
                    debug!(error = %ErrorChain(&error), "cannot listen to the database; polling goes on")
                }
            }
            if self.wake_actors(true, true).is_err() {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Says whether those to wake are gone; returns also when the connection is.
    async fn process_notifications(&self, mut listener: ChangeListener) -> bool {
        loop {
            let (mut sites, mut leases) = (false, false);
            let mut call = listener.next_notification().await;
            loop {
                match call {
                    Ok(Notification::Sites) => sites = true,
                    Ok(Notification::Leases) => leases = true,
                    Ok(Notification::Reconnected) => (sites, leases) = (true, true),
                    Err(_) => return false,
                }
                match timeout(COALESCE_WINDOW, listener.next_notification()).await {
                    Ok(next) if !leases => call = next,
                    _ => break,
                }
            }
            if self.wake_actors(sites, leases).is_err() {
                return true;
            }
        }
    }

    fn wake_actors(&self, sites: bool, leases: bool) -> Result<(), ()> {
        if leases {
            self.lease_manager.cast(lease::Msg::LeasesAvailable).map_err(|_| ())?;
        }
        if sites {
            self.catalog.cast(catalog::Msg::Notified).map_err(|_| ())?;
            self.stream_reconciler.cast(stream_setup::Msg::Notified(Instant::now())).map_err(|_| ())?;
        }
        Ok(())
    }
}
