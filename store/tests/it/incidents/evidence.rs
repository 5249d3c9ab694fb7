//! What counts as evidence, and what a failover does to it.

use super::*;

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
