//! Follows changes of the cluster settings by polling.
//!
//! Other actors read the shared settings when they use them. Bound: one statement at a time. Loss:
//! none; the next refresh reads all settings again.

use picket_runtime::ErrorChain;
use picket_store::{
    Store,
    settings::{REFRESH_INTERVAL, SharedSettings},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{debug, info};

pub(crate) enum Msg {
    Refresh,
}

pub(crate) struct SettingsFollower {
    pub(crate) store: Store,
    pub(crate) settings: SharedSettings,
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
        Msg::Refresh: Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match self.settings.refresh(&self.store).await {
            Ok(changed) => {
                for (definition, value) in changed {
                    info!(setting = definition.name, %value, "setting changed");
                }
            }
            // The writer reports the unavailable database.
            Err(error) => debug!(error = %ErrorChain(&error), "could not refresh the settings, retrying"),
        }
        myself.send_after(REFRESH_INTERVAL, || Msg::Refresh);
        Ok(())
    }
}
