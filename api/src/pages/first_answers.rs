//! Answers of the regions to the first check of a new site, as long as a region has not finished a tick.

use picket_proto::CheckResult;

use super::{
    check_now::describe_result,
    parts::{StatusMark, TimeMark},
};
use crate::charts::format_duration;

/// The answer of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstAnswer {
    pub(crate) region: String,
    pub(crate) status: StatusMark,
    pub(crate) asked_at: TimeMark,
    pub(crate) total: String,
    pub(crate) text: String,
}

impl FirstAnswer {
    /// The newest answer of each region about this URL, by region.
    pub(super) fn list(results: &[CheckResult], url: &str) -> Vec<Self> {
        let mut newest: Vec<&CheckResult> = results.iter().filter(|result| result.url == url).collect();
        newest.sort_by(|one, other| {
            one.region.cmp(&other.region).then(other.scheduled_at.cmp(&one.scheduled_at))
        });
        newest.dedup_by(|other, one| other.region == one.region);
        newest.into_iter().map(Self::new).collect()
    }

    fn new(result: &CheckResult) -> Self {
        let total = result.timing.total_us;
        Self {
            region: result.region.to_string(),
            status: result.outcome.into(),
            asked_at: TimeMark(result.scheduled_at),
            total: total.map_or_else(|| "–".to_owned(), |micros| format_duration(f64::from(micros))),
            text: describe_result(result),
        }
    }
}
