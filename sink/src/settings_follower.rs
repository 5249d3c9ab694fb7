//! Follows changes of the cluster settings by polling.
//!
//! Other parts read the shared settings when they use them. Bound: one statement at a time. Loss:
//! none; the next refresh reads all settings again.

use picket_runtime::ErrorChain;
use picket_store::{
    Store,
    settings::{REFRESH_INTERVAL, SharedSettings},
};
use tokio::time::sleep;
use tracing::debug;

/// Refreshes `settings` every [`REFRESH_INTERVAL`]; never returns.
pub(crate) async fn follow_settings(store: Store, settings: SharedSettings) {
    loop {
        if let Err(error) = settings.refresh(&store).await {
            // The writer reports the unavailable database.
            debug!(error = %ErrorChain(&error), "could not refresh the settings, retrying");
        }
        sleep(REFRESH_INTERVAL).await;
    }
}
