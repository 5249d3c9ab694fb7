//! Rows that were written before the database refused what nobody can use.

use std::borrow::Cow;

use picket_store::{MIGRATOR, regions, sites};
use sqlx::{PgPool, migrate::Migrator};

use crate::open_store;

/// The migrations of a release that refused little at the door.
fn before_limits() -> Migrator {
    let migrations = MIGRATOR.iter().filter(|migration| migration.version < 20).cloned().collect();
    Migrator { migrations: Cow::Owned(migrations), ..Migrator::DEFAULT }
}

#[tokio::test]
async fn rows_from_before_the_limits_are_migrated_as_they_are_and_each_can_still_be_changed() {
    let url = picket_testkit::servers::shared_postgres().await.create_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    before_limits().run(&pool).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO picket.regions (name) VALUES ('eu'), ('us');
         INSERT INTO picket.sites (url, tags) VALUES ('http://a/', '{a,NULL}'), ('http://b/', '{{a},{b}}');
         INSERT INTO picket.sites (url, headers)
             VALUES ('http://c/', jsonb_build_object('A', (repeat('[', 200) || repeat(']', 200))::jsonb));
         INSERT INTO picket.sites (url, name, body) VALUES ('http://d/', repeat('d', 1000000), repeat('d', 1000000));
         INSERT INTO picket.sites (url, regions) VALUES ('http://e/', '{us}');
         INSERT INTO picket.maintenance (tag, window_from, window_to) VALUES (repeat('t', 1000), now(), 'infinity');
         DELETE FROM picket.regions WHERE name = 'us';
         INSERT INTO picket.regions (name) VALUES ('eu') ON CONFLICT DO NOTHING",
    )
    .execute(&pool)
    .await
    .unwrap();

    let store = open_store(&url);
    store.migrate(64).await.unwrap();

    let listed = sites::list_sites(&store).await.unwrap();
    assert_eq!(
        listed.iter().map(|site| site.spec.is_ok()).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
    let region_is_gone = listed[4].problem.clone().unwrap_or_default();
    assert!(region_is_gone.starts_with("regions: none of these is in use: us"), "{region_is_gone}");
    // What is wrong with one column does not stand in the way of the others.
    let judged: Vec<_> =
        listed[..4].iter().map(|site| (site.id, site.updated_at, "a problem".to_owned())).collect();
    sites::set_problems(&store, &judged).await.unwrap();
    sqlx::raw_sql("UPDATE picket.sites SET enabled = NOT enabled").execute(&pool).await.unwrap();
    let refused =
        sqlx::raw_sql("UPDATE picket.sites SET tags = '{b,NULL}'").execute(&pool).await.unwrap_err();
    assert!(
        refused.to_string().contains("tags: '{b,NULL}' is not allowed; allowed: a list without NULL"),
        "{refused}"
    );
    assert!(regions::add_region(&store, &"us".parse().unwrap()).await.unwrap());
    sqlx::raw_sql("DELETE FROM picket.sites").execute(&pool).await.unwrap();
}
