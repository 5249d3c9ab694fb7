//! The mark of a site whose regexes were accepted: it is cleared by changes and has no other
//! effect.

use picket_proto::{CheckRequest, pattern::RULES_VERSION, site::SiteSpec};
use picket_store::sites;
use sqlx::{ConnectOptions, PgPool, postgres::PgListener};

use crate::{Database, new_database, open_store};

/// A site with a regex, in a region.
async fn with_site() -> (Database, sites::Site) {
    let database = new_database().await;
    sqlx::raw_sql("INSERT INTO picket.regions (name) VALUES ('eu')").execute(&database.pool).await.unwrap();
    let check = CheckRequest { regex: Some("ok".into()), ..CheckRequest::new("http://x/") };
    sites::insert_site(&database.store, &SiteSpec { check, ..SiteSpec::new("") }).await.unwrap();
    let site = read(&database).await;
    (database, site)
}

async fn read(database: &Database) -> sites::Site {
    sites::list_sites(&database.store).await.unwrap().remove(0)
}

async fn set(database: &Database, site: &sites::Site) {
    let read = [(site.id, site.updated_at)];
    sites::set_patterns_validated(&database.store, RULES_VERSION, &read).await.unwrap();
}

/// Everything of all sites and schedules but the mark.
async fn rest(pool: &PgPool) -> String {
    sqlx::query_scalar(
        "SELECT string_agg((to_jsonb(site) - 'patterns_validated')::text, ' ') || string_agg(to_jsonb(schedule)::text, ' ')
         FROM picket.sites AS site JOIN picket.schedules AS schedule ON site_id = site.id",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn marking_a_site_as_validated_changes_no_other_column_and_notifies_no_coordinator() {
    let (database, site) = with_site().await;
    let mut listener = PgListener::connect_with(&database.pool).await.unwrap();
    listener.listen("picket_sites").await.unwrap();
    let before = rest(&database.pool).await;

    set(&database, &site).await;

    assert_eq!(read(&database).await.patterns_validated, Some(RULES_VERSION));
    // The row's version and updated_at are in it, by which changes are read and recorded.
    assert_eq!(rest(&database.pool).await, before);
    sqlx::query("SELECT pg_notify('picket_sites', 'last')").execute(&database.pool).await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "last");
}

#[tokio::test]
async fn a_change_of_a_regex_clears_the_mark_and_no_other_change_does() {
    let (database, _) = with_site().await;
    for (change, keeps) in [
        ("name = 'shop', tags = '{a}'", true),
        ("problem = 'url: no'", true),
        ("enabled = false", true),
        ("regex = 'other'", false),
        ("regex = NULL", false),
        ("not_regex = 'error'", false),
        ("not_regex = 'fatal', patterns_validated = 1", false),
    ] {
        let site = read(&database).await;
        set(&database, &site).await;
        assert!(read(&database).await.patterns_validated.is_some());
        let sql = format!("UPDATE picket.sites SET {change}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&database.pool).await.unwrap();

        let changed = read(&database).await;
        assert_eq!(changed.patterns_validated.is_some(), keeps, "{change}");
        assert_ne!(changed.updated_at, site.updated_at, "{change}");
    }
    let with_mark = "INSERT INTO picket.sites (url, regex, patterns_validated) VALUES ('http://y/', 'a(b', 1)
                     RETURNING patterns_validated";
    let mark: Option<i16> = sqlx::query_scalar(with_mark).fetch_one(&database.pool).await.unwrap();
    assert_eq!(mark, None);
}

#[tokio::test]
async fn marking_a_site_together_with_another_change_applies_that_change() {
    let (database, site) = with_site().await;
    let both = "UPDATE picket.sites SET patterns_validated = 1, interval_seconds = 30";
    sqlx::query(both).execute(&database.pool).await.unwrap();

    let changed = read(&database).await;
    assert_ne!(changed.updated_at, site.updated_at);
    let in_force = "SELECT interval_ms FROM picket.schedules WHERE valid_to IS NULL";
    let interval_ms: i32 = sqlx::query_scalar(in_force).fetch_one(&database.pool).await.unwrap();
    assert_eq!(interval_ms, 30_000);
}

#[tokio::test]
async fn a_site_that_changed_since_it_was_read_or_is_locked_is_skipped_without_waiting() {
    let (database, site) = with_site().await;
    sqlx::query("UPDATE picket.sites SET regex = 'a(b'").execute(&database.pool).await.unwrap();
    set(&database, &site).await;
    assert_eq!(read(&database).await.patterns_validated, None);

    let mut changing = database.pool.begin().await.unwrap();
    sqlx::query("UPDATE picket.sites SET name = 'shop'").execute(&mut *changing).await.unwrap();
    let site = read(&database).await;
    set(&database, &site).await;
    changing.commit().await.unwrap();
    assert_eq!(read(&database).await.patterns_validated, None);
}

#[tokio::test]
async fn the_rights_of_a_coordinator_are_enough_to_set_the_mark() {
    let (database, site) = with_site().await;
    let mut url = database.pool.connect_options().to_url_lossy();
    url.query_pairs_mut().append_pair("options[role]", "picket_coordinator");
    let coordinator = open_store(url.as_str());
    let pool = PgPool::connect(url.as_str()).await.unwrap();
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&pool).await.unwrap();
    assert_eq!(role, "picket_coordinator");

    let read_at = [(site.id, site.updated_at)];
    sites::set_patterns_validated(&coordinator, RULES_VERSION, &read_at).await.unwrap();

    assert_eq!(read(&database).await.patterns_validated, Some(RULES_VERSION));
}
