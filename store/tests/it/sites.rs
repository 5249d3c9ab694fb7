//! Sites, regions and the history of schedules, as triggers keep it.

use picket_proto::{CheckRequest, Shard, site::SiteSpec};
use picket_store::{Error, change_feed, regions, schedules::SiteWithSchedules, sites};

use crate::{Database, new_database};

async fn database_with_regions(names: &[&str]) -> Database {
    let database = new_database().await;
    for name in names {
        regions::add_region(&database.store, &name.parse().unwrap()).await.unwrap();
    }
    database
}

/// The schedules in force, as `site region interval`, and how many rows of history there are.
async fn list_schedules(database: &Database) -> (Vec<String>, i64) {
    let in_force = sqlx::query_scalar(
        "SELECT format('%s %s %s', site_id, name, interval_ms) FROM picket.schedules JOIN picket.regions ON id = region_id
         WHERE valid_to IS NULL ORDER BY site_id, name",
    );
    let history = sqlx::query_scalar("SELECT count(*) FROM picket.schedules");
    (in_force.fetch_all(&database.pool).await.unwrap(), history.fetch_one(&database.pool).await.unwrap())
}

async fn execute_sql(database: &Database, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_site_with_only_a_url_is_scheduled_in_every_region() {
    let database = database_with_regions(&["eu", "us"]).await;

    execute_sql(&database, "INSERT INTO picket.sites (url) VALUES ('https://example.com')").await;

    assert_eq!(list_schedules(&database).await, (vec!["1 eu 60000".into(), "1 us 60000".into()], 2));
}

#[tokio::test]
async fn each_schedule_change_closes_the_old_row_and_opens_a_new_one_at_one_time() {
    let database = database_with_regions(&["eu", "us"]).await;
    execute_sql(&database, "INSERT INTO picket.sites (url) VALUES ('https://example.com')").await;

    execute_sql(&database, "UPDATE picket.sites SET name = 'a name changes no schedule'").await;
    assert_eq!(list_schedules(&database).await.1, 2);
    execute_sql(&database, "UPDATE picket.sites SET interval_seconds = 30").await;
    assert_eq!(list_schedules(&database).await, (vec!["1 eu 30000".into(), "1 us 30000".into()], 4));
    execute_sql(&database, "UPDATE picket.sites SET regions = '{eu}'").await;
    assert_eq!(list_schedules(&database).await, (vec!["1 eu 30000".into()], 4));
    execute_sql(&database, "UPDATE picket.sites SET enabled = false").await;
    assert_eq!(list_schedules(&database).await, (vec![], 4));
    execute_sql(&database, "UPDATE picket.sites SET enabled = true, regions = '{}'").await;
    execute_sql(&database, "DELETE FROM picket.regions WHERE name = 'us'").await;
    assert_eq!(list_schedules(&database).await, (vec!["1 eu 30000".into()], 6));
    execute_sql(&database, "INSERT INTO picket.regions (name) VALUES ('ap')").await;
    assert_eq!(list_schedules(&database).await, (vec!["1 ap 30000".into(), "1 eu 30000".into()], 7));

    let gaps: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM picket.schedules AS old
         WHERE region_id = 1 AND interval_ms = 60000
           AND NOT EXISTS (SELECT FROM picket.schedules AS new WHERE new.region_id = 1 AND new.valid_from = old.valid_to)",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(gaps, 0);
}

#[tokio::test]
async fn a_removed_site_keeps_its_history_and_its_name() {
    let database = database_with_regions(&["eu"]).await;
    execute_sql(&database, "INSERT INTO picket.sites (url, name) VALUES ('https://example.com', 'shop')")
        .await;

    sites::delete_site(&database.store, picket_proto::SiteId(1)).await.unwrap();

    assert_eq!(list_schedules(&database).await, (vec![], 1));
    let name: String = sqlx::query_scalar("SELECT site FROM picket.known_sites WHERE id = 1")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(name, "shop");
    let again = sites::insert_site(&database.store, &SiteSpec::new("https://example.com")).await.unwrap();
    assert_eq!(again.0, 2);
}

#[tokio::test]
async fn the_ticks_of_any_span_are_computed_from_the_history_alone() {
    let database = database_with_regions(&["eu"]).await;
    execute_sql(
        &database,
        "INSERT INTO picket.sites (url, interval_seconds) VALUES ('https://example.com', 10);
         UPDATE picket.schedules SET valid_from = '2026-01-01 00:00:00+00', valid_to = '2026-01-01 00:01:00+00'",
    )
    .await;

    let (ticks, on_grid): (i64, bool) = sqlx::query_as(
        "SELECT count(*), bool_and((extract(epoch FROM tick) * 1000)::bigint % interval_ms = phase_ms
                                   AND tick > valid_from AND tick <= valid_to)
         FROM picket.schedules, picket.ticks(interval_ms, phase_ms, valid_from, valid_to, '2025-12-31', '2026-02-01') AS tick",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();

    assert_eq!((ticks, on_grid), (6, true));
}

#[tokio::test]
async fn the_checks_of_a_sites_regions_take_turns_and_many_sites_spread_over_the_interval() {
    let database = database_with_regions(&["a", "b", "c"]).await;
    sites::generate_sites(&database.store, "http://127.0.0.1/", 1, 2_000, 60).await.unwrap();

    let (closest, emptiest): (i64, i64) = sqlx::query_as(
        "WITH phases AS (
             SELECT site_id, phase_ms, lead(phase_ms) OVER w AS next, first_value(phase_ms) OVER w + 60000 AS wrapped
             FROM picket.schedules WINDOW w AS (PARTITION BY site_id ORDER BY phase_ms)
         )
         SELECT min(coalesce(next, wrapped) - phase_ms)::bigint,
                (SELECT min(n) FROM (SELECT count(*) AS n FROM picket.schedules GROUP BY phase_ms / 6000) AS parts)
         FROM phases",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();

    assert!(closest > 10_000, "two regions of one site are {closest} ms apart");
    assert!(emptiest > 500, "a tenth of the interval has {emptiest} of 6000 checks");
}

#[tokio::test]
async fn schema_errors_name_the_field_and_the_allowed_values() {
    let database = database_with_regions(&["eu"]).await;
    let site = SiteSpec::new("https://example.com");
    sites::insert_site(&database.store, &site).await.unwrap();

    let double = sites::insert_site(&database.store, &site).await.unwrap_err();
    assert!(matches!(double, Error::DuplicateSite), "{double}");
    let elsewhere = SiteSpec { regions: vec!["mars".into()], ..SiteSpec::new("https://example.org") };
    let Error::Invalid(refusal) = sites::insert_site(&database.store, &elsewhere).await.unwrap_err() else {
        panic!()
    };
    assert_eq!((refusal.field.as_str(), refusal.value.as_str()), ("regions", "mars"));
    assert!(refusal.expected.contains("eu"), "{}", refusal.expected);
}

#[tokio::test]
async fn a_site_reads_back_equal_to_its_definition() {
    let database = database_with_regions(&["eu"]).await;
    let spec = SiteSpec {
        check: CheckRequest {
            headers: [("X-A".to_owned(), "b".to_owned())].into(),
            regex: Some("ok".into()),
            timeout_ms: 500,
            max_redirects: 0,
            tls_verify: false,
            body: Some("x".into()),
            method: "POST".into(),
            ..CheckRequest::new("https://example.com/")
        },
        name: Some("shop".into()),
        tags: vec!["a".into(), "b".into()],
        regions: vec!["eu".into()],
        quorum: Some(1),
        ..SiteSpec::new("")
    };

    let id = sites::insert_site(&database.store, &spec).await.unwrap();
    assert_eq!(
        sites::find_by_id_or_url(&database.store, &id.to_string()).await.unwrap()[0].spec,
        Ok(spec.clone())
    );
    let changed = SiteSpec { interval_seconds: 15, ..spec };
    sites::update_site(&database.store, id, &changed).await.unwrap();
    assert_eq!(
        sites::find_by_id_or_url(&database.store, "https://example.com/").await.unwrap()[0].spec,
        Ok(changed)
    );
}

#[tokio::test]
async fn a_row_that_no_type_represents_is_a_problem_and_not_an_error() {
    let database = database_with_regions(&["eu"]).await;
    execute_sql(
        &database,
        r#"INSERT INTO picket.sites (url, headers) VALUES ('https://example.com', '{"A": 1}')"#,
    )
    .await;

    let problem = sites::list_sites(&database.store).await.unwrap().remove(0).spec.unwrap_err();

    assert_eq!((problem.field.as_str(), problem.value.as_str()), ("headers.A", "1"));
}

#[tokio::test]
async fn a_problem_ends_the_schedules_until_the_site_is_changed() {
    let database = database_with_regions(&["eu"]).await;
    let id = sites::insert_site(&database.store, &SiteSpec::new("https://example.com")).await.unwrap();
    let read = sites::list_sites(&database.store).await.unwrap().remove(0);

    sites::set_problems(&database.store, &[(id, read.updated_at, "url: no".into())]).await.unwrap();
    assert_eq!(list_schedules(&database).await.0, Vec::<String>::new());
    // Judged from an old reading: it was changed since.
    execute_sql(&database, "UPDATE picket.sites SET url = 'https://example.org'").await;
    sites::set_problems(&database.store, &[(id, read.updated_at, "url: no".into())]).await.unwrap();
    assert_eq!(list_schedules(&database).await.0, ["1 eu 60000"]);
}

#[tokio::test]
async fn no_change_is_missed_in_any_order_of_commits() {
    let database = database_with_regions(&["eu"]).await;
    let shards: Vec<Shard> = (0..64).map(Shard).collect();
    let mut loaded = Vec::new();
    let mut early = database.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO picket.sites (url) VALUES ('http://early')").execute(&mut *early).await.unwrap();
    sites::insert_site(&database.store, &SiteSpec::new("http://late")).await.unwrap();

    let snapshot = change_feed::load_shards(&database.store, &shards, |site: SiteWithSchedules| {
        loaded.push(site.site.url)
    })
    .await
    .unwrap();
    early.commit().await.unwrap();
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    let next = change_feed::load_changes(
        &database.store,
        snapshot,
        &shards,
        |site| changed.push(site.site.url),
        |site| removed.push(site.id),
    )
    .await
    .unwrap();

    assert_eq!(loaded, ["http://late"]);
    assert!(changed.contains(&"http://early".to_owned()), "{changed:?}");
    execute_sql(&database, "DELETE FROM picket.sites WHERE url = 'http://early'").await;
    changed.clear();
    change_feed::load_changes(
        &database.store,
        next,
        &shards,
        |site| changed.push(site.site.url),
        |site| removed.push(site.id),
    )
    .await
    .unwrap();
    assert_eq!(removed.len(), 1);
    assert!(!changed.contains(&"http://early".to_owned()), "{changed:?}");
}

#[tokio::test]
async fn a_change_of_regions_is_a_change_of_the_sites_in_them() {
    let database = database_with_regions(&["eu"]).await;
    sites::insert_site(&database.store, &SiteSpec::new("http://x")).await.unwrap();
    let shards: Vec<Shard> = (0..64).map(Shard).collect();
    let snapshot = change_feed::load_shards(&database.store, &[], |_| ()).await.unwrap();

    regions::add_region(&database.store, &"us".parse().unwrap()).await.unwrap();

    let mut schedules = 0;
    change_feed::load_changes(
        &database.store,
        snapshot,
        &shards,
        |site| schedules = site.schedules.len(),
        |_| (),
    )
    .await
    .unwrap();
    assert_eq!(schedules, 2);
}
