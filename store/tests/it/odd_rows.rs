//! Rows that SQL allows and that no site can have: each is a problem of its own and stops no other.

use picket_proto::{
    CheckRequest, Shard, SiteId, Timestamp, ValidationError,
    site::{IntervalRange, SiteSpec},
};
use picket_store::{
    Error, change_feed, maintenance, regions, reports, schedules::SiteWithSchedules, site_status, sites,
};
use sqlx::PgPool;

use crate::{Database, new_database};

/// Inserts a site as a release without checks at the door would have taken it: triggers do not run.
pub(crate) async fn insert_unchecked(pool: &PgPool, columns: &str, values: &str) -> SiteId {
    let sql = format!(
        "INSERT INTO picket.sites (shard, version, {columns}) VALUES (0, pg_current_xact_id(), {values}) RETURNING id"
    );
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *transaction).await.unwrap();
    let id: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    sqlx::query("SELECT picket.reconcile_schedules(ARRAY[$1])").bind(id).execute(pool).await.unwrap();
    SiteId(id)
}

/// Columns and values of sites that SQL took, and the field that cannot be read or used.
const ODD: &[(&str, &str, &str)] = &[
    ("tags", "'{a,NULL}'", "tags"),
    ("tags", "'{{a,b},{c,d}}'", "tags"),
    ("tags", "'[5:6]={a,b}'", "tags"),
    ("regions", "'{eu,NULL}'", "regions"),
    ("regions", "'{{eu},{us}}'", "regions"),
    ("regions", "'[0:0]={eu}'", "regions"),
    ("headers", "'{\"A\": 1e400}'", "headers"),
    ("headers", "jsonb_build_object('A', (repeat('[', 200) || repeat(']', 200))::jsonb)", "headers"),
    ("headers", "jsonb_build_object('A', repeat('x', 1000000))", "headers"),
    ("headers", "'{\"A\": null}'", "headers.A"),
    ("name", "repeat('n', 1000000)", "name"),
    ("body", "repeat('b', 1000000)", "body"),
    ("regex", "repeat('r', 1000000)", "regex"),
    ("not_regex", "repeat('r', 1000000)", "not_regex"),
    ("method", "repeat('m', 1000000)", "method"),
    ("status", "repeat('1', 1000000)", "status"),
    ("ip_version", "repeat('4', 1000000)", "ip_version"),
    ("tags", "array_fill(repeat('t', 1000), '{1000}')", "tags"),
    ("interval_seconds", "2147483647", "interval_seconds"),
    ("timeout_ms", "-2147483648", "timeout_ms"),
];

async fn with_region() -> Database {
    let database = new_database().await;
    sqlx::raw_sql("INSERT INTO picket.regions (name) VALUES ('eu')").execute(&database.pool).await.unwrap();
    database
}

fn validation_problem(site: &sites::Site) -> Option<ValidationError> {
    let spec = site.spec.as_ref().map_err(Clone::clone);
    spec.and_then(|spec| spec.validate(IntervalRange::default())).err()
}

#[tokio::test]
async fn an_undecodable_row_is_a_site_with_a_problem_and_others_are_read() {
    let database = with_region().await;
    let mut odd = Vec::new();
    for (place, (column, value, field)) in ODD.iter().enumerate() {
        let (columns, values) = (format!("url, {column}"), format!("'http://odd/{place}', {value}"));
        odd.push((insert_unchecked(&database.pool, &columns, &values).await, *field));
    }
    odd.push((insert_unchecked(&database.pool, "url", "repeat('u', 2000)").await, "url"));
    let well = insert_unchecked(&database.pool, "url", "'http://well/'").await;

    let listed = sites::list_sites(&database.store).await.unwrap();
    assert_eq!(listed.len(), odd.len() + 1);
    for (id, field) in &odd {
        let site = listed.iter().find(|site| site.id == *id).unwrap();
        assert_eq!(validation_problem(site).map(|why| why.field).as_deref(), Some(*field), "{site:?}");
    }
    let found = sites::find_by_id_or_url(&database.store, &odd[0].0.to_string()).await.unwrap();
    assert!(found[0].spec.is_err());

    // The sites read at the acquisition of the shard, and the sites read as changes.
    let mut loaded: Vec<SiteWithSchedules> = Vec::new();
    let snapshot =
        change_feed::load_shards(&database.store, &[Shard(0)], |site| loaded.push(site)).await.unwrap();
    assert_eq!(loaded.len(), odd.len() + 1);
    let site = loaded.iter().find(|scheduled| scheduled.site.id == well).unwrap();
    assert_eq!((site.schedules.len(), validation_problem(&site.site)), (1, None));
    sqlx::raw_sql("UPDATE picket.sites SET max_redirects = 3").execute(&database.pool).await.unwrap();
    let mut changed = 0;
    change_feed::load_changes(&database.store, snapshot, &[Shard(0)], |_| changed += 1, |_| ())
        .await
        .unwrap();
    assert_eq!(changed, odd.len() + 1);

    // The problems can be recorded despite any other fault of the rows.
    let judged: Vec<_> = sites::list_sites(&database.store)
        .await
        .unwrap()
        .iter()
        .filter_map(|site| Some((site.id, site.updated_at, validation_problem(site)?.to_string())))
        .collect();
    sites::set_problems(&database.store, &judged).await.unwrap();
    let status = site_status::list_site_status(&database.store).await.unwrap();
    assert_eq!(status.iter().filter(|site| site.problem.is_some()).count(), odd.len());
    assert!(status.iter().all(|site| site.site.len() < 10_000), "status shows a bounded part of a name");
}

#[tokio::test]
async fn each_column_of_an_oversized_row_can_be_changed_and_is_checked_then() {
    let database = with_region().await;
    for (url, column, value) in [
        ("a", "tags", "'{a,NULL}'"),
        ("b", "tags", "'{{a},{b}}'"),
        ("c", "headers", "jsonb_build_object('A', (repeat('[', 200) || repeat(']', 200))::jsonb)"),
        ("d", "name, body", "repeat('d', 1000000), repeat('d', 1000000)"),
    ] {
        insert_unchecked(&database.pool, &format!("url, {column}"), &format!("'http://{url}/', {value}"))
            .await;
    }
    sqlx::raw_sql(
        "INSERT INTO picket.regions (name) VALUES ('us');
         INSERT INTO picket.sites (url, regions) VALUES ('http://e/', '{us}');
         DELETE FROM picket.regions WHERE name = 'us'",
    )
    .execute(&database.pool)
    .await
    .unwrap();

    let listed = sites::list_sites(&database.store).await.unwrap();
    assert_eq!(
        listed.iter().map(|site| site.spec.is_ok()).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
    let region_is_gone = listed[4].problem.clone().unwrap_or_default();
    assert!(region_is_gone.starts_with("regions: none of these is in use: us"), "{region_is_gone}");
    // An error in one column does not prevent a change of the others.
    let judged: Vec<_> =
        listed[..4].iter().map(|site| (site.id, site.updated_at, "a problem".to_owned())).collect();
    sites::set_problems(&database.store, &judged).await.unwrap();
    sqlx::raw_sql("UPDATE picket.sites SET enabled = NOT enabled").execute(&database.pool).await.unwrap();
    let refused =
        sqlx::raw_sql("UPDATE picket.sites SET tags = '{b,NULL}'").execute(&database.pool).await.unwrap_err();
    assert!(
        refused.to_string().contains("tags: '{b,NULL}' is not allowed; allowed: a list without NULL"),
        "{refused}"
    );
    assert!(regions::add_region(&database.store, &"us".parse().unwrap()).await.unwrap());
    sqlx::raw_sql("DELETE FROM picket.sites").execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn infinite_and_distant_timestamps_are_read_everywhere() {
    let database = with_region().await;
    let far = "'294276-12-31 23:59:59+00'";
    for (url, at) in
        [("a", "'infinity'"), ("b", "'-infinity'"), ("c", far), ("d", "'4713-01-01 00:00:00+00 BC'")]
    {
        let values = format!("'http://{url}/', {at}, {at}");
        insert_unchecked(&database.pool, "url, created_at, updated_at", &values).await;
    }
    let listed = sites::list_sites(&database.store).await.unwrap();
    let created: Vec<Timestamp> = listed.iter().map(|site| site.created_at).collect();
    assert_eq!(created, [Timestamp::MAX, Timestamp::MIN, Timestamp::MAX, Timestamp::MIN]);

    // A judgement made from such a reading is recorded as any other.
    let judged: Vec<_> = listed.iter().map(|site| (site.id, site.updated_at, "url: no".to_owned())).collect();
    sites::set_problems(&database.store, &judged).await.unwrap();
    assert!(sites::list_sites(&database.store).await.unwrap().iter().all(|site| site.problem.is_some()));

    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO picket.maintenance (site_id, window_from, window_to) VALUES
             (1, '-infinity', 'infinity'), (1, now(), {far});
         INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, regions)
             VALUES (1, now() - interval '1 minute', 'infinity', '-infinity', '{{eu}}'), (1, now(), NULL, {far}, '{{eu}}')"
    )))
    .execute(&database.pool)
    .await
    .unwrap();
    let windows =
        maintenance::list_windows(&database.store, maintenance::WindowFilter::default()).await.unwrap();
    assert!(windows.iter().all(|window| window.state == "now"), "{windows:?}");
    let scope = reports::ReportFilter {
        since: std::time::Duration::from_secs(60),
        ..reports::ReportFilter::default()
    };
    let incidents = reports::report_incidents(&database.store, &scope).await.unwrap();
    assert_eq!(incidents.len(), 2);
    assert_eq!(site_status::list_site_status(&database.store).await.unwrap().len(), 4);
}

#[tokio::test]
async fn oversized_values_are_refused_on_write_with_field_and_allowed_range() {
    let database = with_region().await;
    let readable = ["headers.A", "interval_seconds", "timeout_ms"];
    for (column, value, field) in ODD.iter().filter(|(.., field)| !readable.contains(field)) {
        let sql = format!("INSERT INTO picket.sites (url, {column}) VALUES ('http://x/', {value})");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&database.pool).await.unwrap_err();
        let said = refused.to_string();
        let known = said.contains(&format!("{field}: '")) && said.contains("' is not ");
        assert!(known && said.len() < 1_000, "{column} = {value}: {said}");
    }

    let large = SiteSpec { tags: vec!["t".repeat(65)], ..SiteSpec::new("http://x/") };
    let Error::Invalid(refusal) = sites::insert_site(&database.store, &large).await.unwrap_err() else {
        panic!()
    };
    assert_eq!((refusal.field.as_str(), refusal.expected.as_str()), ("tags", "at most 64 bytes each"));
    let moved = "UPDATE picket.sites SET id = DEFAULT";
    insert_unchecked(&database.pool, "url", "'http://well/'").await;
    let refused = sqlx::query(moved).execute(&database.pool).await.unwrap_err().to_string();
    assert!(refused.contains("id: '"), "{refused}");
    let shard: bool =
        sqlx::query_scalar("UPDATE picket.sites SET shard = 9999 RETURNING shard = picket.shard_of(id)")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert!(shard, "a shard that does not exist is never scheduled");
}

#[tokio::test]
async fn a_url_of_the_maximum_length_is_stored_and_its_duplicate_is_detected() {
    let database = with_region().await;
    // Text that does not compress, so that a limit of the index would show.
    let noise: String =
        sqlx::query_scalar("SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    let spec = |regex: Option<&str>| SiteSpec {
        check: CheckRequest {
            regex: regex.map(str::to_owned),
            ..CheckRequest::new(format!("http://long.example/{}", &noise[..4_096 - 20]))
        },
        ..SiteSpec::new("")
    };
    assert_eq!(spec(None).check.url.len(), 4_096);

    let id = sites::insert_site(&database.store, &spec(None)).await.unwrap();
    sites::insert_site(&database.store, &spec(Some(&noise[..4_000]))).await.unwrap();

    let double = sites::insert_site(&database.store, &spec(None)).await.unwrap_err();
    assert!(matches!(double, Error::DuplicateSite), "{double}");
    let found = sites::find_by_id_or_url(&database.store, &spec(None).check.url).await.unwrap();
    assert_eq!((found.len(), found[0].id), (2, id));
}
