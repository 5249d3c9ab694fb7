//! The random events of one history: faults, network conditions, and their times.

use proptest::prelude::*;

/// All that decides how a history goes: the same one goes the same way each time.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) coordinators: usize,
    pub(crate) lease_ms: u64,
    /// Share of the margin for wrong clock rates, in thousandths. The rest is for steps of the
    /// database's clock.
    pub(crate) clock_drift: u64,
    pub(crate) link: LinkConditions,
    /// Time, in thousandths of the history, and fault.
    pub(crate) faults: Vec<(u64, Fault)>,
}

/// Fates of statements, in thousandths of all statements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkConditions {
    pub(crate) request_loss: u64,
    pub(crate) response_loss: u64,
    /// Statements that are slow in one direction.
    pub(crate) slow_share: u64,
    /// Statements that have begun in the database and wait there, for a lock or without a reason.
    pub(crate) stuck_share: u64,
    /// How slow at most, in thousandths of the lease time.
    pub(crate) max_delay: u64,
}

/// Durations are in thousandths of the lease time.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The process does nothing; if its machine is suspended, its timers stand still as well.
    Pause { who: usize, lasts: u64, suspended: bool },
    /// Its virtual machine does nothing, and its clocks do not count that.
    StandStill { who: usize, lasts: u64 },
    /// The process is killed, and another is started, perhaps with the same name.
    Crash { who: usize, lasts: u64, same_name: bool },
    /// It is paused, and another of its name is started meanwhile.
    Twin { who: usize, lasts: u64 },
    /// The pipeline is rebuilt; publishes in flight continue.
    Rebuild { who: usize },
    /// The process is stopped in order, and another is started.
    Drain { who: usize, lasts: u64, same_name: bool },
    /// It cannot reach the database.
    Cut { who: usize, lasts: u64 },
    /// Nobody can.
    Away { lasts: u64 },
    /// It cannot publish.
    Unreached { who: usize, lasts: u64 },
    /// The database's clock jumps, by so many thousandths of the lease time; ahead only as far as `rates` leaves.
    Step { by: i64 },
    /// The setting changes; all learn of it with their next heartbeat.
    SetLeaseTime { lease_ms: u64 },
}

fn fault_strategy() -> impl Strategy<Value = Fault> {
    let (who, lasts) = (0..8_usize, 1..3_000_u64);
    prop_oneof![
        4 => (who.clone(), lasts.clone(), any::<bool>())
            .prop_map(|(who, lasts, suspended)| Fault::Pause { who, lasts, suspended }),
        2 => (who.clone(), 2_000..4_000_u64).prop_map(|(who, lasts)| Fault::StandStill { who, lasts }),
        2 => (who.clone(), lasts.clone(), any::<bool>())
            .prop_map(|(who, lasts, same_name)| Fault::Crash { who, lasts, same_name }),
        1 => (who.clone(), lasts.clone()).prop_map(|(who, lasts)| Fault::Twin { who, lasts }),
        1 => who.clone().prop_map(|who| Fault::Rebuild { who }),
        2 => (who.clone(), lasts.clone(), any::<bool>())
            .prop_map(|(who, lasts, same_name)| Fault::Drain { who, lasts, same_name }),
        2 => (who.clone(), lasts.clone()).prop_map(|(who, lasts)| Fault::Cut { who, lasts }),
        1 => lasts.clone().prop_map(|lasts| Fault::Away { lasts }),
        1 => (who, lasts).prop_map(|(who, lasts)| Fault::Unreached { who, lasts }),
        2 => (-1_500..1_500_i64).prop_map(|by| Fault::Step { by }),
        3 => lease_time_strategy().prop_map(|lease_ms| Fault::SetLeaseTime { lease_ms }),
    ]
}

fn link_strategy() -> impl Strategy<Value = LinkConditions> {
    (0..150_u64, 0..150_u64, 0..300_u64, prop_oneof![0..75_u64, 0..300_u64], 1..2_500_u64).prop_map(
        |(lost_on_the_way_there, lost_on_the_way_back, slow, stuck, slow_for)| LinkConditions {
            request_loss: lost_on_the_way_there,
            response_loss: lost_on_the_way_back,
            slow_share: slow,
            stuck_share: stuck,
            max_delay: slow_for,
        },
    )
}

fn lease_time_strategy() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(3_000), 3 => Just(5_000), 2 => Just(15_000), 1 => Just(60_000)]
}

/// Any history.
pub(crate) fn history_strategy() -> impl Strategy<Value = History> {
    (
        any::<u64>(),
        1..=7_usize,
        2..=4_usize,
        lease_time_strategy(),
        prop_oneof![Just(0), Just(1_000), 0..=1_000_u64],
        link_strategy(),
        prop::collection::vec((0..1_000_u64, fault_strategy()), 0..10),
    )
        .prop_map(|(seed, shards, coordinators, lease_ms, rates, link, faults)| History {
            seed,
            shards,
            coordinators,
            lease_ms,
            clock_drift: rates,
            link,
            faults,
        })
}

/// Chance, the same for the same seed (splitmix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `from..=to`.
    pub(crate) fn in_range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next_u64() % (to - from + 1)
    }

    pub(crate) fn in_thousand(&mut self, times: u64) -> bool {
        self.next_u64() % 1_000 < times
    }
}
