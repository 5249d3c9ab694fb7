//! Pure: a coordinator's share of the shards, and the speed of rebalancing.

/// Action to bring a coordinator closer to its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// The coordinator holds its share.
    Balanced,
    /// Acquire up to this number of free shards.
    Acquire(usize),
    /// Release this number of shards for others to acquire.
    Release(usize),
}

/// Maximum number of shards released per round. Small, because each shard changes its holder
/// between two ticks of its schedules.
const MAX_RELEASED_PER_ROUND: usize = 4;

/// Plans the next step towards an even share: the number of shards divided by the number of live
/// coordinators, rounded up. The shares then cover all shards, in whatever order shards are
/// acquired.
pub fn plan_rebalance(shards: usize, live: usize, held: usize) -> Rebalance {
    let share = shards.div_ceil(live.max(1));
    match held {
        held if held < share => Rebalance::Acquire(share - held),
        held if held > share => Rebalance::Release((held - share).min(MAX_RELEASED_PER_ROUND)),
        _ => Rebalance::Balanced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_that_come_and_go_end_with_even_shares_and_no_shard_left_over() {
        for shards in [1, 7, 64, 100] {
            for live in 1..=9 {
                let mut held = vec![0; live];
                held[0] = shards;
                for _ in 0..shards {
                    for one in 0..live {
                        let free = shards - held.iter().sum::<usize>();
                        match plan_rebalance(shards, live, held[one]) {
                            Rebalance::Acquire(most) => held[one] += most.min(free),
                            Rebalance::Release(some) => held[one] -= some,
                            Rebalance::Balanced => {}
                        }
                    }
                }
                assert_eq!(held.iter().sum::<usize>(), shards, "{shards} shards, {live} live: {held:?}");
                assert!(held.iter().all(|n| *n <= shards.div_ceil(live)), "{held:?}");
            }
        }
    }
}
