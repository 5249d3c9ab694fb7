//! Pure: in which regions nobody works, from what their consumers say.

use std::{collections::HashMap, time::Duration};

use picket_proto::RegionName;
use tokio::time::Instant;

/// A region is silent when for so long nobody asked for jobs there, took one or acknowledged one.
pub const SILENCE_THRESHOLD: Duration = Duration::from_secs(20);

/// What a region's consumer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerActivity {
    /// Requests for jobs that wait.
    pub waiting_pulls: usize,
    /// Jobs given out so far.
    pub delivered: u64,
    /// Jobs acknowledged so far.
    pub acknowledged: u64,
}

/// What is known of each region.
#[derive(Default)]
pub struct RegionLiveness(HashMap<RegionName, LastActivity>);

struct LastActivity {
    activity: ConsumerActivity,
    last_active_at: Instant,
    is_active: bool,
}

impl RegionLiveness {
    /// Takes in what the consumer of `region` says at `now`.
    pub fn observe_consumer(&mut self, region: &RegionName, signs: ConsumerActivity, now: Instant) {
        let Some(heard) = self.0.get_mut(region) else {
            let alive = signs.waiting_pulls > 0;
            self.0.insert(
                region.clone(),
                LastActivity { activity: signs, last_active_at: now, is_active: alive },
            );
            return;
        };
        let moved =
            (heard.activity.delivered, heard.activity.acknowledged) != (signs.delivered, signs.acknowledged);
        heard.is_active = signs.waiting_pulls > 0 || moved;
        heard.activity = signs;
        if heard.is_active {
            heard.last_active_at = now;
        }
    }

    /// Only these regions are in use.
    pub fn retain_regions(&mut self, regions: &[RegionName]) {
        self.0.retain(|region, _| regions.contains(region));
    }

    /// The bus was away, and with it everybody: nothing that was seen counts.
    pub fn reset(&mut self) {
        self.0.clear();
    }

    /// The regions that are silent, and for how long they have been.
    pub fn silent_regions(&self, now: Instant) -> Vec<(RegionName, Duration)> {
        let silent = self.0.iter().map(|(region, heard)| (region.clone(), now - heard.last_active_at));
        silent.filter(|(_, since)| *since >= SILENCE_THRESHOLD).collect()
    }

    /// The regions that gave a sign when they were looked at last.
    pub fn active_regions(&self) -> Vec<RegionName> {
        self.0.iter().filter(|(_, heard)| heard.is_active).map(|(region, _)| region.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(waiting: usize, delivered: u64) -> ConsumerActivity {
        ConsumerActivity { waiting_pulls: waiting, delivered, acknowledged: delivered }
    }

    #[test]
    fn a_region_is_silent_when_nobody_asks_and_nothing_moves() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let (eu, us): (RegionName, RegionName) = ("eu".parse().unwrap(), "us".parse().unwrap());
        let mut silence = RegionLiveness::default();
        for second in [0, 10, 20] {
            silence.observe_consumer(&eu, signs(0, second), after(second));
            silence.observe_consumer(&us, signs(0, 7), after(second));
        }

        assert_eq!(silence.active_regions(), std::slice::from_ref(&eu), "a busy one asks for nothing");
        assert_eq!(silence.silent_regions(after(20)), [(us.clone(), Duration::from_secs(20))]);
        silence.observe_consumer(&us, signs(1, 7), after(25));
        assert_eq!(silence.silent_regions(after(25)), []);
        silence.retain_regions(&[us]);
        assert_eq!(silence.active_regions().len(), 1);
        silence.reset();
        assert_eq!(silence.silent_regions(after(500)), []);
    }
}
