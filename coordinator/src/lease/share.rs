//! Pure: how many shards a coordinator should hold, and how fast it gets there.

/// What to do about one's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// It is right as it is.
    Balanced,
    /// Take up to so many that nobody holds.
    Acquire(usize),
    /// Yield so many, for another to take.
    Release(usize),
}

/// How many shards are yielded at once: few, since each changes hands between two ticks of its schedules.
const MAX_RELEASED_PER_ROUND: usize = 4;

/// An even share is the number of shards by the number of live coordinators, rounded up; the shares of all then
/// cover all shards, so that none is left over however they are taken.
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
