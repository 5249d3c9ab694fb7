//! Marks of sites whose summary is computed again, and what is kept then.

use super::*;

#[tokio::test]
async fn a_mark_of_a_clock_that_was_ahead_is_due_at_once() {
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    fleet
        .execute_sql(
            "UPDATE picket.site_statistics SET checks_90d = -1 WHERE site_id = 1;
             INSERT INTO picket.site_summaries_dirty VALUES (1, true, now() + interval '8 days'), (2, false, now() + interval '6 days')",
        )
        .await;
    fleet.refresh().await;
    let left = "SELECT string_agg(site_id || '', ' ') FROM picket.site_summaries_dirty";
    assert_eq!(fleet.query_text(left).await.as_deref(), Some("2"));
    let sum = "SELECT checks_90d FROM picket.site_statistics WHERE site_id = 1";
    assert_eq!(fleet.query_text(sum).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_site_is_marked_once_however_many_pieces_of_an_hour_are_rolled_up() {
    const MARKS: &str = "SELECT string_agg(site_id || ' ' || statistics, ', ' ORDER BY site_id, statistics)
                         FROM picket.site_summaries_dirty";
    let fleet = Fleet::new(UP).await;
    fleet
        .execute_sql(
            "UPDATE picket.schedules SET valid_from = picket.hour_of(now()) - interval '1 hour';
             DELETE FROM picket.check_results;
             UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '1 hour';
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause)
             SELECT tick, site_id, region_id, 'scheduled', 'missed', 'no_prober' FROM picket.schedules
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), valid_from, picket.hour_of(now())) AS tick",
        )
        .await;
    fleet.refresh().await;
    fleet.execute_sql("UPDATE picket.site_conditions SET state = 'up'").await;

    // Three pieces.
    fleet.roll_up_rows_until(0).await;
    assert_eq!(fleet.query_text(MARKS).await.as_deref(), Some("1 false, 2 false, 3 false"));

    for _ in 0..2 {
        housekeeping::rebuild_site_summaries(&fleet.store, wall_clock_now(), None).await.unwrap();
        let marks = "1 false, 1 true, 2 false, 2 true, 3 false, 3 true";
        assert_eq!(fleet.query_text(MARKS).await.as_deref(), Some(marks));
    }
}

#[tokio::test]
async fn a_site_is_paused_since_the_same_time_after_its_schedules_have_expired() {
    const SINCE: &str =
        "SELECT string_agg((state, state_since = created_at + interval '1 day')::text, ' ' ORDER BY site_id)
                         FROM picket.site_summary JOIN picket.sites ON id = site_id WHERE site_id > 1";
    let fleet = Fleet::new(UP).await;
    fleet
        .execute_sql(
            "UPDATE picket.sites SET enabled = false WHERE id = 2;
             UPDATE picket.sites SET problem = 'no' WHERE id = 3;
             UPDATE picket.sites SET created_at = date_trunc('day', now()) - interval '90 days';
             UPDATE picket.schedules SET valid_from = created_at, valid_to = created_at + interval '1 day'
             FROM picket.sites WHERE id = site_id AND valid_to IS NOT NULL",
        )
        .await;
    fleet.rebuild().await;
    assert_eq!(fleet.query_text(SINCE).await.as_deref(), Some("(paused,t) (problem,t)"));

    fleet.execute_sql("DELETE FROM picket.schedules WHERE valid_to IS NOT NULL").await;
    fleet.rebuild().await;
    assert_eq!(fleet.query_text(SINCE).await.as_deref(), Some("(paused,t) (problem,t)"));
    fleet.execute_sql("UPDATE picket.sites SET enabled = false WHERE id = 3").await;
    assert_eq!(fleet.query_text(SINCE).await.as_deref(), Some("(paused,t) (paused,t)"));
}
