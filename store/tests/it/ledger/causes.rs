//! Inferred causes, as documented in docs/reference/check-semantics.md.

use super::*;

#[tokio::test]
async fn ticks_lost_by_the_bus_get_their_cause_from_their_regions_activity() {
    let world = World::new().await;
    world.insert_watched_sites(2, "eu").await;
    // For two minutes the bus loses all of the region, and for one the jobs of one site.
    world
        .insert_rows_where(
            "NOT tick BETWEEN now() - interval '10 minutes' AND now() - interval '8 minutes'
             AND NOT (site_id = 2 AND tick BETWEEN now() - interval '5 minutes' AND now() - interval '4 minutes')",
        )
        .await;

    world.close_ledger().await.unwrap();

    let minutes_ago = |cause: &str, from: u32, to: u32| {
        format!(
            "SELECT count(*) FROM picket.check_results WHERE cause = '{cause}'
             AND scheduled_at BETWEEN now() - interval '{from} minutes' AND now() - interval '{to} minutes'"
        )
    };
    // All ticks except those not yet expired at the first later result.
    assert!((44..=48).contains(&world.query_number(&minutes_ago("no_prober", 11, 7)).await));
    assert!(world.query_number(&minutes_ago("expired", 11, 7)).await <= 3);
    assert!((11..=13).contains(&world.query_number(&minutes_ago("expired", 6, 3)).await));
    assert_eq!(world.query_number(&minutes_ago("no_prober", 6, 3)).await, 0);
    assert_eq!(world.sum_last_hour().await.unaccounted, 0);
}
