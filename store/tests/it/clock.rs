//! The database's clock is one witness among others: nothing is deleted, taken or given up on its word alone.

use std::time::Duration;

use picket_store::{
    Error,
    leases::{self, Free, Progress},
    partitions,
    upkeep::{self, Dropped, Retention},
};

use crate::{Database, database, rollups::World, wall};

const LEASE: Duration = Duration::from_secs(15);
const RETENTION: Retention = Retention { results: 30, rollups: 730 };
const DAYS_45: Duration = Duration::from_secs(45 * 86_400);

/// A system at work for 60 days, as it is found if the clock has just jumped ahead by 45.
async fn jumped() -> World {
    let world = World::new().await;
    world
        .run(
            "SELECT picket.ensure_partitions(60, 7);
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             SELECT now() - n * interval '1 day', 1, 1, 'scheduled', 'up' FROM generate_series(45, 60) AS n;
             INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             VALUES (now() - interval '50 days', 's', 'r', 'p');
             UPDATE picket.schedules SET valid_from = now() - interval '60 days';
             UPDATE picket.leases SET scheduled_through = now() - interval '45 days',
                 accounted_through = now() - interval '45 days';
             UPDATE picket.rollup_state SET rolled_through = picket.start_of(picket.day_of(now()) - 20),
                 days_through = picket.day_of(now()) - 20",
        )
        .await;
    world
}

impl World {
    async fn assert_refused(&self, why: &str) {
        let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'picket.check_results'::regclass";
        let before = self.text(days).await;
        let dropped = upkeep::expire(&self.store, wall(), RETENTION).await.unwrap();
        let refused = dropped.refused.unwrap();
        assert!(refused.contains(why), "{refused}");
        assert_eq!(upkeep::is_too_early(&refused), why.contains("steady"), "{refused}");
        // By hand neither.
        for drop in ["drop_results(30)", "drop_rollups(730)"] {
            assert_eq!(self.text(&format!("SELECT picket.{drop}")).await, "");
        }
        assert_eq!(self.text("SELECT picket.prune(30, 730, 100)").await, "0");
        assert_eq!(self.text(days).await, before);
        assert_eq!(self.text("SELECT count(*) FROM picket.dead_letters").await, "1");
    }
}

#[tokio::test]
async fn nothing_is_deleted_while_the_clock_disagrees_with_what_was_scheduled_and_with_the_newest_results() {
    let world = jumped().await;

    world.assert_refused("but what was scheduled last was due by").await;
    world.run("UPDATE picket.leases SET scheduled_through = now() - interval '1 minute'").await;
    world.assert_refused("but there is no result of the day before").await;
    world
        .run(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
             VALUES (now() - interval '5 minutes', 1, 1, 'scheduled', 'up')",
        )
        .await;

    let mut all = Dropped::default();
    loop {
        let dropped = upkeep::expire(&world.store, wall(), RETENTION).await.unwrap();
        assert_eq!(dropped.refused, None);
        if !dropped.anything() {
            break;
        }
        all = Dropped { day: all.day.or(dropped.day), rows: all.rows + dropped.rows, ..all };
    }
    assert!(all.day.is_some() && all.rows == 1, "{all:?}");
}

#[tokio::test]
async fn nothing_is_deleted_within_an_hour_of_a_jump_of_the_clock() {
    let world = World::new().await;
    world
        .run(
            "INSERT INTO picket.dead_letters (received_at, subject, reason, payload)
             VALUES (now() - interval '50 days', 's', 'r', 'p');
             UPDATE picket.clock SET read_at = now() - interval '45 days'",
        )
        .await;

    world.assert_refused("the clock has been steady since").await;
    world.run("UPDATE picket.clock SET read_at = now() - interval '50 minutes'").await;
    world.assert_refused("the clock has been steady since").await;
    world.run("UPDATE picket.clock SET steady_since = now() - interval '61 minutes'").await;

    assert_eq!(upkeep::expire(&world.store, wall(), RETENTION).await.unwrap().rows, 1);
    // And back.
    world.run("UPDATE picket.clock SET read_at = now() + interval '10 minutes'").await;
    let refused = upkeep::expire(&world.store, wall(), RETENTION).await.unwrap().refused;
    assert!(refused.is_some(), "{refused:?}");
}

#[tokio::test]
async fn nothing_is_done_by_the_databases_clock_when_the_callers_says_another_time() {
    let Database { store, .. } = database().await;
    let is_clock = |error| matches!(error, Error::Clock { .. });

    for now in [wall().minus(DAYS_45), wall().plus(Duration::from_secs(60))] {
        assert!(is_clock(upkeep::expire(&store, now, RETENTION).await.unwrap_err()));
        assert!(is_clock(upkeep::roll_up(&store, now, LEASE).await.unwrap_err()));
        assert!(is_clock(upkeep::mend(&store, now).await.unwrap_err()));
        assert!(is_clock(upkeep::roll_up_day(&store, now).await.unwrap_err()));
        assert!(is_clock(upkeep::recount(&store, now, 1).await.unwrap_err()));
        assert!(is_clock(upkeep::repair_marks(&store, now, true).await.unwrap_err()));
        assert!(is_clock(upkeep::delete_future_results(&store, now).await.unwrap_err()));
        assert!(is_clock(partitions::ensure(&store, now, RETENTION).await.unwrap_err()));
    }
    assert_eq!(partitions::ensure(&store, wall(), RETENTION).await.unwrap(), 0);
}

#[tokio::test]
async fn marks_in_the_future_are_taken_back_to_now_and_those_that_are_right_stay() {
    let world = World::new().await;
    world.rows().await;
    world.closed(0, 0).await;
    world.roll_up().await;
    let marks = "SELECT concat(min(accounted_through), ' ', min(scheduled_through)) FROM picket.leases";
    let before = world.text(marks).await;
    assert_eq!(upkeep::repair_marks(&world.store, wall(), true).await.unwrap(), []);
    assert_eq!(world.text(marks).await, before);
    let said = world.said_and_true().await;
    // The clock was 45 days ahead: shards were taken, closed, rolled up, and a site was changed.
    world
        .run(
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

    let mut repaired = upkeep::repair_marks(&world.store, wall(), true).await.unwrap();

    repaired.sort();
    let names: Vec<_> = repaired.iter().map(|(mark, _)| mark.as_str()).collect();
    assert_eq!(names, ["gaps", "leases", "rollups", "schedules"], "{repaired:?}");
    assert_eq!(upkeep::repair_marks(&world.store, wall(), true).await.unwrap(), []);
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
        assert_eq!(world.text(sql).await, count, "{sql}");
    }
    world.mend().await;
    world.run("DELETE FROM picket.check_results WHERE scheduled_at > now()").await;
    assert_eq!(world.said_and_true().await, said);
}

/// What a holder writes at `now` by the database's clock, as if that had been set back by `ahead` since.
async fn lease_ahead(database: &Database, ahead: Duration) -> leases::Lease {
    let lease =
        leases::acquire(&database.store, "dead", &Free::expired(1), LEASE + ahead).await.unwrap().remove(0);
    // Nothing else is free.
    leases::acquire(&database.store, "other", &Free::expired(64), LEASE).await.unwrap();
    lease
}

#[tokio::test]
async fn a_lease_from_before_the_clock_was_set_back_is_free_once_it_was_seen_unrenewed() {
    let database = database().await;
    let dead = lease_ahead(&database, Duration::from_secs(600)).await;

    let roll = leases::announce(&database.store, "me", false, LEASE).await.unwrap();
    assert_eq!(roll.doubtful.iter().map(|held| held.shard).collect::<Vec<_>>(), [dead.shard]);
    let unseen = leases::acquire(&database.store, "me", &Free::expired(64), LEASE).await.unwrap();
    assert_eq!(unseen, []);
    // Renewed since: not the one that was seen.
    let mut old = roll.doubtful[0];
    old.expires_at = old.expires_at.minus(Duration::from_secs(1));
    let free = |held| Free { unrenewed: vec![held], expired_by: None, ..Free::expired(64) };
    assert_eq!(leases::acquire(&database.store, "me", &free(old), LEASE).await.unwrap(), []);

    let taken = leases::acquire(&database.store, "me", &free(roll.doubtful[0]), LEASE).await.unwrap();

    assert_eq!(taken.iter().map(|lease| lease.shard).collect::<Vec<_>>(), [dead.shard]);
    let roll = leases::announce(&database.store, "me", false, LEASE).await.unwrap();
    assert_eq!(roll.doubtful, []);
}

#[tokio::test]
async fn a_lease_is_expired_by_the_earlier_of_the_databases_clock_and_the_takers() {
    let database = database().await;
    leases::acquire(&database.store, "old", &Free::expired(64), Duration::ZERO).await.unwrap();
    let free = |expired_by| Free { expired_by, ..Free::expired(64) };

    // The database's clock has jumped ahead by a minute, or its taker does not know whether it has.
    for by in [None, Some(wall().minus(Duration::from_secs(60)))] {
        assert_eq!(leases::acquire(&database.store, "new", &free(by), LEASE).await.unwrap(), []);
    }
    let by = Some(wall().plus(Duration::from_secs(60)));
    assert_eq!(leases::acquire(&database.store, "new", &free(by), LEASE).await.unwrap().len(), 64);
}

#[tokio::test]
async fn a_lease_that_only_a_jump_of_the_clock_has_ended_is_renewed_if_nobody_took_it() {
    let database = database().await;
    let held =
        leases::acquire(&database.store, "me", &Free::expired(1), Duration::ZERO).await.unwrap().remove(0);
    let progress =
        [Progress { shard: held.shard, epoch: held.epoch, scheduled_through: held.scheduled_through }];
    let renew = async |now| leases::renew(&database.store, "me", &progress, now, LEASE).await.unwrap();

    assert_eq!(renew(None).await, []);
    assert_eq!(renew(Some(wall().plus(LEASE))).await, []);
    assert_eq!(renew(Some(wall().minus(Duration::from_secs(60)))).await, [held.shard]);
}

#[tokio::test]
async fn a_gap_ends_where_the_takers_clock_is_and_not_where_the_databases_has_jumped_to() {
    let world = World::new().await;
    world.run("UPDATE picket.leases SET scheduled_through = now() - interval '1 hour'").await;
    let now = Some(wall().minus(Duration::from_secs(3_000)));

    leases::acquire(&world.store, "me", &Free { now, ..Free::expired(64) }, LEASE).await.unwrap();

    let longest = world.text("SELECT max(gap_to) < now() - interval '49 minutes' FROM picket.gaps").await;
    assert_eq!(longest, "true");
}

#[tokio::test]
async fn a_coordinator_that_was_seen_in_the_future_is_not_counted_as_alive() {
    let world = World::new().await;
    leases::announce(&world.store, "dead", false, LEASE).await.unwrap();
    let live = async || leases::announce(&world.store, "me", false, LEASE).await.unwrap();
    assert_eq!(live().await.live, 2);

    world.run("UPDATE picket.coordinators SET seen_at = now() + interval '45 days' WHERE id = 'dead'").await;

    assert_eq!(live().await.live, 1);
    assert_eq!(upkeep::expire(&world.store, wall(), RETENTION).await.unwrap().rows, 1);
    assert_eq!(world.text("SELECT string_agg(id, ' ') FROM picket.coordinators").await, "me");
}
