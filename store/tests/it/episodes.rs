//! Pages of incidents and of warnings, compared with the rows.

use std::time::Duration;

use picket_proto::Timestamp;
use picket_store::incident_pages::{EpisodeFilter, list_incidents, list_warnings};
use sqlx::AssertSqlSafe;

use crate::{new_database, wall_clock_now};

/// Ten sites, of which one is removed again, with episodes of some hours over ten days, many of which open at the same
/// time. One of each site is open.
const EPISODES: &str = "
    INSERT INTO picket.sites (url, tags)
    SELECT 'https://' || n || '.example/', ARRAY['team-' || n % 3, 'all'] FROM generate_series(1, 10) AS n;
    INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions)
    SELECT 1 + n % 10, opened_at, CASE WHEN n > 10 THEN opened_at + n % 13 * interval '1 hour' END, opened_at,
           CASE n % 3 WHEN 0 THEN '{eu}' WHEN 1 THEN '{us}' ELSE '{eu,us}' END::text[]
    FROM generate_series(1, 240) AS n
    CROSS JOIN LATERAL (SELECT now() - n % 60 * interval '4 hours' AS opened_at) AS drawn;
    INSERT INTO picket.warnings (site_id, opened_at, closed_at, first_warned_at, kind, regions)
    SELECT site_id, opened_at, closed_at, opened_at, (ARRAY['certificate', 'slow'])[1 + incident_id % 2]::picket.warning, regions
    FROM picket.incidents ORDER BY incident_id;
    DELETE FROM picket.sites WHERE id = 4";

/// A filter, and the condition on `episode` and `site` that it stands for.
fn list_filters<'a>(tags: &'a [String], from: Timestamp, to: Timestamp) -> Vec<(EpisodeFilter<'a>, String)> {
    let all = EpisodeFilter { limit: 7, ..EpisodeFilter::default() };
    let since = format!("coalesce(episode.closed_at, now()) >= '{from}'");
    let until = format!("episode.opened_at < '{to}'");
    vec![
        (all.clone(), "true".to_owned()),
        (EpisodeFilter { open: Some(true), ..all.clone() }, "episode.closed_at IS NULL".to_owned()),
        (EpisodeFilter { open: Some(false), ..all.clone() }, "episode.closed_at IS NOT NULL".to_owned()),
        (EpisodeFilter { from: Some(from), ..all.clone() }, since.clone()),
        (EpisodeFilter { to: Some(to), ..all.clone() }, until.clone()),
        (EpisodeFilter { from: Some(from), to: Some(to), ..all.clone() }, format!("{since} AND {until}")),
        (
            EpisodeFilter { from: Some(from), to: Some(from), ..all.clone() },
            format!("{since} AND episode.opened_at < '{from}'"),
        ),
        (
            EpisodeFilter { from: Some(from), open: Some(true), ..all.clone() },
            format!("{since} AND episode.closed_at IS NULL"),
        ),
        (
            EpisodeFilter { from: Some(from), region: Some("eu"), ..all.clone() },
            format!("{since} AND 'eu' = ANY (episode.regions)"),
        ),
        (EpisodeFilter { tags: Some(tags), ..all.clone() }, "site.tags && '{team-1}'".to_owned()),
        (
            EpisodeFilter { tag: Some("all"), tags: Some(tags), from: Some(from), ..all.clone() },
            format!("{since} AND site.tags @> '{{team-1,all}}'"),
        ),
        (
            EpisodeFilter { site_id: Some(4), from: Some(from), ..all },
            format!("{since} AND episode.site_id = 4"),
        ),
    ]
}

#[tokio::test]
async fn pages_of_incidents_and_warnings_have_each_row_of_the_filter_once_newest_first() {
    let database = new_database().await;
    sqlx::raw_sql(EPISODES).execute(&database.pool).await.unwrap();
    let hours_ago = |hours: u64| wall_clock_now().saturating_sub(Duration::from_secs(hours * 3_600));
    let tags = ["team-1".to_owned()];

    for (mut filter, condition) in list_filters(&tags, hours_ago(101), hours_ago(50)) {
        let expect = async |table: &str, id: &str| -> Vec<i64> {
            let sql = format!(
                "SELECT episode.{id} FROM picket.{table} AS episode JOIN picket.known_sites AS site ON site.id = episode.site_id
                 WHERE {condition} ORDER BY episode.opened_at DESC, episode.{id} DESC"
            );
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&database.pool).await.unwrap()
        };
        let (incidents, warnings) =
            (expect("incidents", "incident_id").await, expect("warnings", "warning_id").await);
        assert!(!incidents.is_empty() && !warnings.is_empty(), "{condition}");

        let mut listed = Vec::new();
        loop {
            let page = list_incidents(&database.store, &filter).await.unwrap();
            listed.extend(page.iter().map(|row| row.incident_id));
            filter.after = page.last().map(|last| (last.opened_at.into(), last.incident_id));
            if filter.after.is_none() {
                break;
            }
        }
        assert_eq!(listed, incidents, "incidents: {condition}");

        listed.clear();
        loop {
            let page = list_warnings(&database.store, &filter).await.unwrap();
            listed.extend(page.iter().map(|row| row.warning_id));
            filter.after = page.last().map(|last| (last.opened_at.into(), last.warning_id));
            if filter.after.is_none() {
                break;
            }
        }
        assert_eq!(listed, warnings, "warnings: {condition}");
    }
}
