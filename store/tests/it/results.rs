//! Results: each stored once, and dead letters with reasons.

mod connection;

use picket_harness::{builders, servers};
use picket_proto::{Cause, CheckKind, CheckResult, Outcome, RegionName, SiteId, Timestamp, Timing, Warning};
use picket_store::{
    Store, regions,
    results::{IncomingResult, InsertSummary, ResultContent, ResultStore},
};
use sqlx::{AssertSqlSafe, PgPool, Row};

/// A database with the regions `eu` and `us`, through the store and beside it.
pub(crate) struct Database {
    pub(crate) results: ResultStore,
    store: Store,
    pub(crate) pool: PgPool,
}

pub(crate) async fn database_with_regions() -> Database {
    let crate::Database { store, pool } = crate::new_database().await;
    for region in ["eu", "us"] {
        regions::add_region(&store, &region.parse().unwrap()).await.unwrap();
    }
    Database { results: ResultStore::new(store.clone()), store, pool }
}

impl Database {
    pub(crate) async fn count_rows(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn count_checks(&self) -> i64 {
        self.count_rows("SELECT count(*) FROM picket.check_results").await
    }

    /// Subjects and reasons of the dead letters.
    pub(crate) async fn list_dead_letters(&self) -> Vec<(String, String)> {
        let query = sqlx::query_as("SELECT subject, reason FROM picket.dead_letters ORDER BY id");
        query.fetch_all(&self.pool).await.unwrap()
    }

    pub(crate) async fn insert_results(&self, results: &[CheckResult]) -> InsertSummary {
        let contents: Vec<_> = results.iter().map(ResultContent::Check).collect();
        self.insert_contents(&contents).await
    }

    async fn insert_contents(&self, contents: &[ResultContent<'_>]) -> InsertSummary {
        let entries: Vec<_> = contents.iter().map(|content| incoming_result(*content)).collect();
        self.results.insert_batch(&entries, now()).await.unwrap()
    }
}

pub(crate) fn incoming_result(content: ResultContent<'_>) -> IncomingResult<'_> {
    IncomingResult { subject: "picket.result.eu.7", payload: b"as it came", content }
}

pub(crate) fn now() -> Timestamp {
    // Whole milliseconds, as ticks have.
    Timestamp::from_millis(wall_ms())
}

#[expect(clippy::disallowed_methods, reason = "the store's tests know no runtime::clock")]
fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

pub(crate) fn up_result(site: i64, region: &str, at: Timestamp) -> CheckResult {
    CheckResult {
        id: "id".to_owned(),
        url: "http://127.0.0.1:8000/".to_owned(),
        started_at: Some(at.saturating_add(std::time::Duration::from_micros(1_500))),
        remote_addr: Some("127.0.0.1:8000".to_owned()),
        timing: Timing { connect_us: Some(100), total_us: Some(900), ..Timing::default() },
        redirects: 1,
        body_bytes: 1_234,
        regex_matched: Some(true),
        tls_expires_at: Some("2027-01-15T23:59:59Z".parse().unwrap()),
        ..builders::up_result(SiteId(site), &region.parse().unwrap(), at)
    }
}

pub(crate) fn missed_result(site: i64, region: &str, at: Timestamp) -> CheckResult {
    CheckResult {
        outcome: Outcome::Missed,
        cause: Some(Cause::Expired),
        message: Some("no prober took it in time".to_owned()),
        started_at: None,
        http_status: None,
        timing: Timing::default(),
        ..up_result(site, region, at)
    }
}

#[tokio::test]
async fn every_field_of_a_result_is_a_column_of_its_row() {
    let database = database_with_regions().await;
    let at = now();

    let written = database.insert_results(&[up_result(42, "us", at)]).await;

    assert_eq!(written.new_rows[&(Outcome::Up, None)], 1);
    let row = sqlx::query("SELECT *, tls_expires_at = '2027-01-15T23:59:59Z' AS tls FROM report.checks")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!((row.get::<i64, _>("site_id"), row.get::<&str, _>("region")), (42, "us"));
    assert_eq!(Timestamp::from(row.get::<time::OffsetDateTime, _>("scheduled_at")), at);
    let text = |column: &str| row.get::<String, _>(column);
    assert_eq!((text("prober"), text("remote_addr")), ("prober-1".into(), "127.0.0.1:8000".into()));
    assert_eq!((row.get::<i16, _>("http_status"), row.get::<i32, _>("body_bytes")), (200, 1_234));
    assert!(row.get::<bool, _>("regex_matched") && row.get::<bool, _>("tls"));
    let times =
        "SELECT (lateness_us, dns_us, connect_us, total_us, redirects)::text FROM picket.check_results";
    let times: String = sqlx::query_scalar(times).fetch_one(&database.pool).await.unwrap();
    assert_eq!(times, "(1500,,100,900,1)");
}

#[tokio::test]
async fn a_result_inserted_twice_is_stored_once() {
    let database = database_with_regions().await;
    let at = now();
    let batch =
        [up_result(2, "eu", at), up_result(1, "eu", at), up_result(1, "us", at), up_result(1, "eu", at)];

    let first = database.insert_results(&batch).await;
    let second = database.insert_results(&batch).await;

    assert_eq!((first.count_inserted(), first.duplicates), (3, 1));
    assert_eq!((second.count_inserted(), second.duplicates), (0, 4));
    assert_eq!(database.count_checks().await, 3);
}

#[tokio::test]
async fn a_confirming_check_is_stored_beside_the_scheduled_one() {
    let database = database_with_regions().await;
    let at = now();

    database
        .insert_results(&[
            up_result(1, "eu", at),
            CheckResult { kind: CheckKind::Confirm, ..up_result(1, "eu", at) },
        ])
        .await;

    assert_eq!(database.count_checks().await, 2);
}

#[tokio::test]
async fn a_result_replaces_a_missed_row_and_never_the_reverse() {
    let database = database_with_regions().await;
    let at = now();
    let outcomes = "SELECT string_agg(outcome || coalesce(' ' || cause, ''), ', ') FROM picket.check_results";

    database.insert_results(&[missed_result(1, "eu", at)]).await;
    let real = database.insert_results(&[up_result(1, "eu", at)]).await;
    let late = database.insert_results(&[missed_result(1, "eu", at)]).await;
    let down = CheckResult { outcome: Outcome::Down, cause: Some(Cause::Dns), ..up_result(1, "eu", at) };
    database.insert_results(&[down]).await;

    assert_eq!((real.new_rows[&(Outcome::Up, None)], real.duplicates), (1, 0));
    assert_eq!((late.count_inserted(), late.duplicates), (0, 1));
    let kept: String = sqlx::query_scalar(outcomes).fetch_one(&database.pool).await.unwrap();
    assert_eq!(kept, "up");
    let status = database.count_rows("SELECT http_status::bigint FROM picket.check_results").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_missed_and_a_real_result_of_one_tick_in_a_batch_keep_the_real_one() {
    let database = database_with_regions().await;
    let at = now();

    let written = database
        .insert_results(&[missed_result(1, "eu", at), up_result(1, "eu", at), missed_result(1, "eu", at)])
        .await;

    assert_eq!(
        (written.new_rows[&(Outcome::Up, None)], written.count_inserted(), written.duplicates),
        (1, 1, 2)
    );
}

#[tokio::test]
async fn a_row_without_a_partition_is_a_dead_letter_and_its_neighbours_are_kept() {
    let database = database_with_regions().await;
    let at = now();
    let long_ago = at.saturating_sub(std::time::Duration::from_secs(20 * 86_400));
    let mut batch: Vec<_> = (0..50).map(|site| up_result(site, "eu", at)).collect();
    batch[7].scheduled_at = long_ago;
    batch[31].scheduled_at = long_ago;

    let written = database.insert_results(&batch).await;
    let again = database.insert_results(&batch[10..20]).await;

    assert_eq!((written.count_inserted(), written.refused_by_database, written.duplicates), (48, 2, 0));
    assert_eq!((again.count_inserted(), again.duplicates), (0, 10));
    assert_eq!(database.count_checks().await, 48);
    let dead = database.list_dead_letters().await;
    assert_eq!(dead.len(), 2);
    assert!(dead[0].1.contains("no partition") && dead[0].1.contains("23514"), "{dead:?}");
    assert_eq!(
        database.count_rows("SELECT count(*) FROM picket.dead_letters WHERE payload = 'as it came'").await,
        2
    );
}

#[tokio::test]
async fn a_result_with_a_missing_partition_creates_it_and_is_kept() {
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
    let at = now();
    // Few rows are inserted, many are copied.
    for rows in [3, 300] {
        let database = database_with_regions().await;
        let yesterday: Vec<_> = (0..rows).map(|site| up_result(site, "eu", at.saturating_sub(DAY))).collect();
        assert_eq!(database.insert_results(&yesterday).await.count_inserted(), rows as u64);
        for moment in [at, at.saturating_sub(DAY), at.saturating_add(DAY)] {
            let day = moment.to_string()[..10].replace('-', "");
            let drop = format!("DROP TABLE picket.check_results_{day}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&database.pool).await.unwrap();
        }
        let mut batch: Vec<_> = (0..rows).map(|site| up_result(site, "eu", at)).collect();
        batch[1].scheduled_at = at.saturating_sub(DAY);
        batch[2].scheduled_at = at.saturating_sub(DAY * 20);

        let written = database.insert_results(&batch).await;

        assert_eq!((written.count_inserted(), written.refused_by_database), (rows as u64 - 1, 1));
        assert_eq!((database.count_checks().await, database.list_dead_letters().await.len()), (rows - 1, 1));
    }
    let database = database_with_regions().await;
    let may: Vec<(String, bool)> = sqlx::query_as(
        "SELECT role, has_function_privilege(role, 'picket.ensure_partition(timestamptz)', 'EXECUTE')
         FROM unnest('{picket_sink,picket_coordinator,picket_notifier,picket_api,picket_report}'::text[]) AS role
         WHERE to_regrole(role) IS NOT NULL",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert!(may.iter().all(|(role, may)| *may == (role == "picket_sink")), "{may:?}");
}

#[tokio::test]
async fn nul_and_overlong_texts_are_sanitized_and_kept() {
    let database = database_with_regions().await;
    let at = now();
    let hostile = CheckResult {
        message: Some(format!("a\0b{}", "ü".repeat(5_000))),
        prober: "p\0".repeat(500),
        remote_addr: Some("x".repeat(5_000)),
        http_version: Some("\u{9f}".repeat(50)),
        http_status: Some(u16::MAX),
        body_bytes: u64::MAX,
        started_at: Some(Timestamp::MAX),
        timing: Timing { total_us: Some(u32::MAX), ..Timing::default() },
        ..up_result(1, "eu", at)
    };
    let adhoc = CheckResult {
        id: "\0id".repeat(5_000),
        url: "u".repeat(50_000),
        kind: CheckKind::Adhoc,
        site_id: None,
        ..hostile.clone()
    };
    let unusable = format!("reason\0{}", "r".repeat(5_000));

    let contents =
        [ResultContent::Check(&hostile), ResultContent::Adhoc(&adhoc), ResultContent::Rejected(&unusable)];
    let entries = contents.map(|content| IncomingResult { subject: "s\0", payload: b"\0\xff{", content });
    let written = database.results.insert_batch(&entries, now()).await.unwrap();

    assert_eq!((written.count_inserted(), written.rejected, written.refused_by_database), (2, 1, 0));
    let lengths = "SELECT (octet_length(message), octet_length(prober), octet_length(remote_addr),
        octet_length(http_version), http_status, body_bytes, lateness_us, total_us)::text FROM picket.check_results";
    let lengths: String = sqlx::query_scalar(lengths).fetch_one(&database.pool).await.unwrap();
    let largest = i32::MAX;
    let [message, prober, address, version, rest @ ..] =
        &*lengths.trim_matches(['(', ')']).split(',').collect::<Vec<_>>()
    else {
        panic!("{lengths}")
    };
    for (length, most) in [(message, 500), (prober, 100), (address, 64), (version, 16)] {
        assert!((most - 4..=most).contains(&length.parse::<i32>().unwrap()), "{lengths}");
    }
    assert_eq!(rest, [i16::MAX.to_string(), largest.to_string(), largest.to_string(), largest.to_string()]);
    assert_eq!(
        database.count_rows("SELECT count(*) FROM picket.adhoc_results WHERE length(url) <= 4096").await,
        1
    );
    assert_eq!(database.list_dead_letters().await.len(), 1);
}

#[tokio::test]
async fn warnings_and_details_are_kept_with_the_rows_of_checks_and_of_requests() {
    let database = database_with_regions().await;
    let warned = CheckResult {
        warnings: vec![Warning::Loss, Warning::Slow],
        details: serde_json::json!({"lost": 2}).as_object().cloned(),
        ..up_result(1, "eu", now())
    };
    let adhoc = CheckResult { kind: CheckKind::Adhoc, site_id: None, ..warned.clone() };

    database.insert_results(&[warned, up_result(2, "eu", now())]).await;
    let entries = [incoming_result(ResultContent::Adhoc(&adhoc))];
    database.results.insert_batch(&entries, now()).await.unwrap();

    let kept = "SELECT string_agg(coalesce(warnings::text, 'none') || ' ' || coalesce(details::text, 'none'), '; ' ORDER BY warnings)";
    for (table, expected) in [
        ("check_results", r#"{slow,loss} {"lost": 2}; none none"#),
        ("adhoc_results", r#"{slow,loss} {"lost": 2}"#),
    ] {
        let rows: String = sqlx::query_scalar(AssertSqlSafe(format!("{kept} FROM picket.{table}")))
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(rows, expected, "{table}");
    }
}

#[tokio::test]
async fn adhoc_results_are_stored_once() {
    let database = database_with_regions().await;
    let adhoc = CheckResult { kind: CheckKind::Adhoc, site_id: None, ..up_result(0, "nowhere", now()) };

    let first = database.insert_contents(&[ResultContent::Adhoc(&adhoc)]).await;
    let second =
        database.insert_contents(&[ResultContent::Adhoc(&adhoc), ResultContent::Adhoc(&adhoc)]).await;

    assert_eq!((first.count_inserted(), second.count_inserted(), second.duplicates), (1, 0, 2));
    let kept = "SELECT count(*) FROM picket.adhoc_results WHERE id = 'id' AND region = 'nowhere' AND http_status = 200";
    assert_eq!(database.count_rows(kept).await, 1);
}

#[tokio::test]
async fn results_of_added_and_removed_regions_are_stored_and_of_unknown_ones_dead_letters() {
    let database = database_with_regions().await;
    let at = now();
    database.insert_results(&[up_result(1, "eu", at)]).await;
    let asia: RegionName = "asia".parse().unwrap();

    let unknown = database.insert_results(&[up_result(1, "asia", at), up_result(2, "eu", at)]).await;
    regions::add_region(&database.store, &asia).await.unwrap();
    let added = database.insert_results(&[up_result(1, "asia", at)]).await;
    regions::remove_region(&database.store, &asia).await.unwrap();
    let removed = ResultStore::new(database.store.clone())
        .insert_batch(&[incoming_result(ResultContent::Check(&up_result(2, "asia", at)))], now())
        .await;

    assert_eq!((unknown.unknown_region, unknown.count_inserted()), (1, 1));
    assert_eq!((added.count_inserted(), removed.unwrap().count_inserted()), (1, 1));
    assert!(database.list_dead_letters().await[0].1.contains("there is no region 'asia'"));
}
