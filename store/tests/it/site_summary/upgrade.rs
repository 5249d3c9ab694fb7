//! The summary of a database that has sites before it has a summary.

use picket_proto::SiteId;
use picket_store::site_list::{Direction, SiteSort, find_site_summary, list_sites_page};
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
    let counted = count_sites(&fleet.store, &SiteFilter::default(), 1).await;
    assert_eq!(counted.unwrap(), MatchCount::Exactly(1_200));
}

/// Number of sites on all pages of a list.
async fn count_listed_sites(fleet: &Fleet, sort: SiteSort) -> usize {
    let (mut number, mut cursor) = (0, None);
    loop {
        let page = list_sites_page(
            &fleet.store,
            &SiteFilter::default(),
            sort,
            Direction::Descending,
            cursor.as_deref(),
            300,
        )
        .await
        .unwrap();
        number += page.items.len();
        cursor = page.next_cursor;
        if cursor.is_none() {
            return number;
        }
    }
}

#[tokio::test]
async fn lists_are_complete_and_each_site_is_found_while_sites_wait_for_their_summary() {
    let fleet = new_earlier_fleet(
        "INSERT INTO picket.regions (name) VALUES ('eu');
         INSERT INTO picket.sites (url, tags) SELECT 'https://' || n || '.example/', '{all}' FROM generate_series(1, 1500) AS n;
         INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
         SELECT id, now(), now(), '{eu}' FROM picket.sites WHERE id BETWEEN 400 AND 450",
    )
    .await;
    fleet.store.migrate(64).await.unwrap();

    // Sites that wait are renamed, get incidents, and are locked during a refresh.
    let waiting = "CREATE TABLE waiting AS SELECT id FROM picket.sites WHERE id NOT IN (SELECT site_id FROM picket.site_summary)";
    fleet.execute_sql(waiting).await;
    fleet.execute_sql("UPDATE picket.sites SET name = 'z' || id WHERE id % 3 = 0").await;
    let mut person = fleet.pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM picket.sites WHERE id IN (SELECT id FROM waiting) FOR NO KEY UPDATE")
        .execute(&mut *person)
        .await
        .unwrap();
    fleet
        .execute_sql(
            "INSERT INTO picket.site_states (site_id) SELECT id FROM waiting WHERE id % 7 = 0 ON CONFLICT DO NOTHING;
             SELECT picket.refresh_site_summaries(2000)",
        )
        .await;

    let unlisted = fleet.query_text("SELECT min(id) FROM waiting").await.unwrap().parse().unwrap();
    for sort in SiteSort::ALL_SORTS {
        assert_eq!(count_listed_sites(&fleet, sort).await, 1_000, "{sort:?}");
    }
    let tags = ["all".to_owned()];
    let found = find_site_summary(&fleet.store, SiteId(unlisted), Some(&tags)).await.unwrap().unwrap();
    assert_eq!((found.site_id, found.state, found.days.len()), (unlisted, SiteState::Unknown, 365));
    assert_eq!((found.warnings, found.uptime_24h_pct), (vec![], None));

    person.rollback().await.unwrap();
    fleet.refresh_left_sites().await;
    for sort in SiteSort::ALL_SORTS {
        assert_eq!(count_listed_sites(&fleet, sort).await, 1_500, "{sort:?}");
    }
    let renamed = "SELECT count(*) FROM picket.site_texts WHERE sort_name = 'z' || site_id";
    assert_eq!(fleet.query_text(renamed).await.as_deref(), Some("500"));
}
