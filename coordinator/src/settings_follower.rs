//! Follows changes of the cluster settings, every second and after a notification.
//!
//! Other actors read the shared settings when they use them. Bound: one statement at a time. Loss:
//! none; the next refresh reads all settings again.

use picket_runtime::ErrorChain;
use picket_store::{
    Store,
    settings::{REFRESH_INTERVAL, SharedSettings},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::debug;

use crate::stream_setup;

pub(crate) enum Msg {
    /// Refresh, and schedule the next refresh.
    Refresh,
    /// The database has notified of a change.
    Notified,
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct SettingsFollower {
    pub(crate) store: Store,
    pub(crate) settings: SharedSettings,
    pub(crate) stream_reconciler: ActorRef<stream_setup::Msg>,
}

impl Actor for SettingsFollower {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        myself.cast(Msg::Refresh)?;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match self.settings.refresh(&self.store).await {
            // The reconciler looks every few seconds only.
            Ok(true) => self.stream_reconciler.cast(stream_setup::Msg::Notified(Instant::now()))?,
            Ok(false) => {}
            // Others report the unavailable database.
            Err(error) => debug!(error = %ErrorChain(&error), "could not refresh the settings, retrying"),
        }
        if matches!(message, Msg::Refresh) {
            myself.send_after(REFRESH_INTERVAL, || Msg::Refresh);
        }
        Ok(())
    }
}
