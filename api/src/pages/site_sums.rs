//! Sums of a site in the windows before a past moment.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp};
use picket_store::{
    Store,
    site_history::{self, Span, TickSums},
};

/// Windows of the sums: days and name.
pub(super) const WINDOWS: [(u64, &str); 4] =
    [(1, "24 hours"), (7, "7 days"), (30, "30 days"), (90, "90 days")];

/// Percentages of uptime and coverage in each of [`WINDOWS`].
pub(super) type PastSums = [(Option<f64>, Option<f64>); WINDOWS.len()];

/// Sums the ticks of a site in the windows before a moment.
///
/// # Errors
/// If the database cannot be reached in time.
pub(super) async fn sum_until(
    store: &Store,
    site: SiteId,
    at: Timestamp,
) -> Result<PastSums, picket_store::Error> {
    let mut sums = PastSums::default();
    for (sum, (days, _)) in sums.iter_mut().zip(WINDOWS) {
        let span = Span::new(at.saturating_sub(Duration::from_secs(days * 86_400)), at)?;
        *sum = sum_regions(&site_history::sum_ticks(store, site, span).await?);
    }
    Ok(sums)
}

/// Uptime and coverage of all regions together.
fn sum_regions(rows: &[TickSums]) -> (Option<f64>, Option<f64>) {
    let add = |of: fn(&TickSums) -> i64| rows.iter().map(of).sum::<i64>();
    let (checks, up, down) = (add(|row| row.checks), add(|row| row.up), add(|row| row.down));
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let share = |part: i64, whole: i64| (whole > 0).then(|| part as f64 * 100.0 / whole as f64);
    (share(up, up + down), share(up + down, checks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(region: &str, checks: i64, up: i64, down: i64) -> TickSums {
        TickSums {
            region: region.to_owned(),
            checks,
            up,
            down,
            missed: checks - up - down,
            gap: 0,
            uptime_pct: None,
            uptime_pct_excl_maintenance: None,
            coverage_pct: None,
        }
    }

    #[test]
    fn regions_are_summed_by_ticks_and_not_by_percentages() {
        assert_eq!(sum_regions(&[sums("eu", 100, 90, 10), sums("us", 900, 0, 0)]), (Some(90.0), Some(10.0)));
        assert_eq!(sum_regions(&[]), (None, None));
    }
}
