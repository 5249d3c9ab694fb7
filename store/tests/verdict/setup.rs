//! What the tests of incidents and of warnings share: times, policies, sites, and strategies for input.

use std::{collections::BTreeSet, time::Duration};

use picket_proto::Timestamp;
use picket_store::incident_rules::{IncidentPolicy, RegionId, RegionView, SiteView};
use proptest::{collection::vec, prelude::*};

/// The defaults of a site.
pub(crate) const POLICY: IncidentPolicy =
    IncidentPolicy { failures_to_open: 2, successes_to_close: 2, quorum: None };
/// Time after which a region no longer reports, where input has any order.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// The regions of input in any order are numbered from 1 to this.
pub(crate) const REGIONS: RegionId = 4;

pub(crate) fn timestamp_at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

/// Watched from `regions` regions, up and without a warning until second 0.
pub(crate) fn new_site_view(policy: IncidentPolicy, regions: RegionId) -> SiteView {
    let region = RegionView {
        state: None,
        reporting_window: Duration::from_secs(120),
        joining_until: timestamp_at(-1_000),
        last_result_at: Some(timestamp_at(0)),
        last_success_at: Some(timestamp_at(0)),
    };
    SiteView {
        policy,
        regions: (1..=regions).map(|id| (id, region.clone())).collect(),
        has_open_incident: false,
        maintenance_windows: vec![],
    }
}

/// A change of the world around the rules.
#[derive(Clone, Debug)]
pub(crate) enum Step<R> {
    /// Results arrive.
    Results(Vec<R>),
    /// A region begins to check the site.
    Join(RegionId),
    /// A region no longer checks the site.
    Leave(RegionId),
}

impl<R> Step<R> {
    /// Applies a change of regions to `regions`. Returns results to apply.
    pub(crate) fn apply_to<'a>(&'a self, regions: &mut BTreeSet<RegionId>) -> &'a [R] {
        match self {
            Self::Results(batch) => return batch,
            Self::Join(region) => regions.insert(*region),
            Self::Leave(region) => regions.remove(region),
        };
        &[]
    }
}

pub(crate) fn step_strategy<R: std::fmt::Debug>(
    result: impl Strategy<Value = R>,
) -> impl Strategy<Value = Step<R>> {
    prop_oneof![
        8 => vec(result, 1..6).prop_map(Step::Results),
        1 => (1..=REGIONS).prop_map(Step::Join),
        1 => (1..=REGIONS).prop_map(Step::Leave),
    ]
}

pub(crate) fn policy_strategy() -> impl Strategy<Value = IncidentPolicy> {
    (1..=3u32, 1..=3u32, prop_oneof![Just(None), (1..=5u32).prop_map(Some)]).prop_map(
        |(failures_to_open, successes_to_close, quorum)| IncidentPolicy {
            failures_to_open,
            successes_to_close,
            quorum,
        },
    )
}

/// `results` in the order in which they were due, each once by its `key`.
pub(crate) fn sort_by_due_time<R: Clone, K: Ord>(results: &[R], key: impl Fn(&R) -> K) -> Vec<R> {
    let mut results = results.to_vec();
    results.sort_by_key(&key);
    results.dedup_by_key(|result| key(result));
    results
}

/// `results` in batches of these sizes, each batch in reverse order.
pub(crate) fn cut_into_batches<R: Clone>(results: &[R], sizes: &[usize]) -> Vec<Vec<R>> {
    let mut rest = results;
    let batches = sizes.iter().map(|size| {
        let (batch, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        batch.iter().rev().cloned().collect()
    });
    batches.collect()
}
