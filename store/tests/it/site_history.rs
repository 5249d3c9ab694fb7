//! The history of one site and the overview of all, compared with the rows and the reports.

use std::time::Duration;

use picket_proto::{CheckKind, Outcome, RegionName, SiteId};
use picket_store::{
    Error,
    certificates::{list_certificates, list_site_certificates},
    housekeeping,
    incident_pages::{EpisodeFilter, list_incidents},
    ledger::{LedgerFilter, LedgerRow, list_by_region},
    moments::{MomentCounts, count_sites_at, list_regions_at},
    regions::list_region_overview,
    site_counts::count_states,
    site_history::{
        ChecksFilter, Span, find_check, list_checks_page, list_latency, list_schedule_changes, load_heat_map,
        require_site, sum_ticks,
    },
    site_status::{list_recent_checks, list_schedules},
};

use crate::{rollups::World, wall_clock_now};

const SITE: SiteId = SiteId(1);

async fn new_world() -> World {
    let world = World::new().await;
    world.insert_rows().await;
    world
        .execute_sql(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, total_us)
             SELECT scheduled_at, site_id, region_id, 'confirm', 'up', 7000 FROM picket.check_results WHERE outcome = 'down'",
        )
        .await;
    world.close_ledger_until(1, 0).await;
    world.roll_up().await;
    world
}

fn last_hours(hours: u64) -> Span {
    let now = wall_clock_now();
    Span::new(now.saturating_sub(Duration::from_secs(hours * 3_600)), now).unwrap()
}

#[tokio::test]
async fn the_pages_of_checks_have_each_row_once_newest_first() {
    let world = new_world().await;
    let us: RegionName = "us".parse().unwrap();
    for (filter, condition) in [
        (ChecksFilter::default(), "true"),
        (ChecksFilter { region: Some(&us), ..ChecksFilter::default() }, "region = 'us'"),
        (ChecksFilter { outcome: Some(Outcome::Down), ..ChecksFilter::default() }, "outcome = 'down'"),
        (ChecksFilter { kind: Some(CheckKind::Confirm), ..ChecksFilter::default() }, "kind = 'confirm'"),
    ] {
        let (mut rows, mut cursor) = (Vec::new(), None);
        let span = last_hours(5);
        loop {
            let page =
                list_checks_page(&world.store, SITE, span, filter, cursor.as_deref(), 17).await.unwrap();
            rows.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let listed: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {} {}", row.scheduled_at.0.as_micros(), row.region, row.kind))
            .collect();
        let expected = world
            .query_text(&format!(
                "SELECT string_agg(picket.micros(scheduled_at) || ' ' || region || ' ' || kind, ','
                                   ORDER BY scheduled_at DESC, region DESC, kind DESC)
                 FROM report.checks WHERE site_id = 1 AND {condition}"
            ))
            .await;
        assert!(listed.len() > 17, "{condition}");
        assert_eq!(listed.join(","), expected, "{condition}");
    }

    let page =
        list_checks_page(&world.store, SITE, last_hours(5), ChecksFilter::default(), None, 1).await.unwrap();
    let row = &page.items[0];
    let region: RegionName = row.region.parse().unwrap();
    let kind = row.kind.parse().unwrap();
    let found = find_check(&world.store, SITE, &region, row.scheduled_at.0, kind).await.unwrap();
    assert_eq!(found.as_ref(), Some(row));
    let elsewhere = find_check(&world.store, SiteId(2), &region, row.scheduled_at.0, kind).await.unwrap();
    assert_eq!(elsewhere, None);
}

#[tokio::test]
async fn sums_percentiles_and_heat_map_of_a_span_count_the_rows_of_the_reports() {
    let world = new_world().await;
    let span = last_hours(30);

    let sums = sum_ticks(&world.store, SITE, span).await.unwrap();
    let text: Vec<String> = sums
        .iter()
        .map(|sum| format!("({},{},{},{},{})", sum.region, sum.checks, sum.up, sum.down, sum.missed))
        .collect();
    let expected = world
        .query_text(
            "SELECT string_agg((region, count, up, down, missed)::text, ' ' ORDER BY region) FROM (
                 SELECT region, count(*), count(*) FILTER (WHERE outcome = 'up') AS up,
                        count(*) FILTER (WHERE outcome = 'down') AS down, count(*) FILTER (WHERE outcome = 'missed') AS missed
                 FROM report.checks WHERE site_id = 1 AND kind = 'scheduled' GROUP BY region) AS t",
        )
        .await;
    assert_eq!(text.join(" "), expected);

    let up: i64 = sums.iter().map(|sum| sum.up).sum();
    for buckets in [2, 7, 500] {
        let series = list_latency(&world.store, SITE, None, span, buckets).await.unwrap();
        let parts: std::collections::BTreeSet<_> = series.iter().map(|bucket| bucket.from).collect();
        assert!(!parts.is_empty() && parts.len() <= buckets as usize, "{} of {buckets}", parts.len());
        assert_eq!(series.iter().map(|bucket| bucket.checks).sum::<i64>(), up);
        assert!(series.iter().all(|bucket| bucket.p50_us <= bucket.p95_us && bucket.p95_us <= bucket.p99_us));
        assert!(
            series.iter().all(|bucket| bucket.dns_us == Some(1_000.0) && bucket.tls_us.is_none()),
            "{series:?}"
        );

        let columns = load_heat_map(&world.store, SITE, None, span, buckets).await.unwrap();
        assert!(columns.len() <= buckets as usize);
        let counted: u32 = columns.iter().flat_map(|column| &column.counts).map(|(_, count)| count).sum();
        assert_eq!(i64::from(counted), up);
    }
    // A short span is read from rows and exact.
    let short = last_hours(2);
    let series = list_latency(&world.store, SITE, None, short, 1).await.unwrap();
    let slowest = world
        .query_text(
            "SELECT max(p) FROM (SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY total_us) AS p
             FROM picket.check_results WHERE site_id = 1 AND kind = 'scheduled' AND outcome = 'up'
               AND scheduled_at > now() - interval '2 hours' GROUP BY region_id) AS t",
        )
        .await;
    assert_eq!(
        series.iter().filter_map(|bucket| bucket.p99_us).max().map(|us| us.to_string()),
        Some(slowest)
    );

    for refused in [0, 501] {
        let error = list_latency(&world.store, SITE, None, span, refused).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(error) if error.field == "buckets"), "{error:?}");
    }
    let now = wall_clock_now();
    for from in [now, now.saturating_sub(Duration::from_secs(401 * 86_400))] {
        assert_eq!(Span::new(from, now).unwrap_err().field, "to");
    }
}

#[tokio::test]
async fn the_pages_of_certificates_have_each_site_of_the_report_once() {
    let world = new_world().await;
    // Regions with different certificates, of which some are old and some are not rolled up yet.
    world
        .execute_sql(
            "INSERT INTO picket.sites (url, tags)
             SELECT 'https://' || n || '.example/', CASE n % 2 WHEN 0 THEN '{even}' ELSE '{}' END::text[] FROM generate_series(1, 60) AS n;
             UPDATE picket.rollup_state SET rolled_through = now() - interval '20 minutes';
             UPDATE picket.schedules SET valid_from = now() - interval '10 minutes' WHERE valid_to IS NULL AND site_id > 10;
             INSERT INTO picket.certificates (site_id, region_id, expires_at, seen_at)
             SELECT site_id, region_id, date_trunc('hour', now()) + chance % 20 * interval '1 day' + interval '90 minutes',
                    now() - CASE WHEN chance % 7 = 0 THEN interval '3 days' ELSE interval '1 hour' END
             FROM picket.schedules CROSS JOIN LATERAL (SELECT picket.hash32(site_id || ' ' || region_id) AS chance) AS drawn
             WHERE valid_to IS NULL AND site_id > 10 AND chance % 3 > 0;
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, tls_expires_at)
             SELECT tick, site_id, region_id, 'scheduled', 'up',
                    date_trunc('hour', now()) + chance % 20 * interval '1 day' + interval '90 minutes'
             FROM picket.schedules CROSS JOIN LATERAL (SELECT picket.hash32(site_id || ' ' || region_id) AS chance) AS drawn
             CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), now() - interval '3 minutes', now()) AS tick
             WHERE valid_to IS NULL AND site_id > 10 AND chance % 3 = 0 ON CONFLICT DO NOTHING",
        )
        .await;

    let even = ["even".to_owned()];
    for (tags, days, condition) in [
        (None, None, "true"),
        (Some(even.as_slice()), None, "tags && '{even}'"),
        (None, Some(7), "days_left <= 7"),
        (None, Some(-1), "days_left <= -1"),
        (None, Some(i32::MAX), "true"),
        (None, Some(i32::MIN), "false"),
    ] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = list_certificates(&world.store, tags, days, after, 7).await.unwrap();
            listed
                .extend(page.iter().map(|row| {
                    format!("{} {} {}", row.site_id, row.expires_at.0.as_micros(), row.days_left)
                }));
            after = page.last().map(|last| (last.expires_at.into(), last.site_id));
            if after.is_none() {
                break;
            }
        }
        let expected = world
            .query_text(&format!(
                "coalesce((SELECT string_agg(site_id || ' ' || picket.micros(expires_at) || ' ' || days_left, ','
                                             ORDER BY expires_at, site_id)
                           FROM report.certificates JOIN picket.sites ON id = site_id WHERE {condition}), '')"
            ))
            .await;
        assert_eq!(listed.join(","), expected, "{condition}");
        assert!(listed.len() > 20 || days.is_some(), "{condition}: {}", listed.len());
    }
}

#[tokio::test]
async fn incidents_edits_and_certificate_of_a_site_and_the_overview_of_all() {
    let world = new_world().await;
    world
        .execute_sql(
            "INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions)
             SELECT 1, now() - n * interval '1 hour', now() - n * interval '1 hour', now(), '{eu}' FROM generate_series(1, 7) AS n;
             INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions) VALUES (2, now(), now(), '{eu}');
             INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions WHERE name = 'us';
             UPDATE picket.sites SET interval_seconds = 30 WHERE id = 1",
        )
        .await;
    while housekeeping::refresh_site_summaries(&world.store, wall_clock_now(), 500).await.unwrap() {}

    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let filter = EpisodeFilter { site_id: Some(SITE.0), after, limit: 3, ..EpisodeFilter::default() };
        let page = list_incidents(&world.store, &filter).await.unwrap();
        ids.extend(page.iter().map(|incident| incident.incident_id));
        after = page.last().map(|last| (last.opened_at.into(), last.incident_id));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
    let changes = list_schedule_changes(&world.store, SITE, last_hours(5)).await.unwrap();
    let begun: Vec<i32> =
        changes.iter().filter(|change| change.is_begin).map(|change| change.interval_ms).collect();
    assert_eq!((changes.len(), begun), (6, vec![30_000, 30_000, 60_000, 60_000]));
    let certificates = list_certificates(&world.store, None, None, None, 10).await.unwrap();
    let seen = certificates.iter().find(|certificate| certificate.site_id == SITE.0);
    assert_eq!(seen.map(|certificate| certificate.days_left), Some(8));
    let by_region = list_site_certificates(&world.store, SITE).await.unwrap();
    let newest =
        "SELECT max(scheduled_at) FROM report.checks WHERE site_id = 1 AND kind = 'scheduled' AND region = ";
    for (certificate, region) in by_region.iter().zip(["eu", "us"]) {
        assert_eq!(certificate.region, region);
        assert_eq!(Some(certificate.expires_at), seen.map(|certificate| certificate.expires_at));
        let expected = world.query_text(&format!("picket.wire_time(({newest} '{region}'))")).await;
        assert_eq!(certificate.seen_at.0, expected.parse().unwrap(), "{region}");
    }
    assert_eq!(by_region.len(), 2);

    let sales = ["sales".to_owned()];
    require_site(&world.store, SITE, Some(&sales)).await.unwrap();
    let beyond = require_site(&world.store, SiteId(3), Some(&sales)).await.unwrap_err();
    assert!(matches!(beyond, Error::SiteNotFound(SiteId(3))), "{beyond:?}");

    let all = count_states(&world.store, None).await.unwrap();
    let limited = count_states(&world.store, Some(&sales)).await.unwrap();
    assert_eq!((all.down, all.down + all.unknown + all.up + all.problem + all.paused), (1, 3));
    assert_eq!(limited.down + limited.unknown + limited.up + limited.problem + limited.paused, 2);
    let health = list_region_overview(&world.store, None).await.unwrap();
    let silent: Vec<&str> = health
        .iter()
        .filter(|region| region.silent_since.is_some())
        .map(|region| region.name.as_str())
        .collect();
    assert_eq!((health.len(), silent), (2, vec!["us"]));
    let none = list_checks_page(&world.store, SITE, last_hours(5), ChecksFilter::default(), Some("e30"), 3)
        .await
        .unwrap_err();
    assert!(matches!(&none, Error::Invalid(error) if error.field == "cursor"), "{none:?}");
}

#[tokio::test]
async fn the_ledger_of_a_site_is_its_part_of_the_ledger_of_all() {
    let world = new_world().await;
    world
        .execute_sql(
            "DELETE FROM picket.check_results WHERE site_id = 1 AND picket.hash32(scheduled_at::text) % 7 = 0;
             UPDATE picket.sites SET interval_seconds = 30 WHERE id = 1;
             INSERT INTO picket.gaps (shard, gap_from, gap_to)
             SELECT shard, now() - interval '100 minutes', now() - interval '70 minutes' FROM picket.sites WHERE id = 1;
             INSERT INTO picket.gaps (shard, gap_from, gap_to)
             SELECT shard, now() - interval '80 minutes', now() - interval '61 minutes' FROM picket.sites WHERE id = 1",
        )
        .await;
    let now = wall_clock_now();
    // The filter by tags reads the function of all sites.
    let sales = ["sales".to_owned()];
    let mut sum = LedgerRow::default();
    for (from, to) in [(300, 0), (95, 75), (61, 1), (17, 16), (600, 400)] {
        let ago = |minutes: u64| now.saturating_sub(Duration::from_secs(minutes * 60));
        let read = async |tags| {
            let filter = LedgerFilter { tags, site: Some(SITE) };
            let rows = list_by_region(&world.store, ago(from), ago(to), filter).await.unwrap();
            // Rows of one site are sums over it alone.
            rows.into_iter().map(|row| LedgerRow { site_id: None, ..row }).collect::<Vec<_>>()
        };
        let of_site = read(None).await;
        assert_eq!(of_site, read(Some(sales.as_slice())).await, "{from} to {to} minutes ago");
        if let Some(row) = of_site.first().filter(|_| from == 300) {
            sum = row.clone();
        }
    }
    assert!(sum.up > 0 && sum.down > 0 && sum.missed > 0 && sum.gap > 0 && sum.unaccounted > 0, "{sum:?}");
}

#[tokio::test]
async fn a_past_moment_has_the_schedules_checks_and_incidents_of_its_time() {
    let world = new_world().await;
    world
        .execute_sql(
            "INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions) VALUES
                 (1, now() - interval '90 minutes', now() - interval '30 minutes', now() - interval '91 minutes', '{eu}'),
                 (3, now() - interval '90 minutes', NULL, now() - interval '91 minutes', '{eu}');
             DELETE FROM picket.sites WHERE id = 2;
             UPDATE picket.sites SET regions = '{eu}', interval_seconds = 30 WHERE id = 1",
        )
        .await;
    let ago = |minutes: u64| wall_clock_now().saturating_sub(Duration::from_secs(minutes * 60));
    let sales = ["sales".to_owned()];

    let hour_ago = count_sites_at(&world.store, None, ago(60)).await.unwrap();
    assert_eq!(hour_ago, MomentCounts { scheduled: 3, down: 2, warned: 0 });
    let limited = count_sites_at(&world.store, Some(&sales), ago(60)).await.unwrap();
    assert_eq!(limited, MomentCounts { scheduled: 2, down: 1, warned: 0 });
    let now = count_sites_at(&world.store, None, ago(0)).await.unwrap();
    assert_eq!(now, MomentCounts { scheduled: 2, down: 1, warned: 0 });
    let regions = |minutes| list_regions_at(&world.store, None, ago(minutes));
    assert_eq!(regions(60).await.unwrap(), [("eu".to_owned(), 3), ("us".to_owned(), 3)]);
    assert_eq!(regions(0).await.unwrap(), [("eu".to_owned(), 2), ("us".to_owned(), 1)]);

    let names = async |at| {
        let schedules = list_schedules(&world.store, SITE, at).await.unwrap();
        schedules.into_iter().map(|schedule| (schedule.region, schedule.interval_ms)).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, [("eu".to_owned(), 30_000)]);
    assert_eq!(names(Some(ago(60))).await, [("eu".to_owned(), 60_000), ("us".to_owned(), 60_000)]);
    let checks = list_recent_checks(&world.store, SITE, 5, Some(ago(60))).await.unwrap();
    assert_eq!(checks.len(), 10);
    for check in &checks {
        assert!(check.scheduled_at <= ago(60) && check.scheduled_at >= ago(67), "{check:?}");
    }
}
