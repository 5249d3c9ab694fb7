//! What counts as evidence, and what a failover does to it.

use picket_store::upkeep;

use super::*;
use crate::wall;

#[tokio::test]
async fn what_calls_itself_scheduled_and_is_no_tick_opens_and_closes_nothing() {
    let world = world().await;
    let beside = |result: CheckResult| CheckResult {
        scheduled_at: result.scheduled_at.plus(Duration::from_millis(1)),
        ..result
    };

    for tick in 0..4 {
        world.insert(&[0, 1, 2].map(|region| beside(world.down(region, tick)))).await;
    }
    assert_eq!((world.incidents().await, world.states().await), ((0, 0), 0));
    for tick in 4..6 {
        world.insert(&[0, 1, 2].map(|region| world.down(region, tick))).await;
    }
    assert_eq!(world.incidents().await, (1, 1));
    for tick in 6..10 {
        world.insert(&[0, 1, 2].map(|region| beside(world.up(region, tick)))).await;
    }
    assert_eq!(world.incidents().await, (1, 1), "it is down as before");
}

#[tokio::test]
async fn an_incident_that_is_decided_again_after_its_database_lost_it_has_the_events_that_it_had() {
    let world = world().await;
    let outage: Vec<_> = (0..4).flat_map(|tick| [world.down(0, tick), world.down(1, tick)]).collect();
    let back: Vec<_> = (4..8).flat_map(|tick| [world.up(0, tick), world.up(1, tick)]).collect();
    for result in outage.iter().chain(&back) {
        world.insert(std::slice::from_ref(result)).await;
    }
    let told = world.texts("SELECT event_id FROM picket.outbox ORDER BY id").await;
    // As a replica has it that did not get the last commits. Numbers go on, as sequences do.
    world
        .execute(&format!(
            "DELETE FROM picket.incidents; DELETE FROM picket.site_states; DELETE FROM picket.outbox;
             DELETE FROM picket.check_results WHERE scheduled_at >= '{}'",
            world.at(0, 0).min(world.at(1, 0))
        ))
        .await;

    // In other batches, and in another order.
    let mut again = [outage, back].concat();
    again.sort_by_key(|result| result.scheduled_at);
    world.insert(&again).await;

    assert_eq!(world.texts("SELECT event_id FROM picket.outbox ORDER BY id").await, told);
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn two_incidents_that_begin_with_the_same_failure_have_events_of_their_own() {
    let world = world().await;
    // The first region fails all the time, the third never; the second fails, comes back and fails again.
    let mut results: Vec<_> = (0..8)
        .flat_map(|tick| {
            let second = if tick % 4 < 2 { world.up(1, tick) } else { world.down(1, tick) };
            [world.down(0, tick), second, world.up(2, tick)]
        })
        .collect();
    results.sort_by_key(|result| result.scheduled_at);
    for result in &results {
        world.insert(std::slice::from_ref(result)).await;
    }

    assert_eq!(world.incidents().await, (2, 1));
    assert_eq!(world.number("SELECT count(DISTINCT first_failure_at) FROM picket.incidents").await, 1);
    let ids = "SELECT count(DISTINCT event_id) * 10 + count(*) FROM picket.outbox";
    assert_eq!(world.number(ids).await, 33);
}

#[tokio::test]
async fn an_outage_opens_an_incident_although_the_databases_clock_is_ten_minutes_behind() {
    let world = world().await;
    let later = now().plus(Duration::from_secs(600));

    // Due some seconds before.
    let first = world.insert_at(later, &[world.down(0, 170), world.down(1, 170), world.up(2, 170)]).await;
    assert!(first.decided.suspects.iter().any(|suspect| suspect.rounds > 0), "{:?}", first.decided);
    world.insert_at(later, &[world.down(0, 171), world.down(1, 171), world.up(2, 171)]).await;
    assert_eq!(world.incidents().await, (1, 1));
    for tick in [172, 173] {
        world.insert_at(later, &[0, 1, 2].map(|region| world.up(region, tick))).await;
    }

    assert_eq!((world.incidents().await, world.states().await), ((1, 0), 0));
}

#[tokio::test]
async fn an_incident_stays_open_when_the_clock_goes_back_until_its_regions_are_up() {
    let world = world().await;
    let later = now().plus(Duration::from_secs(600));
    for tick in [170, 171] {
        world.insert_at(later, &[world.down(0, tick), world.down(1, tick), world.up(2, tick)]).await;
    }
    assert_eq!(world.incidents().await, (1, 1));

    for tick in [0, 1, 2] {
        world.insert(&[world.up(2, tick)]).await;
    }
    assert_eq!(world.incidents().await, (1, 1), "two of three regions have not said that it is up");
    for tick in [3, 4] {
        world.insert(&[0, 1, 2].map(|region| world.up(region, tick))).await;
    }

    assert_eq!((world.incidents().await, world.states().await), ((1, 0), 0));
}

#[tokio::test]
async fn a_tick_that_was_checked_ahead_of_time_by_a_clock_that_was_ahead_is_checked_again() {
    let world = world().await;
    let ahead = now().plus(Duration::from_secs(600));
    let ticks = [169, 170, 171];
    for tick in ticks {
        world.insert_at(ahead, &[0, 1, 2].map(|region| world.up(region, tick))).await;
    }
    world.execute("UPDATE picket.leases SET accounted_through = now() + interval '10 minutes'").await;
    let outage = |tick| [world.down(0, tick), world.down(1, tick), world.up(2, tick)];
    assert_eq!(world.insert_at(ahead, &outage(169)).await.duplicates, 3);
    let delete = async || upkeep::delete_future_results(&world.store, wall()).await.unwrap();

    assert_eq!(delete().await, 0, "nothing would account for these ticks");
    upkeep::repair_marks(&world.store, wall(), true).await.unwrap();
    assert_eq!((delete().await, delete().await), (9, 0));

    assert_eq!(world.number("SELECT count(*) FROM picket.check_results").await, 3, "what is due stays");
    for tick in ticks {
        assert_eq!(world.insert_at(ahead, &outage(tick)).await.inserted(), 3);
    }
    assert_eq!(world.incidents().await, (1, 1));
}
