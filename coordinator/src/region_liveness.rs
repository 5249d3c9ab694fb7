//! Pure: liveness of regions, from the activity of their consumers.

use std::{collections::HashMap, time::Duration};

use picket_proto::RegionName;
use tokio::time::Instant;

/// Time without a pull request, delivery or acknowledgement after which a region is silent.
pub(crate) const SILENCE_THRESHOLD: Duration = Duration::from_secs(20);

/// Activity of a region's consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerActivity {
    /// Waiting pull requests.
    pub(crate) waiting_pulls: usize,
    /// Jobs delivered so far.
    pub(crate) delivered: u64,
    /// Jobs acknowledged so far.
    pub(crate) acknowledged: u64,
}

/// Last activity of each region.
#[derive(Default)]
pub(crate) struct RegionLiveness(HashMap<RegionName, LastActivity>);

struct LastActivity {
    activity: ConsumerActivity,
    last_active_at: Instant,
    is_active: bool,
}

impl RegionLiveness {
    /// Records the activity of the consumer of `region` at `now`.
    pub(crate) fn observe_consumer(&mut self, region: &RegionName, activity: ConsumerActivity, now: Instant) {
        let Some(last) = self.0.get_mut(region) else {
            let alive = activity.waiting_pulls > 0;
            self.0.insert(region.clone(), LastActivity { activity, last_active_at: now, is_active: alive });
            return;
        };
        let moved = (last.activity.delivered, last.activity.acknowledged)
            != (activity.delivered, activity.acknowledged);
        // A busy prober has no waiting pull, but its deliveries and acknowledgements move.
        last.is_active = activity.waiting_pulls > 0 || moved;
        last.activity = activity;
        if last.is_active {
            last.last_active_at = now;
        }
    }

    /// Drops all regions except `regions`, which are in use.
    pub(crate) fn retain_regions(&mut self, regions: &[RegionName]) {
        self.0.retain(|region, _| regions.contains(region));
    }

    /// Drops all observations, because the bus was unavailable and no prober could be active.
    pub(crate) fn reset(&mut self) {
        self.0.clear();
    }

    /// Silent regions, and the time since their last activity.
    pub(crate) fn silent_regions(&self, now: Instant) -> Vec<(RegionName, Duration)> {
        let silent = self.0.iter().map(|(region, last)| (region.clone(), now - last.last_active_at));
        silent.filter(|(_, since)| *since >= SILENCE_THRESHOLD).collect()
    }

    /// Regions that were active at the last observation.
    pub(crate) fn active_regions(&self) -> Vec<RegionName> {
        self.0.iter().filter(|(_, last)| last.is_active).map(|(region, _)| region.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(waiting: usize, delivered: u64) -> ConsumerActivity {
        ConsumerActivity { waiting_pulls: waiting, delivered, acknowledged: delivered }
    }

    #[test]
    fn a_region_is_silent_without_pulls_and_without_progress() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let (eu, us): (RegionName, RegionName) = ("eu".parse().unwrap(), "us".parse().unwrap());
        let mut liveness = RegionLiveness::default();
        for second in [0, 10, 20] {
            liveness.observe_consumer(&eu, activity(0, second), after(second));
            liveness.observe_consumer(&us, activity(0, 7), after(second));
        }

        assert_eq!(liveness.active_regions(), std::slice::from_ref(&eu), "a busy prober pulls nothing");
        assert_eq!(liveness.silent_regions(after(20)), [(us.clone(), Duration::from_secs(20))]);
        liveness.observe_consumer(&us, activity(1, 7), after(25));
        assert_eq!(liveness.silent_regions(after(25)), []);
        liveness.retain_regions(&[us]);
        assert_eq!(liveness.active_regions().len(), 1);
        liveness.reset();
        assert_eq!(liveness.silent_regions(after(500)), []);
    }
}
