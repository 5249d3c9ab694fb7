//! Transactions that stay open: no transition, rollup or refresh waits for them.

use sqlx::{Connection, PgConnection};

use super::*;

/// A session that fails, instead of waiting for a lock.
struct Session(PgConnection);

impl Session {
    async fn begin(fleet: &Fleet) -> Self {
        let options = fleet.pool.connect_options();
        let mut session = Self(PgConnection::connect_with(&options).await.unwrap());
        session.execute_sql("SET lock_timeout = '2s'; BEGIN").await;
        session
    }

    async fn execute_sql(&mut self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.0).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn commit(mut self) {
        self.execute_sql("COMMIT").await;
    }
}

fn open_incident(site: i64) -> String {
    format!(
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
         VALUES ({site}, now() - interval '1 minute', now() - interval '2 minutes', '{{eu}}')"
    )
}

/// Sites whose row differs from the reports, and rows of deleted sites.
const WRONG_ROWS: &str = "
    SELECT string_agg(wrong, ', ') FROM (
        SELECT site.id || ' ' || coalesce(summary.state::text, 'no row') || ' ' || status.status AS wrong
        FROM picket.sites AS site
        JOIN report.site_status AS status ON status.site_id = site.id
        LEFT JOIN picket.site_summary AS summary ON summary.site_id = site.id
        WHERE (summary.state::text, summary.incident_id) IS DISTINCT FROM (status.status, status.incident_id)
        UNION ALL
        SELECT kept.site_id || ' ' || kept.place FROM (
            SELECT site_id, 'condition' AS place FROM picket.site_conditions
            UNION ALL SELECT site_id, 'statistics' FROM picket.site_statistics
            UNION ALL SELECT site_id, 'texts' FROM picket.site_texts) AS kept
        WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = kept.site_id)) AS found";

#[tokio::test]
async fn a_persons_open_transaction_holds_up_no_transition_rollup_or_refresh() {
    const WORK: [&str; 5] = [
        "SELECT picket.roll_up('1 hour')",
        "SELECT picket.refresh_site_summaries(100)",
        "SELECT picket.rebuild_site_summary(2)",
        "SELECT picket.rebuild_site_summary()",
        "SELECT picket.refresh_site_summaries(100)",
    ];
    for change in [
        "UPDATE picket.sites SET interval_seconds = 120",
        "UPDATE picket.sites SET enabled = false WHERE id < 3",
        "UPDATE picket.sites SET problem = 'no'",
        "UPDATE picket.sites SET name = 'renamed ' || id",
        "DELETE FROM picket.sites WHERE id = 2",
    ] {
        let fleet = Fleet::new(UP).await;
        fleet.refresh().await;
        fleet
            .execute_sql(
                "UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()) - interval '1 hour';
                 UPDATE picket.leases SET accounted_through = picket.hour_of(now())",
            )
            .await;
        let mut person = Session::begin(&fleet).await;
        person.execute_sql(change).await;

        let mut sink = Session::begin(&fleet).await;
        sink.execute_sql(&open_incident(2)).await;
        sink.commit().await;
        for statement in WORK {
            let mut coordinator = Session::begin(&fleet).await;
            coordinator.execute_sql(statement).await;
            coordinator.commit().await;
        }
        person.execute_sql("UPDATE picket.sites SET name = 'last ' || id WHERE id = 3").await;
        person.commit().await;

        fleet.execute_sql("UPDATE picket.sites SET problem = NULL, enabled = true").await;
        fleet.refresh_left_sites().await;
        assert_eq!(fleet.query_text(WRONG_ROWS).await, None, "{change}");
    }
}

#[tokio::test]
async fn a_change_that_pauses_no_site_locks_no_state() {
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    let mut person = Session::begin(&fleet).await;
    person.execute_sql("UPDATE picket.sites SET interval_seconds = 120").await;

    let mut sink = Session::begin(&fleet).await;
    sink.execute_sql(&open_incident(2)).await;
    sink.commit().await;

    // While the person's transaction is still open.
    let state = "SELECT state FROM picket.site_summary WHERE site_id = 2";
    assert_eq!(fleet.query_text(state).await.as_deref(), Some("down"));
    person.commit().await;
}

#[tokio::test]
async fn pauses_and_transitions_of_the_same_sites_in_opposite_orders_both_succeed() {
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    let (mut person, mut sink) = (Session::begin(&fleet).await, Session::begin(&fleet).await);

    person.execute_sql("UPDATE picket.sites SET enabled = false WHERE id = 1").await;
    sink.execute_sql(&open_incident(2)).await;
    person.execute_sql("UPDATE picket.sites SET enabled = false WHERE id = 2").await;
    sink.execute_sql(&open_incident(1)).await;
    person.execute_sql("DELETE FROM picket.sites WHERE id = 2").await;
    sink.commit().await;
    person.commit().await;

    fleet.refresh_left_sites().await;
    fleet
        .execute_sql(
            "SELECT picket.close_unwatched_incidents(); UPDATE picket.incidents SET closed_at = now()",
        )
        .await;
    fleet.refresh().await;
    assert_eq!(fleet.query_text(WRONG_ROWS).await, None);
    let paused = "SELECT state FROM picket.site_summary WHERE site_id = 1";
    assert_eq!(fleet.query_text(paused).await.as_deref(), Some("paused"));
}

#[tokio::test]
async fn a_region_that_is_removed_or_added_during_a_refresh_changes_the_problem_of_each_site() {
    const MARK_ALL: &str = "INSERT INTO picket.site_summaries_dirty SELECT id, true FROM picket.sites";
    const PROBLEMS: &str = "SELECT count(problem) FROM picket.sites";
    let fleet = Fleet::new(UP).await;
    fleet.execute_sql("UPDATE picket.sites SET regions = '{eu}'").await;
    fleet.refresh().await;

    // The change waits for the refresh.
    fleet.execute_sql(MARK_ALL).await;
    let mut coordinator = Session::begin(&fleet).await;
    coordinator.execute_sql("SELECT picket.refresh_site_summaries(100)").await;
    tokio::join!(fleet.execute_sql("DELETE FROM picket.regions WHERE name = 'eu'"), async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                       AND query LIKE 'DELETE FROM picket.regions%' AND datname = current_database()";
        picket_harness::eventually(Duration::from_secs(20), "a change that waits", async || {
            let waits = fleet.query_text(waiting).await;
            if waits.as_deref() == Some("1") { Ok(()) } else { Err("it does not") }
        })
        .await;
        coordinator.commit().await;
    });
    assert_eq!(fleet.query_text(PROBLEMS).await.as_deref(), Some("3"));

    // The refresh does not wait for the change.
    fleet.execute_sql(MARK_ALL).await;
    let mut person = Session::begin(&fleet).await;
    person.execute_sql("UPDATE picket.regions SET removed_at = NULL WHERE name = 'eu'").await;
    let mut coordinator = Session::begin(&fleet).await;
    coordinator.execute_sql("SELECT picket.refresh_site_summaries(100)").await;
    coordinator.commit().await;
    person.commit().await;
    assert_eq!(fleet.query_text(PROBLEMS).await.as_deref(), Some("0"));
    let later =
        "SELECT count(DISTINCT site_id) FROM picket.site_summaries_dirty WHERE statistics AND due_at > now()";
    assert_eq!(fleet.query_text(later).await.as_deref(), Some("3"));
    fleet.refresh_left_sites().await;
    assert_eq!(fleet.query_text(WRONG_ROWS).await, None);
}

#[tokio::test]
async fn sites_that_are_locked_are_read_again_after_ten_seconds() {
    let fleet = Fleet::new(UP).await;
    fleet.refresh().await;
    fleet.execute_sql("UPDATE picket.site_conditions SET state = 'problem' WHERE site_id = 2").await;
    let mut person = Session::begin(&fleet).await;
    person.execute_sql("SELECT FROM picket.sites WHERE id = 1 FOR UPDATE").await;
    person.execute_sql("SELECT FROM picket.site_conditions WHERE site_id = 2 FOR UPDATE").await;

    fleet.execute_sql("INSERT INTO picket.site_summaries_dirty SELECT id, true FROM picket.sites").await;
    fleet.refresh().await;

    let left = "SELECT string_agg(site_id || ' ' || statistics, ', ' ORDER BY site_id) FROM picket.site_summaries_dirty
                WHERE due_at BETWEEN now() + interval '1 second' AND now() + interval '10 seconds'";
    assert_eq!(fleet.query_text(left).await.as_deref(), Some("1 true, 2 false"));
    assert_eq!(housekeeping::count_waiting_summaries(&fleet.store).await.unwrap(), 0);
    person.commit().await;
    fleet.refresh_left_sites().await;
    assert_eq!(fleet.query_text(WRONG_ROWS).await, None);
}
