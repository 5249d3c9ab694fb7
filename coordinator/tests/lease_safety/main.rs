//! Leases are safe: thousands of histories of coordinators that are paused, cut off, killed and started again, on
//! machines whose clocks go wrong, with a database that answers late or not at all.
//!
//! Each coordinator runs the code that runs in production (`lease::machine` with all that it uses); only the actor
//! round it, which awaits, is played by `world.rs`. The same seed gives the same histories, so that what fails here fails
//! again: `PROPTEST_RNG_SEED` and `PROPTEST_CASES` look elsewhere, or longer.
//!
//! The window between looking at the fence and publishing is not in here, since no lease can close it: jobs have
//! identities for that. What is promised is that no two find the fence open at one instant, and it is promised
//! while the machines' clocks keep to the margin: over one lease the fastest and the slowest of these and of the database's
//! clock, and small jumps of the latter ahead, together differ by less than three seconds (a third of a short lease). Jumps
//! of the database's clock that are too large to be measuring errors may be of any size, in any direction and number.
//! A machine's clock must not hide them, which it would by going wrong by as much while no reading is taken: where jumps are
//! large, it goes wrong by less than a second in five leases (1.3 % at the default lease time; real clocks stay below 0.1 %).
//! Nor must two jumps undo each other between two readings of a coordinator: an opposite jump comes four leases later or not at
//! all. What two coordinators then publish for a moment has the same identities.
//!
//! Neither in here is a machine whose clock has not counted that it stood still, as that of a virtual machine may, from when it
//! goes on to its next reading of the database's clock: it cannot know. What it publishes then has the same identities.

#![expect(clippy::unwrap_used, reason = "a simulation that is wrong is a test that fails")]

mod as_postgres;
mod history;
mod process;
mod table;
mod world;

use std::cell::Cell;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use self::{
    history::history_strategy,
    world::{LeaseSimulation, RunStats},
};

fn run_histories(number: u32, keeps_time: bool) {
    let default = Config::default();
    let seeded = matches!(default.rng_seed, RngSeed::Fixed(_));
    let config = Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { number },
        rng_seed: if seeded { default.rng_seed } else { RngSeed::Fixed(20_261_121) },
        failure_persistence: None,
        ..default
    };
    let all = Cell::new(RunStats::default());
    let lived = TestRunner::new(config).run(&history_strategy(), |history| {
        let world = LeaseSimulation::run_history(&history, keeps_time);
        all.set(all.get().merge_stats(world.tally));
        world.violation.map_or(Ok(()), |why| Err(TestCaseError::fail(why)))
    });
    if let Err(why) = lived {
        panic!("{why}");
    }
    let all = all.get();
    // Each of what can go wrong did, often.
    let few =
        [all.take_overs, all.lost, all.released, all.renewed_while_releasing, all.late_answers, all.fenced];
    assert!(few.iter().all(|times| *times * 20 > all.histories), "{all:?}");
}

/// Beside it: epochs only grow and are unique, a fenced holder writes nothing, and when faults end each shard is held
/// by one within a lease time and some rounds, in even shares.
#[test]
fn no_two_coordinators_have_an_open_fence_for_a_shard_at_one_instant() {
    run_histories(1_500, true);
}

#[test]
fn no_database_clock_jump_opens_a_shards_fence_for_two_coordinators() {
    run_histories(500, false);
}
