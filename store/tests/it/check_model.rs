//! Options, assertions and types of sites: what the database refuses, resets and shows of them.

use picket_proto::{CheckRequest, site::SiteSpec};
use picket_store::sites;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{Database, new_database};

async fn database_with_region() -> Database {
    let database = new_database().await;
    sqlx::raw_sql("INSERT INTO picket.regions (name) VALUES ('eu')").execute(&database.pool).await.unwrap();
    database
}

async fn run(pool: &PgPool, sql: &str) -> Result<(), String> {
    let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    ran.map(drop)
        .map_err(|why| why.as_database_error().map_or(why.to_string(), |error| error.message().to_owned()))
}

async fn query_text(pool: &PgPool, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn options_and_assertions_that_no_process_can_read_are_refused_at_the_door() {
    let database = database_with_region().await;
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    for column in ["options", "assertions"] {
        for (value, reason) in [
            (
                "jsonb_build_object('a', repeat('x', 70000), 'secret', 's3cret')".to_owned(),
                "at most 32768 bytes",
            ),
            (format!("'{{\"a\": {deep}}}'"), "at most 32 objects and lists within each other"),
            ("'{\"a\": [1e400]}'".to_owned(), "numbers from -1e300 to 1e300"),
            ("'[]'".to_owned(), "violates check constraint"),
        ] {
            let insert = format!("INSERT INTO picket.sites (url, {column}) VALUES ('http://x/', {value})");
            let why = run(&database.pool, &insert).await.unwrap_err();

            assert!(why.contains(column) && why.contains(reason), "{column}: {why}");
            assert!(!why.contains("s3cret"), "{why}");
        }
    }
    // The limits of one column do not keep the others from being changed.
    let spaced = "INSERT INTO picket.sites (url, assertions) VALUES ('http://x/', jsonb_build_object('regexes', jsonb_build_array(repeat('x', 30000))))";
    run(&database.pool, spaced).await.unwrap();
    run(&database.pool, "UPDATE picket.sites SET enabled = false").await.unwrap();
}

#[tokio::test]
async fn a_change_of_options_or_assertions_is_judged_again_and_only_assertions_have_regexes() {
    let database = database_with_region().await;
    let check = CheckRequest { regex: Some("ok".into()), ..CheckRequest::new("http://x/") };
    sites::insert_site(&database.store, &SiteSpec { check, ..SiteSpec::new("") }).await.unwrap();
    for (change, is_valid_still) in
        [("options = '{\"http_version\": \"2\"}'", true), ("assertions = '{\"regexes\": [\"a\"]}'", false)]
    {
        run(&database.pool, "UPDATE picket.sites SET patterns_validated = 1").await.unwrap();
        run(&database.pool, "UPDATE picket.sites SET problem = 'options: no'").await.unwrap();
        let before = query_text(&database.pool, "SELECT version::text FROM picket.sites").await;

        run(&database.pool, &format!("UPDATE picket.sites SET {change}")).await.unwrap();

        let state = "SELECT concat_ws(' ', coalesce(problem, 'none'), patterns_validated IS NOT NULL) FROM picket.sites";
        let expected = if is_valid_still { "none t" } else { "none f" };
        assert_eq!(query_text(&database.pool, state).await, expected, "{change}");
        // By the version, coordinators read the site again.
        assert_ne!(
            query_text(&database.pool, "SELECT version::text FROM picket.sites").await,
            before,
            "{change}"
        );
    }
    let schedules = "SELECT count(*)::text FROM picket.schedules WHERE valid_to IS NULL";
    assert_eq!(query_text(&database.pool, schedules).await, "1", "the site is scheduled again");
}

#[tokio::test]
async fn an_unknown_option_is_the_problem_of_its_site_and_names_the_field_and_no_value() {
    let database = database_with_region().await;
    run(
        &database.pool,
        r#"INSERT INTO picket.sites (url, options) VALUES ('http://x/', '{"auth": {"future": "s3cret"}}'), ('http://y/', '{}')"#,
    )
    .await
    .unwrap();

    let mut read = sites::list_sites(&database.store).await.unwrap();
    read.sort_by_key(|site| site.id);

    let problem = read[0].spec.as_ref().unwrap_err().to_string();
    assert!(problem.starts_with("options.auth: ") && problem.contains("`bearer`"), "{problem}");
    assert!(!problem.contains("s3cret"), "{problem}");
    assert!(read[1].spec.is_ok());
}

#[tokio::test]
async fn the_type_of_a_site_follows_its_url_and_cannot_be_written() {
    let database = database_with_region().await;
    let types = "SELECT string_agg(type, ' ' ORDER BY id) FROM picket.sites";

    run(
        &database.pool,
        "INSERT INTO picket.sites (url, type) VALUES ('http://x/', 'dns'), ('HTTPS://x/', 'http'), ('tcp://x:1', 'http'),
             ('dns:x?type=A', 'http'), ('example.com', 'http')",
    )
    .await
    .unwrap();
    assert_eq!(query_text(&database.pool, types).await, "http http tcp dns unknown");
    run(&database.pool, "UPDATE picket.sites SET url = 'icmp://' || id").await.unwrap();
    run(&database.pool, "UPDATE picket.sites SET type = 'http', enabled = false").await.unwrap();
    assert_eq!(query_text(&database.pool, types).await, "icmp icmp icmp icmp icmp");
    assert_eq!(query_text(&database.pool, "SELECT max(type) FROM report.sites").await, "icmp");
}

#[tokio::test]
async fn no_view_of_reports_reads_what_is_sent_to_a_site_or_expected_of_it() {
    let database = new_database().await;
    let readers = "SELECT coalesce(string_agg(DISTINCT view.oid::regclass || '.' || attname, ', '), 'none')
        FROM pg_depend
        JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass
        JOIN pg_class AS view ON view.oid = ev_class
        JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
        WHERE refclassid = 'pg_class'::regclass AND refobjid = 'picket.sites'::regclass AND attname = ANY (ARRAY[";

    let secret = format!("{readers}'headers', 'body', 'options', 'assertions'])");
    assert_eq!(query_text(&database.pool, &secret).await, "none");
    // The statement finds what there is.
    let url = query_text(&database.pool, &format!("{readers}'url'])")).await;
    assert!(url.contains("report.sites.url"), "{url}");
}
