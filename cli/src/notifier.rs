//! Whether a notifier runs, for commands whose results would read as if people were told.

use picket_store::{Store, notifications::read_notifier_presence};

use crate::{error::Error, output::print_error};

/// Reports an absent notifier on standard error.
pub(crate) async fn warn_without_notifier(store: &Store) -> Result<(), Error> {
    if let Some(absence) = read_notifier_presence(store, None).await?.describe_absence() {
        print_error(absence);
    }
    Ok(())
}
