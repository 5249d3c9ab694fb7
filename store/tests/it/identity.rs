//! Which two sites are the same site.

use picket_proto::site::SiteSpec;
use picket_store::{Error, MIGRATOR, sites};
use sqlx::{AssertSqlSafe, PgPool, migrate::Migrator};

use crate::{new_database, open_store};

fn site(fields: &str) -> SiteSpec {
    serde_json::from_str(&format!(r#"{{"url": "https://a.example/"{fields}}}"#)).unwrap()
}

async fn execute(pool: &PgPool, sql: &str) -> Result<(), String> {
    let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    ran.map(drop)
        .map_err(|why| why.as_database_error().and_then(|error| error.constraint()).unwrap_or("?").to_owned())
}

#[tokio::test]
async fn sites_that_differ_in_one_option_or_assertion_are_different_sites_and_equal_ones_are_refused() {
    let database = new_database().await;
    let variants = [
        "",
        r#", "method": "HEAD""#,
        r#", "regex": "ok""#,
        r#", "not_regex": "ok""#,
        r#", "options": {"connect_to": "192.0.2.7"}"#,
        r#", "options": {"connect_to": "192.0.2.8"}"#,
        r#", "options": {"host_header": "192.0.2.7"}"#,
        r#", "options": {"proxy": "office"}"#,
        r#", "options": {"client_certificate": "office"}"#,
        r#", "options": {"http_version": "2"}"#,
        r#", "options": {"auth": {"bearer": {"secret": "office"}}}"#,
        r#", "assertions": {"warn_after_ms": 500}"#,
        r#", "assertions": {"regexes": ["office"]}"#,
        r#", "assertions": {"regexes": ["office"], "warn_after_ms": 500}"#,
        r#", "options": {"connect_to": "192.0.2.7"}, "assertions": {"warn_after_ms": 500}"#,
    ];
    for fields in variants {
        sites::insert_site(&database.store, &site(fields)).await.unwrap();
    }
    for fields in variants {
        // Everything else is no part of the identity.
        let double = SiteSpec { name: Some("other".into()), interval_seconds: 30, ..site(fields) };
        let why = sites::insert_site(&database.store, &double).await.unwrap_err();
        assert!(matches!(why, Error::DuplicateSite), "{fields}: {why}");
    }
    let all = sites::list_sites(&database.store).await.unwrap();
    let why = sites::update_site(&database.store, all[1].id, &site(variants[4])).await.unwrap_err();
    assert!(matches!(why, Error::DuplicateSite), "{why}");
}

#[tokio::test]
async fn objects_that_sql_writes_in_another_way_are_the_same() {
    let database = new_database().await;
    let assertions = r#"{"json": [{"path": "$.a", "less_than": 5.0}], "warn_after_ms": 500}"#;
    sites::insert_site(&database.store, &site(&format!(r#", "assertions": {assertions}"#))).await.unwrap();
    let insert = |assertions: &str| {
        format!("INSERT INTO picket.sites (url, assertions) VALUES ('https://a.example/', '{assertions}')")
    };

    let same = r#"{"warn_after_ms": 5e2, "json": [{"less_than": 5, "path": "$.a"}]}"#;
    let other = r#"{"warn_after_ms": 501, "json": [{"less_than": 5, "path": "$.a"}]}"#;

    assert_eq!(execute(&database.pool, &insert(same)).await.unwrap_err(), "sites_identity");
    execute(&database.pool, &insert(other)).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_leaves_the_rows_of_sites_in_place_and_makes_the_index_smaller() {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let first = MIGRATOR.iter().filter(|migration| migration.version <= 12).cloned().collect();
    Migrator::with_migrations(first).run(&pool).await.unwrap();
    execute(
        &pool,
        "INSERT INTO picket.sites (url, regex) SELECT 'https://a.example/' || n, nullif(n % 3, 0) FROM generate_series(1, 2000) AS n",
    )
    .await
    .unwrap();
    let sizes = async || -> (String, i64, i64) {
        sqlx::query_as(
            "SELECT pg_relation_filepath('picket.sites'), pg_relation_size('picket.sites'),
                    pg_relation_size('picket.sites_identity')",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    let (rows_before, rows_size_before, index_before) = sizes().await;

    let store = open_store(&url);
    store.migrate(64).await.unwrap();

    let (rows, rows_size, index) = sizes().await;
    assert_eq!((rows, rows_size), (rows_before, rows_size_before), "the table is not rewritten");
    assert!(2 * index < index_before, "{index} of {index_before} bytes");
    let plain = "INSERT INTO picket.sites (url) VALUES ('https://a.example/3')";
    assert_eq!(execute(&pool, plain).await.unwrap_err(), "sites_identity");
    let variant =
        r#"INSERT INTO picket.sites (url, options) VALUES ('https://a.example/3', '{"http_version": "2"}')"#;
    execute(&pool, variant).await.unwrap();
}
