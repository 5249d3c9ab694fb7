//! Pages of the web UI over a real socket, on a fleet with results, incidents and warnings.

use std::collections::BTreeSet;

use picket_harness::markup::{Element, parse_markup};
use picket_store::api_tokens::Scope;
use reqwest::{Method, StatusCode};

use crate::support::{Answer, TestApi, send};

/// The fleet of the bench: three regions, and of every tenth site rollups and rows.
const FLEET: &str = include_str!("../../../tests/bench/src/web/fill.sql");
/// A site of the fleet with rollups, rows and an open incident.
const SITE: i64 = 7;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) async fn start_fleet() -> TestApi {
    let api = TestApi::start().await;
    // Statements of one text are one transaction, in which there is no VACUUM.
    let sql = FLEET.replace("{sites}", "40").replace("{sample}", "10").replace("VACUUM ANALYZE;", "");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&api.pool).await.unwrap();
    api
}

/// Fetches a page and parses it.
pub(crate) async fn open_page(api: &TestApi, path: &str, token: Option<&str>) -> Vec<Element> {
    let answer = api.get(path, token).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
    parse_page(path, &answer)
}

pub(crate) fn parse_page(path: &str, answer: &Answer) -> Vec<Element> {
    assert_eq!(answer.header("content-security-policy"), POLICY, "{path}");
    assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    parse_markup(&answer.text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Addresses of this host that elements refer to, without fragments.
pub(crate) fn list_links(elements: &[Element]) -> BTreeSet<String> {
    let addresses = elements.iter().flat_map(|element| ["href", "src"].map(|name| element.attribute(name)));
    let local = addresses.flatten().filter(|address| address.starts_with('/'));
    local.map(|address| address.split('#').next().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn text_of(elements: &[Element], name: &str) -> String {
    elements
        .iter()
        .find(|element| element.name == name)
        .map(|element| element.text.clone())
        .unwrap_or_default()
}

pub(crate) async fn post_form(api: &TestApi, path: &str, token: Option<&str>, body: &str) -> Answer {
    let request = api.request(Method::POST, path, token);
    send(request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned())).await
}

#[tokio::test]
async fn pages_answer_and_all_their_links_resolve() {
    let api = start_fleet().await;
    let mut pages: BTreeSet<String> = [
        "/",
        "/sites",
        "/sites/new",
        "/incidents",
        "/warnings",
        "/live",
        "/maintenance",
        "/notifications",
        "/channels",
        "/channels?kind=email",
        "/routes",
        "/routes?site=7",
        "/silences",
        "/reports",
        "/ledger",
        "/regions",
        "/settings",
        "/tokens",
        "/check",
    ]
    .map(ToOwned::to_owned)
    .into();
    for span in ["24h", "7d", "30d", "90d"] {
        pages.insert(format!("/sites/{SITE}?span={span}"));
    }
    let mut links = BTreeSet::new();
    for page in &pages {
        links.extend(list_links(&open_page(&api, page, None).await));
    }
    assert!(links.iter().any(|link| link.starts_with("/checks/7/")), "{links:?}");
    assert!(links.len() > 40, "{links:?}");
    for link in links.difference(&pages) {
        let answer = api.get(link, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{link}: {}", answer.text);
    }
}

#[tokio::test]
async fn site_page_shows_charts_regions_and_checks() {
    let api = start_fleet().await;
    let elements = open_page(&api, &format!("/sites/{SITE}?span=7d"), None).await;
    let drawings = elements.iter().filter(|element| element.attribute("role") == Some("img")).count();
    // Days, three charts over time, and the ticks of three regions.
    assert!(drawings >= 7, "{drawings}");
    let heat = elements.iter().find(|element| element.attribute("class") == Some("chart-heat")).unwrap();
    let label = heat.attribute("aria-label").unwrap();
    assert!(label.contains("checks, ") && label.contains(" ms"), "{label}");
    let ids: Vec<&str> = elements.iter().filter_map(|element| element.attribute("id")).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
}

/// The fleet's closed incidents were open nine days and half an hour ago.
const PAST_INCIDENT: &str = "now() - interval '9 days 30 minutes'";

async fn read_moment(api: &TestApi, sql: &str) -> String {
    let text = format!("SELECT to_char(({sql}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(&api.pool).await.unwrap()
}

#[tokio::test]
async fn pages_as_of_a_past_moment_show_what_was_known_then() {
    let api = start_fleet().await;
    let moment = read_moment(&api, PAST_INCIDENT).await;

    let overview = open_page(&api, &format!("/?at={moment}"), None).await;
    assert_eq!(text_of(&overview, "h1"), "2 sites were down");
    assert!(list_links(&overview).contains("/sites/27"), "{:?}", list_links(&overview));
    assert!(overview.iter().all(|element| element.attribute("data-refresh").is_none()));
    let site = api.get(&format!("/sites/{SITE}?at={moment}"), None).await;
    parse_page("a site of the past", &site);
    assert!(site.text.contains("As of <time") && site.text.contains("Then, by region"), "{}", site.text);
    assert!(!site.text.contains("Just added"), "{}", site.text);
    // Between the incidents the site was up, and the form of a browser has no zone.
    let quiet = read_moment(&api, "now() - interval '5 hours'").await;
    let between = api.get(&format!("/sites/{SITE}?at={}", &quiet[..16]), None).await;
    assert!(between.text.contains("no incident was open"), "{}", between.text);
    assert_eq!(text_of(&open_page(&api, &format!("/?at={quiet}"), None).await, "h1"), "No site was down");
    let reader = api.create_token(&[Scope::Read], Some(&["customer-7"])).await;
    let limited = open_page(&api, &format!("/?at={moment}"), Some(&reader)).await;
    assert_eq!(text_of(&limited, "h1"), "1 site was down");
    for refused in ["/?at=tomorrow", "/sites/7?at=2999-01-01T00:00:00Z"] {
        let answer = api.get(refused, Some(&reader)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
        assert!(answer.text.contains("a time in UTC such as"), "{refused}: {}", answer.text);
    }
}

#[tokio::test]
async fn site_page_marks_edits_and_names_the_end_of_the_certificate() {
    let api = start_fleet().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "UPDATE picket.sites SET interval_seconds = 30, headers = '{{\"x-key\": \"hunter2\"}}' WHERE id = {SITE}"
    )))
    .execute(&api.pool)
    .await
    .unwrap();

    let page = api.get(&format!("/sites/{SITE}"), None).await;

    let elements = parse_page("a site", &page);
    let marks = elements.iter().filter(|element| element.attribute("class") == Some("edit")).count();
    // On each of the three charts, and in the legend of each.
    assert_eq!(marks, 6, "{}", page.text);
    assert!(
        page.text.contains("interval 30 s instead of 1 min (ap-south, eu, eu-west, us-east)"),
        "{}",
        page.text
    );
    assert!(!page.text.contains("hunter2"));
    let region = elements.iter().find(|element| element.attribute("aria-labelledby") == Some("certificate"));
    assert!(region.is_some() && page.text.contains("59 days left."), "{}", page.text);
    // The account of the page is that of the API.
    let ledger = api.get(&format!("/api/v1/sites/{SITE}/ledger"), None).await.json();
    let line = format!("{} in gaps, {} unaccounted", ledger["gap"], ledger["unaccounted"]);
    let spaced = page.text.replace('\u{202f}', "");
    assert!(spaced.contains(&line), "{line}: {spaced}");
}

#[tokio::test]
async fn first_answers_stand_on_the_page_of_a_new_site_until_its_ticks_come() {
    let api = TestApi::start().await;
    let added = post_form(&api, "/sites/new", None, "url=https%3A%2F%2Fexample.com%2F&interval=1h").await;
    let site = added.header("location").to_owned();
    let number: i64 = site.trim_start_matches("/sites/").parse().unwrap();
    assert!(!api.get(&site, None).await.text.contains("First checks"));
    let answer = |url: &str, outcome: &str| {
        format!(
            "INSERT INTO picket.adhoc_results (requested_at, id, region, prober, url, outcome, http_status, total_us)
             VALUES (now(), 'first-check-of-site-{number}', 'eu', '{outcome}', '{url}', '{outcome}', 200, 12345)"
        )
    };
    for sql in [answer("https://example.com/", "up"), answer("https://other.example/", "down")] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&api.pool).await.unwrap();
    }

    let page = api.get(&site, None).await;

    parse_page(&site, &page);
    let first = page.text.split("id=\"first\"").nth(1).unwrap().split("</section>").next().unwrap();
    // What somebody else checked by the same id is not an answer about this site.
    assert!(first.contains("12.3 ms") && !first.contains("down"), "{first}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome)
         SELECT tick, site_id, region_id, 'scheduled', 'up'
         FROM picket.schedules
         CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from - interval '2 hours', NULL, now() - interval '1 hour', now()) AS tick
         WHERE site_id = {number}"
    )))
    .execute(&api.pool)
    .await
    .unwrap();
    let page = api.get(&site, None).await;
    assert!(!page.text.contains("First checks") && !page.text.contains("Just added"), "{}", page.text);
}

#[tokio::test]
async fn check_page_has_a_waterfall_and_the_other_regions() {
    let api = start_fleet().await;
    let site = open_page(&api, &format!("/sites/{SITE}"), None).await;
    let check = list_links(&site).into_iter().find(|link| link.starts_with("/checks/")).unwrap();
    let elements = open_page(&api, &check, None).await;
    assert!(elements.iter().any(|element| element.attribute("class") == Some("chart-waterfall")), "{check}");
    for missing in [
        "/checks/7/eu-west/2001-01-01T00:00:00Z",
        "/checks/7/nowhere/2026-11-20T12:00:00Z",
        "/checks/7/eu-west/x",
    ] {
        let answer = api.get(missing, None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{missing}");
        assert_eq!(text_of(&parse_page(missing, &answer), "h1"), "Not found");
    }
}

#[tokio::test]
async fn list_of_sites_is_filtered_and_sorted_and_its_pages_follow_each_other() {
    let api = start_fleet().await;
    for column in ["state", "name", "uptime_30d", "p95", "-p95"] {
        open_page(&api, &format!("/sites?sort={column}"), None).await;
    }
    let down = open_page(&api, "/sites?status=down", None).await;
    let names = |elements: &[Element]| {
        let is_site = |link: &String| link.starts_with("/sites/") && link != "/sites/new";
        list_links(elements).into_iter().filter(is_site).collect::<BTreeSet<_>>()
    };
    assert!(names(&down).contains("/sites/7"), "{:?}", names(&down));
    assert_eq!(names(&open_page(&api, "/sites?q=no-such-site", None).await).len(), 0);
    let refused = api.get("/sites?sort=size", None).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("size"), "{}", refused.text);
}

#[tokio::test]
async fn wrong_input_of_a_page_is_refused_in_the_layout_of_pages() {
    let api = TestApi::start().await;
    let site = api.add_site("https://a.example/", &[]).await;
    for (path, status, part) in [
        ("/reports?days=abc", 422, "days: 'abc' is not allowed; allowed: a whole number"),
        ("/incidents?days=-1", 422, "days: '-1' is not allowed"),
        ("/sites?q=a&q=b", 422, "q: 'a' is not allowed; allowed: one value"),
        ("/sites?q=%00", 422, "a text without NUL"),
        ("/sites/abc", 404, "id: 'abc' is not allowed; allowed: a whole number"),
        ("/incidents/abc", 404, "id: 'abc' is not allowed"),
        ("/checks/abc/eu/2026-11-20T12:00:00Z", 404, "site: 'abc' is not allowed"),
        ("/sign-in?nxt=x", 422, "did you mean"),
        ("/sign-in/oidc/callback?state=a&state=b", 422, "state: '(hidden)'"),
        ("/sign-in/oidc/callback?state=a&code=b&code=c", 422, "code: '(hidden)'"),
    ] {
        let answer = api.get(path, None).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
        let shown = text_of(&parse_page(path, &answer), "main");
        assert!(shown.contains(part), "{path}: {shown}");
    }
    for (path, body, status, part) in [
        ("/tokens", "name=a", 422, "scopes: '' is not allowed; allowed: a value"),
        ("/sign-in", "", 422, "token: '(hidden)' is not allowed"),
        ("/theme", "", 422, "theme"),
        ("/maintenance/abc/remove", "", 404, "id: 'abc'"),
        ("/sites/bulk", &format!("site={site}&action=pause"), 422, "such as 7:1042"),
    ] {
        let answer = post_form(&api, path, None, body).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
        let shown = text_of(&parse_page(path, &answer), "main");
        assert!(shown.contains(part), "{path}: {shown}");
    }
    let text =
        send(api.request(Method::POST, "/maintenance", None).header("content-type", "text/plain").body("x"))
            .await;
    assert_eq!(text.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        text_of(&parse_page("/maintenance", &text), "h1"),
        "The body has another media type than allowed"
    );
}

#[tokio::test]
async fn files_are_kept_for_ever_and_pages_are_not() {
    let api = TestApi::start().await;
    let page = open_page(&api, "/", None).await;
    let files: Vec<String> =
        list_links(&page).into_iter().filter(|link| link.starts_with("/assets/")).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let answer = api.get(&file, None).await;
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable", "{file}");
    }
    let missing = api.get("/assets/0000000000000000/picket.css", None).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn colours_are_chosen_without_javascript() {
    let api = TestApi::start().await;
    let request = api.request(Method::POST, "/theme", None).header("referer", api.url("/sites?q=a"));
    let chosen =
        send(request.header("content-type", "application/x-www-form-urlencoded").body("theme=dark")).await;
    assert_eq!((chosen.status, chosen.header("location")), (StatusCode::SEE_OTHER, "/sites?q=a"));
    let cookie = chosen.header("set-cookie").split(';').next().unwrap().to_owned();
    let page = send(api.request(Method::GET, "/", None).header("cookie", cookie)).await;
    assert_eq!(parse_page("/", &page)[0].attribute("data-theme"), Some("dark"));
}
