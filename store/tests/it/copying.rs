//! Large batches of results, which are copied if all are new.

use picket_proto::{Cause, CheckKind, CheckResult, Outcome, Timestamp, Timing};
use picket_store::results::ResultContent;

use crate::results::{Database, database_with_regions, incoming_result, missed_result, now, up_result};

/// The statements that insert checks are written down by a trigger.
async fn database_with_trigger() -> Database {
    let database = database_with_regions().await;
    let trigger = "
        CREATE TABLE picket.statements (id bigint GENERATED ALWAYS AS IDENTITY, statement text);
        CREATE FUNCTION picket.note() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO picket.statements (statement) VALUES (current_query()); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT ON picket.check_results FOR EACH STATEMENT EXECUTE FUNCTION picket.note()";
    sqlx::raw_sql(trigger).execute(&database.pool).await.unwrap();
    database
}

impl Database {
    /// Whether the statements that were kept were copies, in order.
    async fn list_copied_flags(&self) -> Vec<bool> {
        let query = sqlx::query_scalar("SELECT statement LIKE 'COPY %' FROM picket.statements ORDER BY id");
        query.fetch_all(&self.pool).await.unwrap()
    }
}

/// Results of all kinds, of so many sites.
fn results_of_all_kinds(sites: std::ops::Range<i64>, at: Timestamp) -> Vec<CheckResult> {
    let down = |site| CheckResult {
        outcome: Outcome::Down,
        cause: Some(Cause::BodyTooLarge),
        message: Some(format!("é\0{}", "x".repeat(600))),
        http_status: Some(u16::MAX),
        http_version: Some("2".to_owned()),
        body_bytes: u64::MAX,
        regex_matched: Some(false),
        tls_expires_at: None,
        timing: Timing { dns_us: Some(u32::MAX), tls_us: Some(0), ..Timing::default() },
        ..up_result(site, "us", at)
    };
    let confirm = |site| CheckResult {
        kind: CheckKind::Confirm,
        started_at: Some(at.saturating_sub(std::time::Duration::from_secs(1))),
        remote_addr: None,
        regex_matched: None,
        ..up_result(site, "eu", at)
    };
    sites
        .flat_map(|site| {
            [up_result(site, "eu", at), missed_result(site, "us", at), down(site + 1_000), confirm(site)]
        })
        .collect()
}

#[tokio::test]
async fn many_new_rows_are_copied_with_equal_contents() {
    let database = database_with_trigger().await;
    let at = now();

    let few = database.insert_results(&results_of_all_kinds(0..25, at)).await;
    let kept = "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM (
        SELECT * FROM picket.check_results) AS t";
    let inserted: String = sqlx::query_scalar(kept).fetch_one(&database.pool).await.unwrap();
    sqlx::query("TRUNCATE picket.check_results").execute(&database.pool).await.unwrap();
    let copying = database.results.clone().with_copy_threshold(1);
    let rows = results_of_all_kinds(0..25, at);
    let entries: Vec<_> = rows.iter().map(|row| incoming_result(ResultContent::Check(row))).collect();
    let many = copying.insert_batch(&entries, now()).await.unwrap();
    let copied: String = sqlx::query_scalar(kept).fetch_one(&database.pool).await.unwrap();

    assert_eq!(database.list_copied_flags().await, [false, true]);
    assert_eq!(inserted, copied);
    assert_eq!((&few.new_rows, many.duplicates), (&many.new_rows, 0));
    assert_eq!(many.count_inserted(), 100);
    database.insert_results(&results_of_all_kinds(2_000..2_100, at)).await;
    assert_eq!(database.list_copied_flags().await, [false, true, true], "400 are enough");
}

#[tokio::test]
async fn many_rows_with_some_duplicates_are_all_kept_once() {
    let database = database_with_trigger().await;
    let at = now();
    database.insert_results(&[up_result(7, "eu", at), missed_result(8, "eu", at)]).await;

    let rows: Vec<_> = (0..300).map(|site| up_result(site, "eu", at)).collect();
    let written = database.insert_results(&rows).await;

    assert_eq!((written.count_inserted(), written.duplicates), (299, 1));
    assert_eq!(
        database.count_rows("SELECT count(*) FROM picket.check_results WHERE outcome = 'up'").await,
        300
    );
    // After a duplicate more are likely, so the next batches are not copied.
    for batch in 1..=4 {
        let rows: Vec<_> = (300 * batch..300 * (batch + 1)).map(|site| up_result(site, "eu", at)).collect();
        assert_eq!(database.insert_results(&rows).await.count_inserted(), 300);
    }
    let copied = database.list_copied_flags().await;
    assert_eq!(copied, [[false; 5].as_slice(), &[true]].concat());
    assert_eq!(database.count_checks().await, 1_500);
}

#[tokio::test]
async fn many_rows_with_one_refused_are_kept_without_that_one() {
    let database = database_with_regions().await;
    let at = now();
    let mut rows: Vec<_> = (0..300).map(|site| up_result(site, "eu", at)).collect();
    rows[123].scheduled_at = at.saturating_sub(std::time::Duration::from_secs(20 * 86_400));

    let written = database.insert_results(&rows).await;

    assert_eq!((written.count_inserted(), written.refused_by_database), (299, 1));
    assert_eq!(database.list_dead_letters().await.len(), 1);
}
