//! The newest outcome of each site and region, to tell changes from repetitions.

use std::collections::HashMap;

use picket_proto::{CheckResult, Outcome, RegionName, SiteId};

/// Outcomes since the first viewer of changes came.
#[derive(Debug, Default)]
pub(crate) struct OutcomeHistory {
    sites: HashMap<SiteId, Vec<(RegionName, Outcome)>>,
}

impl OutcomeHistory {
    /// Maximum number of sites; beyond it the history begins again.
    const MAX_SITES: usize = 200_000;

    /// Records a result. Returns true if its outcome differs from the one before, or if it is the
    /// first and not `up`. Results of ad-hoc checks are changes, because they are requested.
    pub(crate) fn record(&mut self, result: &CheckResult) -> bool {
        let Some(site) = result.site_id else { return true };
        if self.sites.len() >= Self::MAX_SITES && !self.sites.contains_key(&site) {
            self.clear();
        }
        let regions = self.sites.entry(site).or_default();
        match regions.iter_mut().find(|(region, _)| *region == result.region) {
            Some((_, outcome)) => std::mem::replace(outcome, result.outcome) != result.outcome,
            None => {
                regions.push((result.region.clone(), result.outcome));
                result.outcome != Outcome::Up
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        if !self.sites.is_empty() {
            self.sites = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_harness::builders::up_result;

    use super::*;

    #[test]
    fn a_change_is_a_result_with_another_outcome_than_the_one_before_in_its_region() {
        let mut history = OutcomeHistory::default();
        let at = "2026-11-20T12:00:00Z".parse().unwrap();
        let mut record = |region: &str, outcome: Outcome| {
            let up = up_result(SiteId(1), &region.parse().unwrap(), at);
            history.record(&CheckResult { outcome, ..up })
        };

        assert!(!record("eu", Outcome::Up), "the first, and up");
        assert!(record("us", Outcome::Down), "the first, and down");
        assert!(!record("eu", Outcome::Up));
        assert!(record("eu", Outcome::Missed));
        assert!(!record("us", Outcome::Down));
        assert!(record("us", Outcome::Up));
    }
}
