//! Regions: their numbers, their names, and the sites that name them.

use picket_proto::site::SiteSpec;
use picket_store::{regions, sites};
use sqlx::{Connection, PgConnection};

use crate::{Database, new_database};

async fn execute_sql(database: &Database, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&database.pool).await.unwrap();
}

async fn add_region_named(database: &Database, name: &str) -> bool {
    regions::add_region(&database.store, &name.parse().unwrap()).await.unwrap()
}

/// The schedules in force, as `site region`.
async fn list_schedules_in_force(database: &Database) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT format('%s %s', site_id, name) FROM picket.schedules JOIN picket.regions ON id = region_id
         WHERE valid_to IS NULL ORDER BY 1",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap()
}

async fn list_region_numbers(database: &Database) -> Vec<(String, i16)> {
    sqlx::query_as("SELECT name, id FROM picket.regions ORDER BY name")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

async fn read_problem(database: &Database) -> Option<String> {
    sites::list_sites(&database.store).await.unwrap().remove(0).problem
}

#[tokio::test]
async fn adding_an_existing_region_uses_no_number_and_free_numbers_are_reused() {
    let database = new_database().await;
    assert!(add_region_named(&database, "eu").await);
    for _ in 0..20 {
        assert!(!add_region_named(&database, "eu").await);
        execute_sql(&database, "INSERT INTO picket.regions (name) VALUES ('eu') ON CONFLICT DO NOTHING")
            .await;
    }
    add_region_named(&database, "us").await;
    execute_sql(&database, "INSERT INTO picket.regions (id, name) VALUES (4, 'sa'), (32767, 'af')").await;
    execute_sql(&database, "INSERT INTO picket.regions (name) VALUES ('ap'), ('au')").await;

    let named = |pairs: &[(&str, i16)]| -> Vec<(String, i16)> {
        pairs.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
    };
    let expected = [("af", 32_767), ("ap", 3), ("au", 5), ("eu", 1), ("sa", 4), ("us", 2)];
    assert_eq!(list_region_numbers(&database).await, named(&expected));

    execute_sql(
        &database,
        "INSERT INTO picket.regions (id, name) SELECT n, 'r' || n FROM generate_series(6, 32766) AS n",
    )
    .await;
    let refused = regions::add_region(&database.store, &"full".parse().unwrap()).await.unwrap_err();
    let why = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("name: 'full' cannot be added: all 32767 numbers of regions are taken"), "{why}");
    assert!(!add_region_named(&database, "eu").await, "an existing region needs no number");
}

#[tokio::test]
async fn two_regions_added_concurrently_get_two_numbers() {
    let database = new_database().await;
    let adding = (0..8).map(|n| {
        let store = database.store.clone();
        tokio::spawn(
            async move { regions::add_region(&store, &format!("r{n}").parse().unwrap()).await.unwrap() },
        )
    });
    for added in adding.collect::<Vec<_>>() {
        assert!(added.await.unwrap());
    }
    let mut ids: Vec<i16> = list_region_numbers(&database).await.into_iter().map(|(_, id)| id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn renaming_a_region_is_refused() {
    let database = new_database().await;
    add_region_named(&database, "eu").await;
    for sql in ["UPDATE picket.regions SET name = 'europe'", "UPDATE picket.regions SET id = 9"] {
        let refused = sqlx::query(sql).execute(&database.pool).await.unwrap_err().to_string();
        assert!(
            refused.contains("a region cannot be renamed or renumbered") && refused.contains("'eu'"),
            "{refused}"
        );
    }
    execute_sql(&database, "UPDATE picket.regions SET removed_at = now()").await;
}

#[tokio::test]
async fn a_site_without_remaining_regions_has_a_problem_until_one_is_added_again() {
    let database = new_database().await;
    for name in ["eu", "us", "ap"] {
        add_region_named(&database, name).await;
    }
    let spec = SiteSpec { regions: vec!["eu".into(), "us".into()], ..SiteSpec::new("http://x/") };
    sites::insert_site(&database.store, &spec).await.unwrap();
    sites::insert_site(&database.store, &SiteSpec::new("http://everywhere/")).await.unwrap();

    regions::remove_region(&database.store, &"eu".parse().unwrap()).await.unwrap();
    assert_eq!(
        (read_problem(&database).await, list_schedules_in_force(&database).await),
        (None, vec!["1 us".into(), "2 ap".into(), "2 us".into()])
    );
    execute_sql(&database, "DELETE FROM picket.regions WHERE name = 'us'").await;
    let why = read_problem(&database).await.unwrap();
    assert!(why.starts_with("regions: none of these is in use: eu, us; allowed: "), "{why}");
    assert_eq!(list_schedules_in_force(&database).await, ["2 ap"]);
    // A change of another column repairs nothing.
    execute_sql(&database, "UPDATE picket.sites SET interval_seconds = 30").await;
    assert_eq!(read_problem(&database).await, Some(why));

    assert!(add_region_named(&database, "eu").await);
    assert_eq!(
        (read_problem(&database).await, list_schedules_in_force(&database).await),
        (None, vec!["1 eu".into(), "2 ap".into(), "2 eu".into()])
    );
    regions::remove_region(&database.store, &"eu".parse().unwrap()).await.unwrap();
    execute_sql(&database, "UPDATE picket.sites SET regions = '{ap}' WHERE id = 1").await;
    assert_eq!(
        (read_problem(&database).await, list_schedules_in_force(&database).await),
        (None, vec!["1 ap".into(), "2 ap".into()])
    );
}

#[tokio::test]
async fn a_site_and_a_region_committed_concurrently_under_repeatable_read_are_reconciled() {
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM picket.sites";
    const SITE: &str = "INSERT INTO picket.sites (url) VALUES ('http://x/'); COMMIT";
    const REGION: &str = "INSERT INTO picket.regions (name) VALUES ('eu'); COMMIT";
    for (first, second) in [(SITE, REGION), (REGION, SITE)] {
        let database = new_database().await;
        let options = database.pool.connect_options();
        let mut one = PgConnection::connect_with(&options).await.unwrap();
        let mut other = PgConnection::connect_with(&options).await.unwrap();
        // Neither transaction sees the other's commit.
        sqlx::raw_sql(BEGIN).execute(&mut one).await.unwrap();
        sqlx::raw_sql(BEGIN).execute(&mut other).await.unwrap();
        sqlx::raw_sql(first).execute(&mut one).await.unwrap();
        sqlx::raw_sql(second).execute(&mut other).await.unwrap();
        assert_eq!(list_schedules_in_force(&database).await, Vec::<String>::new());

        assert_eq!(regions::reconcile_pending(&database.store).await.unwrap(), 1);
        assert_eq!(list_schedules_in_force(&database).await, ["1 eu"], "{first}");
        assert_eq!(regions::reconcile_pending(&database.store).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn sites_in_a_nonexistent_shard_move_to_their_own_with_their_schedules_history() {
    const ASTRAY: &str = "SELECT (SELECT count(*) FROM picket.sites WHERE shard <> picket.shard_of(id))
                              + (SELECT count(*) FROM picket.schedules WHERE shard <> picket.shard_of(site_id))";
    let database = new_database().await;
    add_region_named(&database, "eu").await;
    // As a restore with triggers disabled writes them.
    execute_sql(
        &database,
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO picket.sites (shard, version, url)
         SELECT shard, pg_current_xact_id(), 'http://x/' || shard FROM unnest('{-1,64,32767}'::smallint[]) AS shard; COMMIT;
         SELECT picket.reconcile_schedules(ARRAY(SELECT id FROM picket.sites))",
    )
    .await;
    let astray = async || -> i64 { sqlx::query_scalar(ASTRAY).fetch_one(&database.pool).await.unwrap() };
    assert_eq!(astray().await, 6);

    assert_eq!(regions::reconcile_pending(&database.store).await.unwrap(), 3);
    assert_eq!((astray().await, list_schedules_in_force(&database).await.len()), (0, 3));
    assert_eq!(regions::reconcile_pending(&database.store).await.unwrap(), 0);
}

#[tokio::test]
async fn removing_two_regions_concurrently_does_not_deadlock() {
    let database = new_database().await;
    for name in ["eu", "us"] {
        add_region_named(&database, name).await;
        let spec = SiteSpec { regions: vec![name.into()], ..SiteSpec::new(format!("http://{name}/")) };
        sites::insert_site(&database.store, &spec).await.unwrap();
    }
    let both = SiteSpec { regions: vec!["eu".into(), "us".into()], ..SiteSpec::new("http://both/") };
    sites::insert_site(&database.store, &both).await.unwrap();
    let options = database.pool.connect_options();
    let mut one = PgConnection::connect_with(&options).await.unwrap();
    let mut other = PgConnection::connect_with(&options).await.unwrap();
    // Both have the lock of a writer before either changes a site.
    for connection in [&mut one, &mut other] {
        let begin = "BEGIN; UPDATE picket.regions SET removed_at = now() WHERE name = 'nowhere'";
        sqlx::raw_sql(begin).execute(connection).await.unwrap();
    }
    let remove_eu = sqlx::raw_sql("UPDATE picket.regions SET removed_at = now() WHERE name = 'eu'; COMMIT");
    let remove_us = sqlx::raw_sql("UPDATE picket.regions SET removed_at = now() WHERE name = 'us'; COMMIT");
    let (eu, us) = tokio::join!(remove_eu.execute(&mut one), remove_us.execute(&mut other));
    eu.unwrap();
    us.unwrap();

    let problems = sites::list_sites(&database.store).await.unwrap();
    assert!(problems.iter().all(|site| site.problem.is_some()), "{problems:?}");
    assert_eq!(list_schedules_in_force(&database).await, Vec::<String>::new());
}
