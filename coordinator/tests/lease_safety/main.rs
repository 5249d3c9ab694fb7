//! Safety of leases: thousands of histories of coordinators that are paused, cut off, killed and
//! started again, on machines whose clocks go wrong, with a database that answers late or not at
//! all.
//!
//! Each coordinator runs the production code (`lease::machine` with everything it uses); `world.rs`
//! simulates only the actor around it, which awaits. A seed determines the histories, so a failure
//! can be repeated. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` select other and more histories.
//!
//! The simulation does not cover the window between the check of the fence and the publish, which
//! no lease can close; the ids of jobs cover it. The promise is that no two coordinators have an
//! open fence for a shard at one instant. It holds while the machines' clocks keep to the margin:
//! over one lease, the fastest and the slowest of these clocks and of the database's clock, and
//! small jumps ahead of the latter, differ by less than three seconds together (a third of a short
//! lease).
//!
//! Jumps of the database's clock that are too large for measuring errors may have any size,
//! direction and number, with two limits. A machine's clock must not hide a jump by going wrong by
//! as much between two readings: with large jumps it is off by less than a second in five leases
//! (1.3 % at the default lease time; real clocks stay below 0.1 %). Two jumps must not undo each
//! other between two readings of a coordinator: an opposite jump follows after four leases or not
//! at all. Jobs that two coordinators publish in such a case have the same ids.
//!
//! Nor does it cover a machine whose clock did not count a suspension, as of a virtual machine,
//! from the end of the suspension to its next reading of the database's clock. Such a process
//! cannot know. Its jobs have the same ids.

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
    // Every kind of event has happened often.
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
