//! Incidents, warnings, certificates, the ledger and reports.

use std::collections::BTreeSet;

use picket_store::api_tokens::Scope;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{REGION, TestApi};

async fn execute_sql(api: &TestApi, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&api.pool).await.unwrap();
}

fn ids(list: &Value, name: &str) -> Vec<i64> {
    list["items"].as_array().unwrap().iter().map(|item| item[name].as_i64().unwrap()).collect()
}

/// Two sites, one with the tag `shop`, each with a closed and an open incident and a warning.
async fn new_api_with_history() -> (TestApi, i64, i64) {
    let api = TestApi::start().await;
    let own = api.add_site("https://a.example/", &["shop"]).await;
    let other = api.add_site("https://b.example/", &[]).await;
    for site in [own, other] {
        execute_sql(&api, format!(
            "INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, cause, message, regions) VALUES
                 ({site}, now() - interval '5 hours', now() - interval '4 hours', now() - interval '301 minutes', 'dns', 'no such host', '{{us}}'),
                 ({site}, date_trunc('minute', now()) - interval '1 minute', NULL, date_trunc('minute', now()) - interval '3 minutes', 'connect', 'refused', '{{eu}}');
             INSERT INTO picket.warnings (site_id, opened_at, first_warned_at, kind, expires_at, regions) VALUES
                 ({site}, now() - interval '2 hours', now() - interval '2 hours', 'certificate', now() + interval '50 hours', '{{eu}}')"
        ))
        .await;
    }
    (api, own, other)
}

#[tokio::test]
async fn incidents_and_warnings_are_filtered_and_a_limited_token_sees_those_of_its_sites() {
    let (api, own, other) = new_api_with_history().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    let count = async |path: &str, token: &str| {
        let listed = api.get(path, Some(token)).await;
        assert_eq!(listed.status, 200, "{path}: {listed:?}");
        listed.json()["items"].as_array().unwrap().len()
    };

    for (path, all, seen) in [
        ("/api/v1/incidents".to_owned(), 4, 2),
        ("/api/v1/incidents?open=true".to_owned(), 2, 1),
        ("/api/v1/incidents?open=false".to_owned(), 2, 1),
        (format!("/api/v1/incidents?site={own}"), 2, 2),
        (format!("/api/v1/incidents?site={other}"), 2, 0),
        (format!("/api/v1/sites/{own}/incidents?open=true"), 1, 1),
        ("/api/v1/incidents?region=us".to_owned(), 2, 1),
        ("/api/v1/incidents?from=2100-01-01T00:00:00Z".to_owned(), 0, 0),
        ("/api/v1/incidents?to=2020-01-01T00:00:00Z".to_owned(), 0, 0),
        ("/api/v1/warnings".to_owned(), 2, 1),
        ("/api/v1/warnings?kind=certificate&open=true".to_owned(), 2, 1),
        ("/api/v1/warnings?kind=slow".to_owned(), 0, 0),
    ] {
        assert_eq!((count(&path, &admin).await, count(&path, &limited).await), (all, seen), "{path}");
    }
    api.get("/api/v1/incidents?opn=true", Some(&admin)).await.expect_problem(422);
    let warning = api.get("/api/v1/warnings", Some(&admin)).await.json()["items"][0].clone();
    assert_eq!((&warning["days_left"], &warning["kind"]), (&json!(2), &json!("certificate")));
}

#[tokio::test]
async fn an_incident_shows_each_regions_votes_its_confirmations_and_its_delay() {
    let (api, own, _) = new_api_with_history().await;
    let token = api.create_admin_token().await;
    execute_sql(&api, format!(
        "SELECT picket.ensure_partitions();
         INSERT INTO picket.regions (name) VALUES ('us');
         INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, message)
         SELECT incident.first_failure_at + after, {own}, region.id, kind::picket.kind, outcome::picket.outcome, result.cause::picket.cause, result.cause
         FROM picket.incidents AS incident,
              (VALUES ('eu', interval '0', 'scheduled', 'down', 'connect'), ('eu', interval '1 minute', 'confirm', 'down', 'connect'),
                      ('eu', interval '2 minutes', 'scheduled', 'down', 'timeout'), ('us', interval '1 minute', 'confirm', 'up', NULL),
                      ('us', interval '150 seconds', 'scheduled', 'down', 'connect')) AS result (region, after, kind, outcome, cause)
         JOIN picket.regions AS region ON region.name = result.region
         WHERE incident.site_id = {own} AND incident.closed_at IS NULL"
    ))
    .await;
    let open = api.get(&format!("/api/v1/incidents?open=true&site={own}"), Some(&token)).await.json();
    let id = open["items"][0]["incident_id"].as_i64().unwrap();

    let incident = api.get(&format!("/api/v1/incidents/{id}"), Some(&token)).await.json();

    assert_eq!(
        (&incident["seconds_to_open"], &incident["confirmation_rounds"]),
        (&json!(120.0), &json!(1)),
        "{incident:#}"
    );
    assert!(incident["seconds_to_record"].as_f64().unwrap() >= 180.0);
    let votes: Vec<_> = incident["votes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vote| {
            (
                vote["region"].clone(),
                vote["down"].clone(),
                vote["failures"].clone(),
                vote["confirmations"].clone(),
                vote["outcome"].clone(),
                vote["cause"].clone(),
            )
        })
        .collect();
    assert_eq!(
        votes,
        [
            (json!("eu"), json!(true), json!(3), json!(1), json!("down"), json!("timeout")),
            (json!("us"), json!(false), json!(0), json!(1), json!("up"), json!(null)),
        ]
    );
    let limited = api.create_token(&[Scope::Read], Some(&["blog"])).await;
    api.get(&format!("/api/v1/incidents/{id}"), Some(&limited)).await.expect_problem(404);
    api.get("/api/v1/incidents/999", Some(&token)).await.expect_problem(404);
}

/// Reads all pages of a list, adding a row after each.
async fn read_pages(api: &TestApi, path: &str, name: &str, add: String) -> Vec<i64> {
    let token = api.create_admin_token().await;
    let (mut path, mut seen) = (path.to_owned(), Vec::new());
    loop {
        let page = api.get(&path, Some(&token)).await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(ids(&page.json(), name));
        execute_sql(api, add.clone()).await;
        let Some((next, _)) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>'))
        else {
            assert!(page.json()["next_cursor"].is_null());
            return seen;
        };
        path = next.to_owned();
    }
}

#[tokio::test]
async fn pages_of_incidents_warnings_and_certificates_have_every_row_once_while_rows_are_added() {
    let api = TestApi::start().await;
    for n in 0..20 {
        let site = api.add_site(&format!("https://{n}.example/"), &[]).await;
        // Some times are equal, so that the id decides.
        let minutes = fastrand::i64(1..8);
        execute_sql(&api, format!(
            "INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions)
             VALUES ({site}, date_trunc('hour', now()) - interval '{minutes} minutes', now(), now(), '{{}}');
             INSERT INTO picket.warnings (site_id, opened_at, closed_at, first_warned_at, kind, regions)
             VALUES ({site}, date_trunc('hour', now()) - interval '{minutes} minutes', now(), now(), 'slow', '{{}}');
             INSERT INTO picket.certificates (site_id, region_id, expires_at, seen_at)
             SELECT {site}, id, date_trunc('hour', now()) + interval '{minutes} days', now() FROM picket.regions"
        ))
        .await;
    }
    let episode = |table: &str, columns: &str, values: &str| {
        format!(
            "INSERT INTO picket.{table} (site_id, opened_at, closed_at, {columns}, regions)
         SELECT 1, date_trunc('hour', now()) - random() * interval '9 minutes', now(), {values}, '{{}}'"
        )
    };

    for (path, name, add) in [
        ("/api/v1/incidents?limit=3", "incident_id", episode("incidents", "first_failure_at", "now()")),
        ("/api/v1/warnings?limit=3", "warning_id", episode("warnings", "first_warned_at, kind", "now(), 'slow'")),
        (
            "/api/v1/certificates?limit=3",
            "site_id",
            "WITH site AS (INSERT INTO picket.sites (url) VALUES ('https://' || gen_random_uuid() || '.example/') RETURNING id)
             INSERT INTO picket.certificates (site_id, region_id, expires_at, seen_at)
             SELECT site.id, region.id, now() + random() * interval '9 days', now() FROM site, picket.regions AS region"
                .to_owned(),
        ),
    ] {
        let seen = read_pages(&api, path, name, add).await;
        let distinct: BTreeSet<i64> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len(), "{path}: {seen:?}");
        assert!((1..=20).all(|id| distinct.contains(&id)), "{path}: {seen:?}");
    }
}

#[tokio::test]
async fn the_ledger_proves_its_sum_by_a_statement_and_counts_only_the_sites_of_a_limited_token() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    api.add_site("https://a.example/", &["shop"]).await;
    api.add_site("https://b.example/", &[]).await;
    execute_sql(&api, "SELECT picket.ensure_partitions(); UPDATE picket.schedules SET valid_from = now() - interval '1 hour'".to_owned()).await;

    for (token, sites) in [(&admin, 2), (&limited, 1)] {
        let now = api.store.read_clock().await.unwrap();
        let from = now.saturating_sub(std::time::Duration::from_secs(1_200));
        let ledger = api.get(&format!("/api/v1/ledger?from={from}&to={now}"), Some(token)).await.json();

        assert_eq!(
            (&ledger["expected"], &ledger["unaccounted"]),
            (&json!(20 * sites), &json!(20 * sites)),
            "{ledger:#}"
        );
        let statement =
            ledger["statement"].as_str().unwrap().replace("SELECT *", "SELECT sum(unaccounted)::bigint");
        let proved: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&api.pool).await.unwrap();
        assert_eq!(ledger["unaccounted"], proved);
    }
    let now = api.store.read_clock().await.unwrap();
    let from = now.saturating_sub(std::time::Duration::from_secs(1_200));
    let one = api.get(&format!("/api/v1/sites/1/ledger?from={from}&to={now}"), Some(&limited)).await.json();
    assert_eq!(one["expected"], 20, "{one:#}");
    api.get("/api/v1/sites/2/ledger", Some(&limited)).await.expect_problem(404);
    for query in ["from=2020-01-01T00:00:00Z", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z"] {
        api.get(&format!("/api/v1/ledger?{query}"), Some(&admin)).await.expect_problem(422);
    }
}

#[tokio::test]
async fn reports_are_json_or_csv_and_of_the_sites_of_the_token() {
    let (api, ..) = new_api_with_history().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["shop"])).await);
    execute_sql(&api, "SELECT picket.ensure_partitions();
         UPDATE picket.schedules SET valid_from = now() - interval '1 hour';
         INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, total_us)
         SELECT tick, site_id, region_id, 'scheduled', 'down', 'dns', NULL
         FROM picket.schedules, picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', now(), now() + interval '5 minutes') AS tick".to_owned()).await;

    for (report, rows, seen) in [("uptime", 2, 1), ("latency", 0, 0), ("incidents", 4, 2), ("failures", 1, 1)]
    {
        let path = format!("/api/v1/reports/{report}?since=2d");
        for (token, rows) in [(&admin, rows), (&limited, seen)] {
            let json = api.get(&path, Some(token)).await;
            assert_eq!(json.status, 200, "{json:?}");
            assert_eq!(json.json()["items"].as_array().unwrap().len(), rows, "{report}: {json:?}");
            let csv = api.get(&format!("{path}&format=csv"), Some(token)).await;
            assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
            assert_eq!(csv.text.lines().count(), rows + 1, "{csv:?}");
        }
    }
    let failures = api.get("/api/v1/reports/failures", Some(&limited)).await.json();
    assert_eq!((&failures["items"][0]["sites"], &failures["items"][0]["cause"]), (&json!(1), &json!("dns")));
    for query in ["since=401d", "since=soon", "format=xml", "region=EU"] {
        api.get(&format!("/api/v1/reports/uptime?{query}"), Some(&admin)).await.expect_problem(422);
    }
}

#[tokio::test]
async fn the_checks_of_a_site_are_paged_without_loss_and_each_is_read_with_its_phases() {
    let api = TestApi::start().await;
    let (admin, limited) =
        (api.create_admin_token().await, api.create_token(&[Scope::Read], Some(&["blog"])).await);
    let site = api.add_site("https://a.example/", &["shop"]).await;
    let insert = |ago: &str, count: i64| {
        format!(
        "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, lateness_us, dns_us, total_us)
         SELECT date_trunc('second', now()) - interval '{ago}' - n * interval '1 minute', {site}, region.id, 'scheduled', 'up', 5, 1200, 34000
         FROM generate_series(1, {count}) AS n, picket.regions AS region ON CONFLICT DO NOTHING"
    )
    };
    execute_sql(&api, "SELECT picket.ensure_partitions()".to_owned()).await;
    execute_sql(&api, insert("1 minute", 40)).await;
    let first: Vec<String> = sqlx::query_scalar(
        "SELECT picket.wire_time(scheduled_at) FROM picket.check_results ORDER BY scheduled_at DESC",
    )
    .fetch_all(&api.pool)
    .await
    .unwrap();

    let (mut path, mut seen) = (format!("/api/v1/sites/{site}/checks?limit=7"), Vec::new());
    loop {
        let page = api.get(&path, Some(&admin)).await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(
            page.json()["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["scheduled_at"].as_str().unwrap().to_owned()),
        );
        execute_sql(&api, insert("30 seconds", 1)).await;
        let Some((next, _)) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>'))
        else {
            break;
        };
        path = next.to_owned();
    }

    assert_eq!(seen, first);
    let one =
        api.get(&format!("/api/v1/sites/{site}/checks/{REGION}/{}", first[0]), Some(&admin)).await.json();
    assert_eq!(
        (&one["timing"]["dns_us"], &one["lateness_us"], &one["outcome"]),
        (&json!(1200), &json!(5), &json!("up")),
        "{one:#}"
    );
    for part in ["checks", "latency", "histogram", "uptime", "incidents", "ledger", "status"] {
        let path = format!("/api/v1/sites/{site}/{part}");
        let read = api.get(&path, Some(&admin)).await;
        assert_eq!(read.status, 200, "{path}: {read:?}");
        api.get(&path, Some(&limited)).await.expect_problem(404);
    }
    let uptime = api.get(&format!("/api/v1/sites/{site}/uptime"), Some(&admin)).await.json();
    assert!(uptime["items"].is_array() && uptime["from"].is_string(), "{uptime}");
    for (query, pointer) in [
        ("latency?buckets=501", "?buckets"),
        ("latency?from=2020-01-01T00:00:00Z", "?to"),
        ("checks?cursor=x", "?cursor"),
    ] {
        let refused = api.get(&format!("/api/v1/sites/{site}/{query}"), Some(&admin)).await;
        refused.expect_problem(422);
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{refused:?}");
    }
    api.get(&format!("/api/v1/sites/{site}/checks/{REGION}/nonsense"), Some(&admin))
        .await
        .expect_problem(404);
}
