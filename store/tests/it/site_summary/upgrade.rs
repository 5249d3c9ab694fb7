//! The summary of a database that has sites before it has a summary.

use sqlx::migrate::Migrator;

use super::*;
use crate::open_store;

/// A database with the schema from before the summary.
async fn new_earlier_fleet(history: &str) -> Fleet {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let earlier =
        picket_store::MIGRATOR.iter().filter(|migration| migration.version <= 15).cloned().collect();
    Migrator::with_migrations(earlier).run(&pool).await.unwrap();
    let fleet = Fleet { store: open_store(&url), pool };
    fleet.execute_sql(history).await;
    fleet
}

#[tokio::test]
async fn rollups_after_an_upgrade_keep_the_summary_of_earlier_history_without_a_refresh() {
    let fleet = new_earlier_fleet(&HISTORY.replace("{seed}", "7").replace("96 hours", "4 hours")).await;
    fleet.roll_up_rows_until(2).await;
    fleet.store.migrate(64).await.unwrap();

    fleet.roll_up_rows_until(0).await;

    let through = "SELECT hours_through = picket.hour_of(now()) FROM picket.site_summary_state";
    assert_eq!(fleet.query_text(through).await.as_deref(), Some("true"));
    // The state depends on the time of the last refresh.
    let differences = DIFFERENCES
        .replace("CASE WHEN status.status <> 'paused' AND site.problem IS NOT NULL THEN 'problem' ELSE status.status END AS state", "'' AS state")
        .replace("status.incident_id,\n", "NULL::bigint AS incident_id,\n")
        .replace("state::text, incident_id, uptime_24h_pct", "''::text, NULL::bigint, uptime_24h_pct");
    let found: Option<Vec<String>> =
        sqlx::query_scalar(AssertSqlSafe(differences)).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(found.unwrap_or_default(), [""; 0]);
    fleet.refresh().await;
    assert_eq!(fleet.list_differences().await, [""; 0]);
}

#[tokio::test]
async fn an_upgrade_leaves_most_sites_of_a_large_fleet_to_refreshes_and_begins_with_open_incidents() {
    let fleet = new_earlier_fleet(
        "INSERT INTO picket.regions (name) VALUES ('eu');
         INSERT INTO picket.sites (url) SELECT 'https://' || n || '.example/' FROM generate_series(1, 1200) AS n;
         INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions) VALUES (1200, now(), now(), '{eu}')",
    )
    .await;
    fleet.store.migrate(64).await.unwrap();

    let listed = "SELECT (count(*), count(*) FILTER (WHERE state = 'down')) FROM picket.site_summary JOIN picket.site_texts USING (site_id)";
    assert_eq!(fleet.query_text(listed).await.as_deref(), Some("(1000,1)"));
    assert_eq!(housekeeping::count_waiting_summaries(&fleet.store).await.unwrap(), 200);
    fleet.refresh().await;
    assert_eq!(fleet.query_text(listed).await.as_deref(), Some("(1200,1)"));
    assert_eq!(count_sites(&fleet.store, &SiteFilter::default()).await.unwrap(), 1_200);
}
