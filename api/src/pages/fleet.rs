//! Numbers of all sites, read once for all readers.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use picket_store::{
    Error, Store,
    ledger::{self, LedgerFilter, LedgerRow},
};
use tracing::warn;

use super::parts::format_count;

/// See the module documentation. Cheap to clone. Bound: one value. Loss: a process that restarts reads it again.
#[derive(Clone)]
pub(crate) struct FleetNumbers {
    ledger: Cache<(), LedgerRow>,
}

impl FleetNumbers {
    /// Age at which numbers are read again.
    const MAX_AGE: Duration = Duration::from_secs(30);
    /// Span of the ledger: its cost rises with the number of checks.
    const LEDGER_SPAN: Duration = Duration::from_secs(300);

    pub(crate) fn new() -> Self {
        Self { ledger: Cache::builder().max_capacity(1).time_to_live(Self::MAX_AGE).build() }
    }

    /// Account of the newest closed minutes of all sites; absent if the database does not give it, since pages go on
    /// without it.
    pub(super) async fn read_ledger(&self, store: &Store) -> Option<LedgerRow> {
        let read = self.ledger.try_get_with((), read_newest_ledger(store)).await;
        read.inspect_err(|error: &Arc<Error>| {
            warn!(error = error.as_ref() as &dyn std::error::Error, "could not read the ledger for a page");
        })
        .ok()
    }
}

async fn read_newest_ledger(store: &Store) -> Result<LedgerRow, Error> {
    let (now, accounted) = ledger::read_accounted_through(store).await?;
    let to = ledger::find_closed_end(now, accounted);
    let rows = ledger::list_by_region(
        store,
        to.saturating_sub(FleetNumbers::LEDGER_SPAN),
        to,
        LedgerFilter::default(),
    )
    .await?;
    Ok(ledger::sum_rows(&rows))
}

/// An account in one sentence.
pub(super) fn describe_ledger(sum: &LedgerRow) -> String {
    if *sum == LedgerRow::default() {
        return "no check was due".to_owned();
    }
    format!(
        "{} checks were due: {} up, {} down, {} missed, {} in gaps, {} unaccounted",
        format_count(sum.expected),
        format_count(sum.up),
        format_count(sum.down),
        format_count(sum.missed),
        format_count(sum.gap),
        format_count(sum.unaccounted),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_names_every_part_of_the_account() {
        let row = |up, missed| LedgerRow { expected: up + missed, up, missed, ..LedgerRow::default() };
        let sum = ledger::sum_rows(&[row(1_000, 2), row(500, 0)]);
        assert_eq!(
            describe_ledger(&sum).replace('\u{202f}', " "),
            "1 502 checks were due: 1 500 up, 0 down, 2 missed, 0 in gaps, 0 unaccounted"
        );
        assert_eq!(describe_ledger(&ledger::sum_rows(&[])), "no check was due");
    }
}
