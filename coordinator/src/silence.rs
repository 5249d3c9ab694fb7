//! Pure: in which regions nobody works, from what their consumers say.

use std::{collections::HashMap, time::Duration};

use picket_proto::Region;
use tokio::time::Instant;

/// A region is silent when for so long nobody asked for jobs there, took one or acknowledged one.
pub const SILENT_AFTER: Duration = Duration::from_secs(20);

/// What a region's consumer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Requests for jobs that wait.
    pub waiting: usize,
    /// Jobs given out so far.
    pub delivered: u64,
    /// Jobs acknowledged so far.
    pub acknowledged: u64,
}

/// What is known of each region.
#[derive(Default)]
pub struct Silence(HashMap<Region, Heard>);

struct Heard {
    signs: Signs,
    at: Instant,
    alive: bool,
}

impl Silence {
    /// Takes in what the consumer of `region` says at `now`.
    pub fn look(&mut self, region: &Region, signs: Signs, now: Instant) {
        let Some(heard) = self.0.get_mut(region) else {
            let alive = signs.waiting > 0;
            self.0.insert(region.clone(), Heard { signs, at: now, alive });
            return;
        };
        let moved =
            (heard.signs.delivered, heard.signs.acknowledged) != (signs.delivered, signs.acknowledged);
        heard.alive = signs.waiting > 0 || moved;
        heard.signs = signs;
        if heard.alive {
            heard.at = now;
        }
    }

    /// Only these regions are in use.
    pub fn keep(&mut self, regions: &[Region]) {
        self.0.retain(|region, _| regions.contains(region));
    }

    /// The bus was away, and with it everybody: nothing that was seen counts.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// The regions that are silent, and for how long they have been.
    pub fn silent(&self, now: Instant) -> Vec<(Region, Duration)> {
        let silent = self.0.iter().map(|(region, heard)| (region.clone(), now - heard.at));
        silent.filter(|(_, since)| *since >= SILENT_AFTER).collect()
    }

    /// The regions that gave a sign when they were looked at last.
    pub fn heard(&self) -> Vec<Region> {
        self.0.iter().filter(|(_, heard)| heard.alive).map(|(region, _)| region.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(waiting: usize, delivered: u64) -> Signs {
        Signs { waiting, delivered, acknowledged: delivered }
    }

    #[test]
    fn a_region_is_silent_when_nobody_asks_and_nothing_moves() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let (eu, us): (Region, Region) = ("eu".parse().unwrap(), "us".parse().unwrap());
        let mut silence = Silence::default();
        for second in [0, 10, 20] {
            silence.look(&eu, signs(0, second), after(second));
            silence.look(&us, signs(0, 7), after(second));
        }

        assert_eq!(silence.heard(), std::slice::from_ref(&eu), "a busy one asks for nothing");
        assert_eq!(silence.silent(after(20)), [(us.clone(), Duration::from_secs(20))]);
        silence.look(&us, signs(1, 7), after(25));
        assert_eq!(silence.silent(after(25)), []);
        silence.keep(&[us]);
        assert_eq!(silence.heard().len(), 1);
        silence.forget();
        assert_eq!(silence.silent(after(500)), []);
    }
}
