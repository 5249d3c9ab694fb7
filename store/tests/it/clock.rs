//! The database's clock is one witness among others: nothing is deleted, taken or given up on its word alone.

use std::time::Duration;

use picket_store::{
    Error,
    housekeeping::{self, PruneSummary, Retention},
    leases::{self, AcquireCriteria, ShardProgress},
    partitions,
};

use crate::{Database, new_database, rollups::World, wall_clock_now};

const LEASE: Duration = Duration::from_secs(15);
const RETENTION: Retention = Retention { result_days: 30, rollup_hours_days: 730, rollup_days_days: 730 };
const DAYS_45: Duration = Duration::from_secs(45 * 86_400);

/// A system at work for 60 days, as it is found if the clock has just jumped ahead by 45.
async fn world_after_clock_jump() -> World {
    let world = World::new().await;
    world
        .execute_sql(
            "SELECT picket.ensure_partitions(60, 7);
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT now() - n * interval '1 day', 1, 1, 'scheduled', 'up' FROM generate_series(45, 60) AS n;
             INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             VALUES (now() - interval '50 days', 's', 'r', 'p');
             UPDATE picket.schedules SET valid_from = now() - interval '60 days';
             UPDATE picket.leases SET scheduled_through = now() - interval '45 days',
                 accounted_through = now() - interval '45 days';
             UPDATE picket.rollup_state SET rolled_through = picket.start_of_day(picket.day_of(now()) - 20),
                 days_through = picket.day_of(now()) - 20",
        )
        .await;
    world
}

impl World {
    async fn assert_refused(&self, why: &str) {
        let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'picket.check_results'::regclass";
        let before = self.query_text(days).await;
        let dropped = housekeeping::prune_expired(&self.store, wall_clock_now(), RETENTION).await.unwrap();
        let refused = dropped.refusal_reason.unwrap();
        assert!(refused.contains(why), "{refused}");
        assert_eq!(housekeeping::is_too_early(&refused), why.contains("steady"), "{refused}");
        // By hand neither.
        for drop in ["drop_results(30)", "drop_rollups(730)"] {
            assert_eq!(self.query_text(&format!("SELECT picket.{drop}")).await, "");
        }
        assert_eq!(self.query_text("SELECT picket.prune(30, 730, 100)").await, "0");
        assert_eq!(self.query_text(days).await, before);
        assert_eq!(self.query_text("SELECT count(*) FROM picket.dead_letters").await, "1");
    }
}

#[tokio::test]
async fn deletion_is_refused_while_the_clock_disagrees_with_schedules_and_newest_results() {
    let world = world_after_clock_jump().await;

    world.assert_refused("but what was scheduled last was due by").await;
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now() - interval '1 minute'").await;
    world.assert_refused("but there is no result of the day before").await;
    world
        .execute_sql(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             VALUES (now() - interval '5 minutes', 1, 1, 'scheduled', 'up')",
        )
        .await;

    let mut all = PruneSummary::default();
    loop {
        let dropped = housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap();
        assert_eq!(dropped.refusal_reason, None);
        if !dropped.has_pruned_any() {
            break;
        }
        all = PruneSummary {
            dropped_day: all.dropped_day.or(dropped.dropped_day),
            deleted_rows: all.deleted_rows + dropped.deleted_rows,
            ..all
        };
    }
    assert!(all.dropped_day.is_some() && all.deleted_rows == 1, "{all:?}");
}

#[tokio::test]
async fn deletion_is_refused_within_an_hour_of_a_clock_jump() {
    let world = World::new().await;
    world
        .execute_sql(
            "INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             VALUES (now() - interval '50 days', 's', 'r', 'p');
             UPDATE picket.clock SET read_at = now() - interval '45 days'",
        )
        .await;

    world.assert_refused("the clock has been steady since").await;
    world.execute_sql("UPDATE picket.clock SET read_at = now() - interval '50 minutes'").await;
    world.assert_refused("the clock has been steady since").await;
    world.execute_sql("UPDATE picket.clock SET steady_since = now() - interval '61 minutes'").await;

    assert_eq!(
        housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap().deleted_rows,
        1
    );
    // And back.
    world.execute_sql("UPDATE picket.clock SET read_at = now() + interval '10 minutes'").await;
    let refused =
        housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap().refusal_reason;
    assert!(refused.is_some(), "{refused:?}");
}

#[tokio::test]
async fn the_database_clock_is_not_used_when_it_differs_from_the_callers() {
    let Database { store, .. } = new_database().await;
    let is_clock = |error| matches!(error, Error::ClockMismatch { .. });

    for now in
        [wall_clock_now().saturating_sub(DAYS_45), wall_clock_now().saturating_add(Duration::from_secs(60))]
    {
        assert!(is_clock(housekeeping::prune_expired(&store, now, RETENTION).await.unwrap_err()));
        assert!(is_clock(housekeeping::roll_up_results(&store, now, LEASE).await.unwrap_err()));
        assert!(is_clock(housekeeping::rebuild_dirty_hour(&store, now).await.unwrap_err()));
        assert!(is_clock(housekeeping::roll_up_day(&store, now).await.unwrap_err()));
        assert!(is_clock(housekeeping::recount_hour(&store, now, 1).await.unwrap_err()));
        assert!(is_clock(housekeeping::repair_future_marks(&store, now, true).await.unwrap_err()));
        assert!(is_clock(housekeeping::delete_future_results(&store, now).await.unwrap_err()));
        assert!(is_clock(partitions::ensure_partitions(&store, now, RETENTION).await.unwrap_err()));
    }
    assert_eq!(partitions::ensure_partitions(&store, wall_clock_now(), RETENTION).await.unwrap(), 0);
}

#[tokio::test]
async fn timestamps_in_the_future_are_reset_to_now_and_others_kept() {
    let world = World::new().await;
    world.insert_rows().await;
    world.close_ledger_until(0, 0).await;
    world.roll_up().await;
    let marks = "SELECT concat(min(accounted_through), ' ', min(scheduled_through)) FROM picket.leases";
    let before = world.query_text(marks).await;
    assert_eq!(housekeeping::repair_future_marks(&world.store, wall_clock_now(), true).await.unwrap(), []);
    assert_eq!(world.query_text(marks).await, before);
    let said = world.rollups_and_recount().await;
    // The clock was 45 days ahead: shards were taken, closed, rolled up, and a site was changed.
    world
        .execute_sql(
            "UPDATE picket.leases SET scheduled_through = now() + interval '45 days',
                 accounted_through = now() + interval '45 days';
             INSERT INTO picket.gaps VALUES (1, now() - interval '1 hour', now() + interval '45 days'),
                 (2, now() + interval '44 days', now() + interval '45 days'),
                 (3, now() - interval '1 hour', now() - interval '30 minutes');
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT now() + n * interval '10 minutes', 1, 1, 'scheduled', 'missed' FROM generate_series(1, 100) AS n;
             SELECT picket.add_to_rollups(picket.hour_of(now()) + n * interval '1 hour',
                                          picket.hour_of(now()) + (n + 1) * interval '1 hour') FROM generate_series(1, 5) AS n;
             UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now() + interval '45 days'),
                 days_through = picket.day_of(now() + interval '45 days');
             UPDATE picket.certificates SET seen_at = now() + interval '45 days';
             UPDATE picket.schedules SET valid_to = now() + interval '45 days' WHERE site_id = 1;
             INSERT INTO picket.schedules (site_id, region_id, interval_ms, phase_ms, shard, valid_from)
             SELECT site_id, region_id, 30000, 0, shard, valid_to FROM picket.schedules WHERE site_id = 1",
        )
        .await;

    let mut repaired = housekeeping::repair_future_marks(&world.store, wall_clock_now(), true).await.unwrap();

    repaired.sort();
    let names: Vec<_> = repaired.iter().map(|(mark, _)| mark.as_str()).collect();
    assert_eq!(names, ["gaps", "leases", "rollups", "schedules"], "{repaired:?}");
    assert_eq!(housekeeping::repair_future_marks(&world.store, wall_clock_now(), true).await.unwrap(), []);
    for (count, sql) in [
        (
            "0",
            "SELECT count(*) FROM picket.leases WHERE greatest(scheduled_through, accounted_through) > now()",
        ),
        ("true", "SELECT max(accounted_through) < now() - interval '59 minutes' FROM picket.leases"),
        ("2", "SELECT count(*) FROM picket.gaps WHERE gap_to <= now()"),
        ("0", "SELECT count(*) FROM picket.gaps WHERE gap_to > now()"),
        ("0", "SELECT count(*) FROM picket.schedules WHERE greatest(valid_from, valid_to) > now()"),
        ("0", "SELECT count(*) FROM picket.certificates WHERE seen_at > now()"),
        ("true", "SELECT rolled_through = picket.hour_of(now()) FROM picket.rollup_state"),
        ("0", "SELECT count(*) FROM picket.rollups_hourly WHERE hour >= picket.hour_of(now())"),
    ] {
        assert_eq!(world.query_text(sql).await, count, "{sql}");
    }
    world.rebuild_dirty_hours().await;
    world.execute_sql("DELETE FROM picket.check_results WHERE scheduled_at > now()").await;
    assert_eq!(world.rollups_and_recount().await, said);
}

/// What a holder writes at `now` by the database's clock, as if that had been set back by `ahead` since.
async fn lease_ahead(database: &Database, ahead: Duration) -> leases::Lease {
    let lease = leases::acquire_leases(&database.store, "dead", &AcquireCriteria::expired_only(1), LEASE)
        .await
        .unwrap()
        .remove(0);
    sqlx::query(
        "UPDATE picket.leases SET expires_at = expires_at + $1 * interval '1 s' WHERE holder = 'dead'",
    )
    .bind(ahead.as_secs_f64())
    .execute(&database.pool)
    .await
    .unwrap();
    // Nothing else is free.
    leases::acquire_leases(&database.store, "other", &AcquireCriteria::expired_only(64), LEASE)
        .await
        .unwrap();
    lease
}

#[tokio::test]
async fn a_lease_from_before_a_backward_clock_jump_is_free_once_observed_unrenewed() {
    let database = new_database().await;
    let dead = lease_ahead(&database, Duration::from_secs(600)).await;

    let roll = leases::record_heartbeat(&database.store, "me", false, LEASE).await.unwrap();
    assert_eq!(roll.doubtful_leases.iter().map(|held| held.shard).collect::<Vec<_>>(), [dead.shard]);
    let unseen = leases::acquire_leases(&database.store, "me", &AcquireCriteria::expired_only(64), LEASE)
        .await
        .unwrap();
    assert_eq!(unseen, []);
    // Renewed since, so it differs from the observed lease.
    let mut old = roll.doubtful_leases[0];
    old.expires_at = old.expires_at.saturating_sub(Duration::from_secs(1));
    let free = |held| AcquireCriteria {
        unrenewed: vec![held],
        expired_by: None,
        ..AcquireCriteria::expired_only(64)
    };
    assert_eq!(leases::acquire_leases(&database.store, "me", &free(old), LEASE).await.unwrap(), []);

    let taken =
        leases::acquire_leases(&database.store, "me", &free(roll.doubtful_leases[0]), LEASE).await.unwrap();

    assert_eq!(taken.iter().map(|lease| lease.shard).collect::<Vec<_>>(), [dead.shard]);
    let roll = leases::record_heartbeat(&database.store, "me", false, LEASE).await.unwrap();
    assert_eq!(roll.doubtful_leases, []);
}

#[tokio::test]
async fn a_lease_expires_by_the_earlier_of_the_databases_and_the_acquirers_clock() {
    let database = new_database().await;
    leases::acquire_leases(&database.store, "old", &AcquireCriteria::expired_only(64), Duration::ZERO)
        .await
        .unwrap();
    let free = |expired_by| AcquireCriteria { expired_by, ..AcquireCriteria::expired_only(64) };

    // The database's clock has jumped ahead by a minute, or its taker does not know whether it has.
    for by in [None, Some(wall_clock_now().saturating_sub(Duration::from_secs(60)))] {
        assert_eq!(leases::acquire_leases(&database.store, "new", &free(by), LEASE).await.unwrap(), []);
    }
    let by = Some(wall_clock_now().saturating_add(Duration::from_secs(60)));
    assert_eq!(leases::acquire_leases(&database.store, "new", &free(by), LEASE).await.unwrap().len(), 64);
}

#[tokio::test]
async fn a_lease_expired_only_by_a_clock_jump_is_renewed_unless_acquired() {
    let database = new_database().await;
    let held =
        leases::acquire_leases(&database.store, "me", &AcquireCriteria::expired_only(1), Duration::ZERO)
            .await
            .unwrap()
            .remove(0);
    let progress =
        [ShardProgress { shard: held.shard, epoch: held.epoch, scheduled_through: held.scheduled_through }];
    let renew = async |now| leases::renew_leases(&database.store, "me", &progress, now, LEASE).await.unwrap();

    assert_eq!(renew(None).await, []);
    assert_eq!(renew(Some(wall_clock_now().saturating_add(LEASE))).await, []);
    assert_eq!(renew(Some(wall_clock_now().saturating_sub(Duration::from_secs(60)))).await, [held.shard]);
}

#[tokio::test]
async fn a_gap_ends_at_the_acquirers_clock_and_not_at_a_jumped_database_clock() {
    let world = World::new().await;
    world.execute_sql("UPDATE picket.leases SET scheduled_through = now() - interval '1 hour'").await;
    let now = Some(wall_clock_now().saturating_sub(Duration::from_secs(3_000)));

    leases::acquire_leases(
        &world.store,
        "me",
        &AcquireCriteria { now, ..AcquireCriteria::expired_only(64) },
        LEASE,
    )
    .await
    .unwrap();

    let longest =
        world.query_text("SELECT max(gap_to) < now() - interval '49 minutes' FROM picket.gaps").await;
    assert_eq!(longest, "true");
}

#[tokio::test]
async fn a_heartbeat_in_the_future_does_not_count_as_alive() {
    let world = World::new().await;
    leases::record_heartbeat(&world.store, "dead", false, LEASE).await.unwrap();
    let live = async || leases::record_heartbeat(&world.store, "me", false, LEASE).await.unwrap();
    assert_eq!(live().await.live_coordinators, 2);

    world
        .execute_sql("UPDATE picket.coordinators SET seen_at = now() + interval '45 days' WHERE id = 'dead'")
        .await;

    assert_eq!(live().await.live_coordinators, 1);
    assert_eq!(
        housekeeping::prune_expired(&world.store, wall_clock_now(), RETENTION).await.unwrap().deleted_rows,
        1
    );
    assert_eq!(world.query_text("SELECT string_agg(id, ' ') FROM picket.coordinators").await, "me");
}
