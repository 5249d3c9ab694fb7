//! Lists of sites by page.

use std::collections::BTreeSet;

use picket_proto::{RegionName, SiteId};
use picket_store::{
    Error,
    site_list::{
        Direction, MatchCount, SiteFilter, SiteSort, SiteState, SiteSummary, count_sites, find_site_summary,
        list_sites_page,
    },
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use sqlx::AssertSqlSafe;

use crate::{Database, new_database};

/// Sites with equal and missing keys.
async fn add_sites(database: &Database, number: u32, seed: u32) {
    let sql = format!(
        "INSERT INTO picket.sites (url, name, tags)
         SELECT 'https://{seed}-' || n || '.example/', CASE WHEN chance % 3 = 0 THEN 'name ' || chance % 5 END,
                ARRAY['team-' || n % 3, 'all']
         FROM generate_series(1, {number}) AS n
         CROSS JOIN LATERAL (SELECT picket.hash32(n || ' {seed}') AS chance) AS drawn;
         UPDATE picket.site_statistics SET uptime_24h_pct = nullif(100 - chance % 4, 97), uptime_7d_pct = 99.9999 - chance % 7 / 10000.0,
             uptime_30d_pct = chance % 11, uptime_90d_pct = nullif(chance % 2, 0), coverage_24h_pct = nullif(chance % 6, 0),
             p50_us = nullif(chance % 5, 2), p95_us = nullif(chance % 9, 1)
         FROM (SELECT id, (picket.hash32('row ' || id || ' {seed}') / 7)::integer AS chance FROM picket.sites) AS drawn
         WHERE id = site_id AND p50_us IS NULL AND uptime_30d_pct IS NULL;
         UPDATE picket.site_conditions SET state = (ARRAY['down', 'unknown', 'problem', 'up', 'paused'])[1 + site_id % 5]::picket.site_state,
             state_since = timestamptz '2026-01-01' + site_id % 7 * interval '1 second'"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&database.pool).await.unwrap();
}

fn sorts_before(sort: SiteSort, one: &SiteSummary, other: &SiteSummary) -> bool {
    let rank = |row: &SiteSummary| -> Option<f64> {
        match sort {
            SiteSort::State => {
                SiteState::ALL_STATES.iter().position(|state| *state == row.state).map(|place| place as f64)
            }
            SiteSort::Uptime24h => row.uptime_24h_pct,
            SiteSort::Uptime7d => row.uptime_7d_pct,
            SiteSort::Uptime30d => row.uptime_30d_pct,
            SiteSort::Uptime90d => row.uptime_90d_pct,
            SiteSort::Coverage => row.coverage_24h_pct,
            SiteSort::P50 => row.p50_us.map(f64::from),
            SiteSort::P95 => row.p95_us.map(f64::from),
            _ => Some(0.0),
        }
    };
    match sort {
        SiteSort::Name => (one.site.as_bytes(), one.site_id) < (other.site.as_bytes(), other.site_id),
        SiteSort::StateSince => (one.state_since, one.site_id) < (other.state_since, other.site_id),
        _ => (rank(one), one.site_id) < (rank(other), other.site_id),
    }
}

#[tokio::test]
async fn a_list_in_any_order_loses_and_repeats_no_site_while_sites_are_added() {
    let mut runner = TestRunner::new(Config::default());
    let cases = (20_u32..60, 1_u32..15, 0_u32..6);
    for sort in SiteSort::ALL_SORTS {
        for direction in [Direction::Ascending, Direction::Descending] {
            let (number, limit, added) = cases.new_tree(&mut runner).unwrap().current();
            let database = new_database().await;
            add_sites(&database, number, 1).await;

            let (mut listed, mut cursor, mut pages): (Vec<SiteSummary>, Option<String>, u32) =
                (Vec::new(), None, 0);
            loop {
                let filter = SiteFilter::default();
                let page =
                    list_sites_page(&database.store, &filter, sort, direction, cursor.as_deref(), limit)
                        .await;
                let page = page.unwrap();
                assert!(page.items.len() <= limit as usize);
                listed.extend(page.items);
                pages += 1;
                match page.next_cursor {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
                if added > 0 && pages < 4 {
                    add_sites(&database, added, pages + 1).await;
                }
            }

            let ids: BTreeSet<i64> = listed.iter().map(|row| row.site_id).collect();
            assert_eq!(ids.len(), listed.len(), "{sort:?} {direction:?}: no site is listed twice");
            let lost: Vec<i64> = (1..=i64::from(number)).filter(|id| !ids.contains(id)).collect();
            assert_eq!(lost, [0; 0], "{sort:?} {direction:?}");
            for pair in listed.windows(2) {
                let has_key = |row: &SiteSummary| match sort {
                    SiteSort::Uptime24h => row.uptime_24h_pct.is_some(),
                    SiteSort::Uptime90d => row.uptime_90d_pct.is_some(),
                    SiteSort::Coverage => row.coverage_24h_pct.is_some(),
                    SiteSort::P50 => row.p50_us.is_some(),
                    SiteSort::P95 => row.p95_us.is_some(),
                    _ => true,
                };
                let in_order = match (has_key(&pair[0]), has_key(&pair[1]), direction) {
                    (true, false, _) => true,
                    (false, true, _) => false,
                    (_, _, Direction::Ascending) => sorts_before(sort, &pair[0], &pair[1]),
                    (_, _, Direction::Descending) => sorts_before(sort, &pair[1], &pair[0]),
                };
                assert!(in_order, "{sort:?} {direction:?}: {pair:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_list_of_some_sites_in_any_order_loses_and_repeats_none_however_many_they_are() {
    let database = new_database().await;
    add_sites(&database, 400, 1).await;
    let store = &database.store;
    // A third of all, a few, and those at one end of an order by creation.
    let rare = "UPDATE picket.sites SET tags = tags || '{rare}' WHERE id IN (3, 77, 201, 398);
                UPDATE picket.sites SET tags = tags || '{old}' WHERE id <= 60";
    sqlx::raw_sql(rare).execute(&database.pool).await.unwrap();
    let all = SiteFilter::default();
    for (filter, expected) in [
        (SiteFilter { tag: Some("team-1"), ..all }, 134),
        (SiteFilter { query: Some("team-1"), ..all }, 134),
        (SiteFilter { query: Some("rare"), ..all }, 4),
        (SiteFilter { tag: Some("old"), status: &[SiteState::Up, SiteState::Down], ..all }, 24),
        (SiteFilter { query: Some("old"), ..all }, 60),
        (SiteFilter { query: Some("name"), ..all }, all_named(&database).await),
    ] {
        for sort in SiteSort::ALL_SORTS {
            for direction in [Direction::Ascending, Direction::Descending] {
                let (mut listed, mut cursor) = (Vec::new(), None::<String>);
                loop {
                    let page =
                        list_sites_page(store, &filter, sort, direction, cursor.as_deref(), 7).await.unwrap();
                    let is_full = page.items.len() == 7;
                    listed.extend(page.items.into_iter().map(|row| row.site_id));
                    cursor = page.next_cursor;
                    if cursor.is_none() {
                        break;
                    }
                    assert!(is_full, "{filter:?} {sort:?} {direction:?}");
                }
                let whole = list_sites_page(store, &filter, sort, direction, None, 1_000).await.unwrap();
                let whole: Vec<i64> = whole.items.iter().map(|row| row.site_id).collect();
                assert_eq!(listed, whole, "{filter:?} {sort:?} {direction:?}");
                assert_eq!(listed.len(), expected, "{filter:?} {sort:?} {direction:?}");
            }
        }
        let counted = count_sites(store, &filter, 100).await.unwrap();
        let number = i64::try_from(expected).unwrap();
        let is_cut = number > 100;
        assert_eq!(
            counted,
            if is_cut { MatchCount::MoreThan(100) } else { MatchCount::Exactly(number) },
            "{filter:?}"
        );
    }
}

/// Number of sites with a name.
async fn all_named(database: &Database) -> usize {
    let sql = "SELECT count(*) FROM picket.sites WHERE name IS NOT NULL";
    let number: i64 = sqlx::query_scalar(sql).fetch_one(&database.pool).await.unwrap();
    usize::try_from(number).unwrap()
}

#[tokio::test]
async fn a_cursor_of_another_order_and_limits_out_of_range_are_refused() {
    let database = new_database().await;
    add_sites(&database, 5, 1).await;
    let list = async |sort, direction, cursor: Option<String>, limit| {
        list_sites_page(&database.store, &SiteFilter::default(), sort, direction, cursor.as_deref(), limit)
            .await
    };
    let cursor = list(SiteSort::P95, Direction::Ascending, None, 2).await.unwrap().next_cursor;
    assert!(list(SiteSort::P95, Direction::Ascending, cursor.clone(), 2).await.is_ok());

    let tampered = cursor.clone().map(|text| format!("{}A", &text[..text.len() - 2]));
    for (sort, direction, cursor, limit, field) in [
        (SiteSort::P50, Direction::Ascending, cursor.clone(), 2, "cursor"),
        (SiteSort::P95, Direction::Descending, cursor.clone(), 2, "cursor"),
        (SiteSort::P95, Direction::Ascending, tampered, 2, "cursor"),
        (SiteSort::P95, Direction::Ascending, Some("x".repeat(10_000)), 2, "cursor"),
        (SiteSort::P95, Direction::Ascending, None, 0, "limit"),
        (SiteSort::P95, Direction::Ascending, None, 1_001, "limit"),
    ] {
        let refused = list(sort, direction, cursor, limit).await.unwrap_err();
        assert!(matches!(&refused, Error::Invalid(error) if error.field == field), "{refused:?}");
    }
    let long = SiteFilter { query: Some(&"x ".repeat(9)), ..SiteFilter::default() };
    let refused =
        list_sites_page(&database.store, &long, SiteSort::Name, Direction::Ascending, None, 5).await;
    assert!(matches!(refused, Err(Error::Invalid(error)) if error.field == "q"));
}

#[tokio::test]
async fn each_filter_selects_its_sites_and_a_limit_to_tags_applies_to_all() {
    let database = new_database().await;
    sqlx::raw_sql(
        r"INSERT INTO picket.regions (name) VALUES ('eu'), ('us');
          INSERT INTO picket.sites (url, name, tags, regions, enabled) VALUES
              ('https://shop.example/', 'Störung 100%', '{gold,eu-team}', '{eu}', true),
              ('https://api.example/a_b', NULL, '{gold}', '{}', true),
              ('https://blog.example/', 'Blog', '{silver}', '{us}', false),
              ('https://status.example/', 'shop status', '{}', '{us}', true)",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let (eu, gold, nothing) = ("eu".parse::<RegionName>().unwrap(), ["gold".to_owned()], []);
    let all = SiteFilter::default();

    for (filter, expected) in [
        (all, vec![1, 2, 3, 4]),
        (SiteFilter { tag: Some("gold"), ..all }, vec![1, 2]),
        (SiteFilter { region: Some(&eu), ..all }, vec![1, 2]),
        (SiteFilter { enabled: Some(false), ..all }, vec![3]),
        (SiteFilter { status: &[SiteState::Paused, SiteState::Down], ..all }, vec![3]),
        (SiteFilter { ids: Some(&[SiteId(2), SiteId(4), SiteId(9)]), ..all }, vec![2, 4]),
        (SiteFilter { query: Some("SHOP"), ..all }, vec![1, 4]),
        (SiteFilter { query: Some("shop status"), ..all }, vec![4]),
        (SiteFilter { query: Some("störung"), ..all }, vec![1]),
        (SiteFilter { query: Some("0%"), ..all }, vec![1]),
        (SiteFilter { query: Some("a_b"), ..all }, vec![2]),
        (SiteFilter { query: Some("o_"), ..all }, vec![]),
        (SiteFilter { query: Some("%"), ..all }, vec![1]),
        (SiteFilter { query: Some("silver"), ..all }, vec![3]),
        (SiteFilter { tag_limit: Some(&gold), ..all }, vec![1, 2]),
        (SiteFilter { tag_limit: Some(&gold), query: Some("shop"), ..all }, vec![1]),
        (SiteFilter { tag_limit: Some(&gold), ids: Some(&[SiteId(4)]), ..all }, vec![]),
        (SiteFilter { tag_limit: Some(&nothing), ..all }, vec![]),
    ] {
        for sort in SiteSort::ALL_SORTS {
            let page = list_sites_page(&database.store, &filter, sort, Direction::Ascending, None, 1_000)
                .await
                .unwrap();
            let found: BTreeSet<i64> = page.items.iter().map(|row| row.site_id).collect();
            assert_eq!(found, expected.iter().copied().collect(), "{sort:?} {filter:?}");
        }
        assert_eq!(
            count_sites(&database.store, &filter, 100).await.unwrap(),
            MatchCount::Exactly(expected.len() as i64),
            "{filter:?}"
        );
    }
    let beyond = find_site_summary(&database.store, SiteId(4), Some(&gold)).await.unwrap();
    let within = find_site_summary(&database.store, SiteId(2), Some(&gold)).await.unwrap();
    assert_eq!((beyond, within.map(|row| row.site_id)), (None, Some(2)));
}
