//! Cluster settings: their ranges in the database, and what follows from a change.

use std::time::Duration;

use picket_proto::site::IntervalRange;
use picket_store::{
    change_feed::{ChangeListener, Notification},
    leases::{self, AcquireCriteria, LeaseTime, ShardProgress},
    regions,
    settings::{SETTINGS, SettingKind, SettingValue, read_settings, update_settings},
    sites,
};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::{Database, new_database, open_store};

/// Tries to set a column; returns the constraint that refuses it.
async fn try_set(pool: &PgPool, assignments: &str) -> Result<(), String> {
    let mut transaction = pool.begin().await.unwrap();
    let sql = format!("UPDATE picket.settings SET {assignments}");
    let done = transaction.execute(AssertSqlSafe(sql)).await;
    transaction.rollback().await.unwrap();
    done.map(drop).map_err(|error| match error {
        sqlx::Error::Database(error) => error.constraint().unwrap_or(error.message()).to_owned(),
        other => panic!("{assignments}: {other}"),
    })
}

#[tokio::test]
async fn each_settings_default_and_range_in_the_database_equal_its_definition() {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let store = open_store(&url);
    store.migrate(64).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let settings = read_settings(&store).await.unwrap();

    for definition in &SETTINGS {
        if let Some(default) = &definition.default {
            assert_eq!((definition.read)(&settings), *default, "{}", definition.name);
        }
        let milliseconds = |duration: Duration| format!("interval '{} milliseconds'", duration.as_millis());
        let [below, min, max, above] = match definition.kind {
            SettingKind::Number(min, max) => [min - 1, min, max, max + 1].map(|number| number.to_string()),
            SettingKind::Bytes(min, max) => [min - 1, min, max, max + 1].map(|bytes| bytes.to_string()),
            SettingKind::Duration(min, max) => {
                let step = Duration::from_millis(1);
                [min - step, min, max, max + step].map(milliseconds)
            }
            SettingKind::Seconds(min, max) => {
                let step = Duration::from_secs(1);
                [min - step, min, max, max + step].map(milliseconds)
            }
            SettingKind::Flag | SettingKind::Url | SettingKind::Fixed => continue,
        };
        // Values of other settings that make the ends of the range possible.
        let others = match definition.name {
            "min_interval" => ", max_interval = '1 day'",
            "max_interval" => ", min_interval = '1 second'",
            "retention_days" => ", rollup_hours_days = 36500, rollup_days_days = 36500",
            "rollup_hours_days" => ", retention_days = 1, rollup_days_days = 36500",
            "rollup_days_days" => ", retention_days = 1, rollup_hours_days = 1",
            _ => "",
        };
        for allowed in [min, max] {
            try_set(&pool, &format!("{} = {allowed}{others}", definition.name)).await.unwrap();
        }
        for refused in [below, above] {
            let constraint = try_set(&pool, &format!("{} = {refused}{others}", definition.name)).await;
            assert!(constraint.clone().unwrap_err().contains(definition.name), "{refused}: {constraint:?}");
        }
    }
}

#[tokio::test]
async fn the_database_refuses_invalid_settings_from_any_writer() {
    let Database { pool, .. } = new_database().await;

    for nonsense in [
        "min_interval = '1 hour', max_interval = '1 minute'",
        "min_interval = '1500 milliseconds'",
        "max_interval = 'infinity'",
        "lease_time = '-15 seconds'",
        "lease_time = NULL",
        "rollup_hours_days = 29",
        "rollup_days_days = 729",
        "public_url = 'ftp://example.com'",
        "public_url = 'https://example.com/?query'",
        "public_url = 'https:///path'",
    ] {
        assert!(try_set(&pool, nonsense).await.is_err(), "{nonsense}");
    }
    for sense in ["public_url = 'https://example.com/status'", "public_url = NULL", "batch_delay = '20 ms'"] {
        try_set(&pool, sense).await.unwrap();
    }
    let second = pool.execute("INSERT INTO picket.settings (shards) VALUES (64)").await;
    assert!(second.is_err());
}

#[tokio::test]
async fn an_update_returns_the_changes_and_names_conflicting_settings() {
    let Database { store, .. } = new_database().await;
    let days = |days| SettingValue::Number(days);
    let minute = SettingValue::Duration(Duration::from_secs(60));

    let changes = [
        ("lease_time", minute.clone()),
        ("retention_days", days(30)),
        ("public_url", SettingValue::Text(None)),
    ];
    let changed = update_settings(&store, &changes).await.unwrap();
    assert_eq!(changed.iter().map(|definition| definition.name).collect::<Vec<_>>(), ["lease_time"]);
    assert_eq!(read_settings(&store).await.unwrap().lease_time, Duration::from_secs(60));

    let changes = [("ledger_grace", minute), ("retention_days", days(731))];
    let refusal = update_settings(&store, &changes).await.unwrap_err().to_string();
    assert!(
        refusal.contains("retention_days: '731'") && refusal.contains("rollup_hours_days is at least"),
        "{refusal}"
    );
    let refusal = update_settings(&store, &[("shards", days(8))]).await.unwrap_err().to_string();
    assert!(refusal.contains("shards: '8'") && refusal.contains("fixed"), "{refusal}");
    // All or none.
    assert_eq!(read_settings(&store).await.unwrap().ledger_grace, Duration::from_secs(150));
}

/// Sites with their intervals in seconds, and one whose problem is another.
async fn insert_sites(database: &Database) {
    let sql = "INSERT INTO picket.regions (name) VALUES ('eu');
               INSERT INTO picket.sites (url, interval_seconds)
               SELECT 'http://x/' || n, n FROM unnest(ARRAY[1, 5, 60, 3600]) AS n;
               INSERT INTO picket.sites (url, interval_seconds) VALUES ('nonsense', 1);
               UPDATE picket.sites SET problem = 'url: no' WHERE url = 'nonsense'";
    database.pool.execute(sql).await.unwrap();
}

async fn watched_intervals(pool: &PgPool) -> Vec<i32> {
    let sql = "SELECT interval_ms / 1000 FROM picket.schedules WHERE valid_to IS NULL ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

async fn set_range(database: &Database, min: u64, max: u64) {
    let seconds = |seconds| SettingValue::Duration(Duration::from_secs(seconds));
    let changes = [("min_interval", seconds(min)), ("max_interval", seconds(max))];
    update_settings(&database.store, &changes).await.unwrap();
}

/// Before, a coordinator with a narrower range than the others ended the schedules of all sites outside of it, and no correction
/// of the range began them again.
#[tokio::test]
async fn a_site_out_of_range_has_a_problem_that_names_the_settings_until_included() {
    let database = new_database().await;
    insert_sites(&database).await;
    assert_eq!(watched_intervals(&database.pool).await, [1, 5, 60, 3_600]);

    set_range(&database, 5, 60).await;
    assert_eq!(watched_intervals(&database.pool).await, [5, 60]);
    let range = IntervalRange { min: Duration::from_secs(5), max: Duration::from_secs(60) };
    for site in sites::list_sites(&database.store).await.unwrap() {
        let expected = match site.url.as_str() {
            "nonsense" => Some("url: no".to_owned()),
            _ => range.check(site.spec.as_ref().unwrap().interval_seconds).err().map(|why| why.to_string()),
        };
        assert_eq!(site.problem, expected, "{}", site.url);
    }

    set_range(&database, 1, 600).await;
    assert_eq!(watched_intervals(&database.pool).await, [1, 5, 60]);
    let problem = sites::list_sites(&database.store).await.unwrap().remove(3).problem.unwrap();
    assert!(problem.contains("allowed: 1 to 600 (settings min_interval and max_interval)"), "{problem}");
    // The history records when each site was scheduled; sites written meanwhile are judged alike.
    database
        .pool
        .execute("UPDATE picket.sites SET interval_seconds = 300 WHERE url = 'http://x/3600'")
        .await
        .unwrap();
    assert_eq!(watched_intervals(&database.pool).await, [1, 5, 60, 300]);
    database
        .pool
        .execute("UPDATE picket.sites SET interval_seconds = 601 WHERE url = 'http://x/3600'")
        .await
        .unwrap();
    assert_eq!(watched_intervals(&database.pool).await, [1, 5, 60]);
    let periods = "SELECT count(*) FROM picket.schedules WHERE site_id = (SELECT id FROM picket.sites WHERE url = 'http://x/1')";
    assert_eq!(sqlx::query_scalar::<_, i64>(periods).fetch_one(&database.pool).await.unwrap(), 2);
}

#[tokio::test]
async fn a_site_written_while_the_range_changes_is_judged_by_the_new_range() {
    let database = new_database().await;
    insert_sites(&database).await;

    // Read committed: the change waits for the site.
    let mut writing = database.pool.begin().await.unwrap();
    writing
        .execute("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://new/', 2)")
        .await
        .unwrap();
    let (_, ()) = tokio::join!(set_range(&database, 5, 60), async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE picket.settings%'
                       AND datname = current_database()";
        picket_harness::eventually(Duration::from_secs(20), "a change that waits", async || {
            let waits: i64 = sqlx::query_scalar(waiting).fetch_one(&database.pool).await.unwrap();
            if waits == 1 { Ok(()) } else { Err(waits) }
        })
        .await;
        writing.commit().await.unwrap();
    });
    assert_eq!(watched_intervals(&database.pool).await, [5, 60]);

    // Repeatable read: the site's transaction does not see the change, and a coordinator makes it good.
    let mut writing = database.pool.begin().await.unwrap();
    writing
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM picket.sites")
        .await
        .unwrap();
    set_range(&database, 1, 60).await;
    writing
        .execute("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://newer/', 3)")
        .await
        .unwrap();
    writing.commit().await.unwrap();
    assert_eq!(watched_intervals(&database.pool).await, [1, 2, 5, 60]);
    regions::reconcile_pending(&database.store).await.unwrap();
    assert_eq!(watched_intervals(&database.pool).await, [1, 2, 3, 5, 60]);
}

#[tokio::test]
async fn a_change_notifies_listeners() {
    let Database { store, pool } = new_database().await;
    let mut listener = ChangeListener::connect(&store).await.unwrap();

    pool.execute("UPDATE picket.settings SET batch_delay = '20 ms'").await.unwrap();

    assert_eq!(listener.next_notification().await.unwrap(), Notification::Settings);
}

/// Red while a lease was judged by the lease time that its observer knew, and a delayed renewal could shorten a lease.
#[tokio::test]
async fn a_lease_keeps_its_granted_time_and_no_older_time_renews_it() {
    let Database { store, pool } = new_database().await;
    let time = |seconds, version| LeaseTime { duration: Duration::from_secs(seconds), version };
    let read_version = async || {
        let view = leases::record_heartbeat(&store, "me", false, Duration::from_secs(3)).await.unwrap();
        (view.lease_time, view.doubtful_leases)
    };
    assert_eq!(read_version().await, (time(15, 0), vec![]));
    pool.execute("UPDATE picket.settings SET lease_time = '5 minutes'").await.unwrap();
    let (long, _) = read_version().await;
    assert_eq!(long, time(300, 1));

    let held =
        leases::acquire_leases(&store, "holder", &AcquireCriteria::expired_only(1), long).await.unwrap();
    // A coordinator that knows a lease time of 3 s finds the lease valid.
    assert_eq!(read_version().await, (long, vec![]));
    let progress: Vec<ShardProgress> = held
        .iter()
        .map(|lease| ShardProgress {
            shard: lease.shard,
            epoch: lease.epoch,
            scheduled_through: lease.scheduled_through,
        })
        .collect();
    let renew =
        async |lease_time| leases::renew_leases(&store, "holder", &progress, None, lease_time).await.unwrap();
    assert_eq!(renew(time(3, 0)).await, []);
    assert_eq!(renew(time(3, 2)).await, [held[0].shard]);

    // Expired, but for how long the clock has been steady is less than its time.
    pool.execute(
        "UPDATE picket.leases SET expires_at = clock_timestamp() - interval '1 s', lease_time = '1 minute'",
    )
    .await
    .unwrap();
    let free = |seconds| AcquireCriteria {
        steady_for: Duration::from_secs(seconds),
        ..AcquireCriteria::expired_only(64)
    };
    assert_eq!(leases::acquire_leases(&store, "me", &free(59), time(3, 2)).await.unwrap(), []);
    let doubtful = read_version().await.1;
    assert!(doubtful.len() == 64 && doubtful.iter().all(|lease| lease.lease_time == Duration::from_secs(60)));
    assert_eq!(leases::acquire_leases(&store, "me", &free(60), time(3, 2)).await.unwrap().len(), 64);
}
