//! Evidence for incidents, and the effect of a failover.

use picket_store::housekeeping;

use super::*;
use crate::wall_clock_now;

#[tokio::test]
async fn a_scheduled_result_that_is_no_tick_opens_and_closes_no_incident() {
    let world = new_world().await;
    let beside = |result: CheckResult| CheckResult {
        scheduled_at: result.scheduled_at.saturating_add(Duration::from_millis(1)),
        ..result
    };

    for tick in 0..4 {
        world.insert_results(&[0, 1, 2].map(|region| beside(world.down_result(region, tick)))).await;
    }
    assert_eq!((world.count_incidents().await, world.count_site_states().await), ((0, 0), 0));
    for tick in 4..6 {
        world.insert_results(&[0, 1, 2].map(|region| world.down_result(region, tick))).await;
    }
    assert_eq!(world.count_incidents().await, (1, 1));
    for tick in 6..10 {
        world.insert_results(&[0, 1, 2].map(|region| beside(world.up_result(region, tick)))).await;
    }
    assert_eq!(world.count_incidents().await, (1, 1), "it is down as before");
}

#[tokio::test]
async fn an_incident_decided_again_after_a_lost_commit_has_the_same_events() {
    let world = new_world().await;
    let outage: Vec<_> =
        (0..4).flat_map(|tick| [world.down_result(0, tick), world.down_result(1, tick)]).collect();
    let back: Vec<_> = (4..8).flat_map(|tick| [world.up_result(0, tick), world.up_result(1, tick)]).collect();
    for result in outage.iter().chain(&back) {
        world.insert_results(std::slice::from_ref(result)).await;
    }
    let told = world.query_texts("SELECT event_id FROM picket.outbox ORDER BY id").await;
    // The state of a replica without the last commits. Ids continue, as sequences do.
    world
        .execute_sql(&format!(
            "DELETE FROM picket.incidents; DELETE FROM picket.site_states; DELETE FROM picket.outbox;
             DELETE FROM picket.check_results WHERE scheduled_at >= '{}'",
            world.tick_time(0, 0).min(world.tick_time(1, 0))
        ))
        .await;

    // In other batches, and in another order.
    let mut again = [outage, back].concat();
    again.sort_by_key(|result| result.scheduled_at);
    world.insert_results(&again).await;

    assert_eq!(world.query_texts("SELECT event_id FROM picket.outbox ORDER BY id").await, told);
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn two_incidents_that_begin_with_the_same_failure_have_separate_events() {
    let world = new_world().await;
    // The first region fails all the time, the third never; the second fails, comes back and fails again.
    let mut results: Vec<_> = (0..8)
        .flat_map(|tick| {
            let second = if tick % 4 < 2 { world.up_result(1, tick) } else { world.down_result(1, tick) };
            [world.down_result(0, tick), second, world.up_result(2, tick)]
        })
        .collect();
    results.sort_by_key(|result| result.scheduled_at);
    for result in &results {
        world.insert_results(std::slice::from_ref(result)).await;
    }

    assert_eq!(world.count_incidents().await, (2, 1));
    assert_eq!(world.query_number("SELECT count(DISTINCT first_failure_at) FROM picket.incidents").await, 1);
    let ids = "SELECT count(DISTINCT event_id) * 10 + count(*) FROM picket.outbox";
    assert_eq!(world.query_number(ids).await, 33);
}

#[tokio::test]
async fn an_outage_opens_an_incident_although_the_databases_clock_is_ten_minutes_behind() {
    let world = new_world().await;
    let later = now().saturating_add(Duration::from_secs(600));

    // Due some seconds before.
    let first = world
        .insert_results_at(
            later,
            &[world.down_result(0, 170), world.down_result(1, 170), world.up_result(2, 170)],
        )
        .await;
    assert!(first.incidents.confirmations.iter().any(|suspect| suspect.rounds > 0), "{:?}", first.incidents);
    world
        .insert_results_at(
            later,
            &[world.down_result(0, 171), world.down_result(1, 171), world.up_result(2, 171)],
        )
        .await;
    assert_eq!(world.count_incidents().await, (1, 1));
    for tick in [172, 173] {
        world.insert_results_at(later, &[0, 1, 2].map(|region| world.up_result(region, tick))).await;
    }

    assert_eq!((world.count_incidents().await, world.count_site_states().await), ((1, 0), 0));
}

#[tokio::test]
async fn an_incident_stays_open_across_a_backward_clock_jump_until_its_regions_are_up() {
    let world = new_world().await;
    let later = now().saturating_add(Duration::from_secs(600));
    for tick in [170, 171] {
        world
            .insert_results_at(
                later,
                &[world.down_result(0, tick), world.down_result(1, tick), world.up_result(2, tick)],
            )
            .await;
    }
    assert_eq!(world.count_incidents().await, (1, 1));

    for tick in [0, 1, 2] {
        world.insert_results(&[world.up_result(2, tick)]).await;
    }
    assert_eq!(world.count_incidents().await, (1, 1), "two of three regions have not reported it up");
    for tick in [3, 4] {
        world.insert_results(&[0, 1, 2].map(|region| world.up_result(region, tick))).await;
    }

    assert_eq!((world.count_incidents().await, world.count_site_states().await), ((1, 0), 0));
}

#[tokio::test]
async fn a_tick_checked_early_by_a_fast_clock_is_checked_again() {
    let world = new_world().await;
    let ahead = now().saturating_add(Duration::from_secs(600));
    let ticks = [169, 170, 171];
    for tick in ticks {
        world.insert_results_at(ahead, &[0, 1, 2].map(|region| world.up_result(region, tick))).await;
    }
    world.execute_sql("UPDATE picket.leases SET accounted_through = now() + interval '10 minutes'").await;
    let outage = |tick| [world.down_result(0, tick), world.down_result(1, tick), world.up_result(2, tick)];
    assert_eq!(world.insert_results_at(ahead, &outage(169)).await.duplicates, 3);
    let delete = async || housekeeping::delete_future_results(&world.store, wall_clock_now()).await.unwrap();

    assert_eq!(delete().await, 0, "nothing would account for these ticks");
    housekeeping::repair_future_marks(&world.store, wall_clock_now(), true).await.unwrap();
    assert_eq!((delete().await, delete().await), (9, 0));

    assert_eq!(
        world.query_number("SELECT count(*) FROM picket.check_results").await,
        3,
        "ticks already due stay"
    );
    for tick in ticks {
        assert_eq!(world.insert_results_at(ahead, &outage(tick)).await.count_inserted(), 3);
    }
    assert_eq!(world.count_incidents().await, (1, 1));
}
