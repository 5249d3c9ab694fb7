//! Sessions of browsers: sign-in by token and by link, cookies, and the end of a session.

use std::time::Duration;

use picket_store::{api_tokens, api_tokens::Scope, sessions};
use reqwest::{Method, StatusCode};

use crate::support::{Answer, TestApi, send};

/// The cookie that a response sets, as a browser sends it back.
fn set_cookie(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

async fn sign_in(api: &TestApi, token: &str) -> Answer {
    let form = format!("token={token}&next=%2Fsites");
    let request = api.request(Method::POST, "/sign-in", None);
    send(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await
}

async fn read_own_access(api: &TestApi, cookie: &str) -> Answer {
    send(api.request(Method::GET, "/api/v1/me", None).header("cookie", cookie)).await
}

#[tokio::test]
async fn a_token_signs_in_with_its_own_rights_and_sign_out_ends_the_session() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Read], Some(&["shop"])).await;

    let signed_in = sign_in(&api, &token).await;

    assert_eq!((signed_in.status, signed_in.header("location")), (StatusCode::SEE_OTHER, "/sites"));
    let attributes = signed_in.header("set-cookie");
    assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax"), "{attributes}");
    let cookie = set_cookie(&signed_in);
    let own = read_own_access(&api, &cookie).await.json();
    assert_eq!(
        (&own["scopes"][0], &own["tags"][0], own["scopes"][1].is_null()),
        (&"read".into(), &"shop".into(), true)
    );

    let signed_out = send(api.request(Method::POST, "/sign-out", None).header("cookie", &cookie)).await;
    assert!(signed_out.header("set-cookie").contains("Max-Age=0"), "{signed_out:?}");
    read_own_access(&api, &cookie).await.expect_problem(401);
}

#[tokio::test]
async fn the_sessions_of_a_token_end_with_it() {
    let api = TestApi::start().await;
    let (id, token) = api.create_token_until(&[Scope::Read], None, None).await;
    let admin = api.create_admin_token().await;
    let cookie = set_cookie(&sign_in(&api, &token).await);
    assert_eq!(read_own_access(&api, &cookie).await.status, StatusCode::OK);

    send(api.request(Method::DELETE, &format!("/api/v1/tokens/{id}"), Some(&admin))).await;

    read_own_access(&api, &cookie).await.expect_problem(401);
}

#[tokio::test]
async fn a_link_signs_in_once_and_a_preview_does_not_use_it_up() {
    let api = TestApi::start().await;
    api.create_admin_token().await;
    let link = sessions::create_sign_in_link(&api.store).await.unwrap();
    let path = format!("/sign-in?link={}", link.reveal());

    let preview = send(api.request(Method::HEAD, &path, None)).await;
    let first = api.get(&path, None).await;
    let second = api.get(&path, None).await;

    assert_eq!((preview.status, preview.header("set-cookie")), (StatusCode::OK, ""));
    assert_eq!((first.status, first.header("location")), (StatusCode::SEE_OTHER, "/"));
    assert_eq!(read_own_access(&api, &set_cookie(&first)).await.json()["scopes"][3], "admin");
    assert_eq!(second.status, StatusCode::UNAUTHORIZED);
    assert!(second.text.contains("used, expired or revoked"), "{second:?}");
}

#[tokio::test]
async fn a_link_expires_after_ten_minutes() {
    let api = TestApi::start().await;
    let link = sessions::create_sign_in_link(&api.store).await.unwrap();
    let end: bool = sqlx::query_scalar(
        "UPDATE picket.sign_in_links SET expires_at = expires_at - interval '10 minutes'
         RETURNING expires_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()",
    )
    .fetch_one(&api.pool)
    .await
    .unwrap();
    assert!(end, "a link lasts ten minutes");

    assert!(!sessions::redeem_sign_in_link(&api.store, link.reveal()).await.unwrap());
}

#[tokio::test]
async fn a_session_ends_after_twelve_idle_hours_and_after_seven_days() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    for (age, is_valid) in [
        ("last_used_at = clock_timestamp() - interval '11 hours 59 minutes'", true),
        ("last_used_at = clock_timestamp() - interval '12 hours 1 second'", false),
        ("expires_at = expires_at - interval '6 days 23 hours'", true),
        ("expires_at = expires_at - interval '7 days'", false),
    ] {
        let cookie = set_cookie(&sign_in(&api, &token).await);
        let secret = cookie.split_once('=').unwrap().1;
        sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE picket.sessions SET {age}")))
            .execute(&api.pool)
            .await
            .unwrap();

        let found = sessions::find_session(&api.store, secret).await.unwrap();

        assert_eq!(found.is_some(), is_valid, "{age}");
        sqlx::query("DELETE FROM picket.sessions").execute(&api.pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_page_that_refreshes_itself_does_not_renew_the_session_and_its_reader_does() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let cookie = set_cookie(&sign_in(&api, &token).await);
    let is_idle = async || {
        let idle = "SELECT last_used_at < clock_timestamp() - interval '1 hour' FROM picket.sessions";
        sqlx::query_scalar::<_, bool>(idle).fetch_one(&api.pool).await.unwrap()
    };
    let request = |path: &str| api.request(Method::GET, path, None).header("cookie", &cookie);
    sqlx::query("UPDATE picket.sessions SET last_used_at = last_used_at - interval '2 hours'")
        .execute(&api.pool)
        .await
        .unwrap();

    for _ in 0..2 {
        let refreshed = send(request("/").header("x-picket-background", "1")).await;
        assert_eq!(refreshed.status, StatusCode::OK, "{}", refreshed.text);
    }
    let mut stream = request("/api/v1/live").header("accept", "text/event-stream").send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    assert!(is_idle().await);

    // The rights are still remembered from the requests before.
    assert_eq!(send(request("/")).await.status, StatusCode::OK);
    assert!(!is_idle().await);
}

#[tokio::test]
async fn an_ended_session_does_not_lock_a_browser_out_of_the_open_mode_and_its_cookie_is_removed() {
    let api = TestApi::start().await;

    for path in ["/api/v1/me", "/"] {
        let stale = send(api.request(Method::GET, path, None).header("cookie", "picket=pks_gone")).await;
        assert_eq!(stale.status, StatusCode::OK, "{stale:?}");
        let removal = stale.header("set-cookie");
        assert!(removal.starts_with("picket=;") && removal.contains("Max-Age=0"), "{removal}");
    }
    // A link that is followed with the old cookie leaves the new one in place.
    let link = sessions::create_sign_in_link(&api.store).await.unwrap();
    let path = format!("/sign-in?link={}", link.reveal());
    let signed_in = send(api.request(Method::GET, &path, None).header("cookie", "picket=pks_gone")).await;
    assert_eq!(signed_in.headers.get_all("set-cookie").iter().count(), 1, "{signed_in:?}");
    let valid = read_own_access(&api, &set_cookie(&signed_in)).await;
    assert_eq!((valid.status, valid.header("set-cookie")), (StatusCode::OK, ""));

    api.create_admin_token().await;
    picket_harness::eventually(crate::support::TEST_TIMEOUT, "the API to close", async || {
        match read_own_access(&api, "picket=pks_gone").await.status {
            StatusCode::UNAUTHORIZED => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_use_is_recorded_at_most_once_a_minute() {
    let api = TestApi::start().await;
    let (id, _) = api.create_token_until(&[Scope::Read], None, None).await;
    let last_use = async || api_tokens::list_tokens(&api.store, true).await.unwrap()[0].last_used_at;

    api_tokens::record_token_use(&api.store, id).await.unwrap();
    let first = last_use().await.unwrap();
    api_tokens::record_token_use(&api.store, id).await.unwrap();
    let second = last_use().await.unwrap();
    sqlx::query("UPDATE picket.api_tokens SET last_used_at = last_used_at - interval '61 seconds'")
        .execute(&api.pool)
        .await
        .unwrap();
    api_tokens::record_token_use(&api.store, id).await.unwrap();
    let third = last_use().await.unwrap();

    assert_eq!(first, second);
    assert!(third >= first.saturating_sub(Duration::from_secs(1)));
}

#[tokio::test]
async fn ten_attempts_to_sign_in_a_minute_are_allowed() {
    let api = TestApi::start().await;
    api.create_admin_token().await;
    for _ in 0..10 {
        assert_eq!(sign_in(&api, "pkt_wrong").await.status, StatusCode::UNAUTHORIZED);
    }

    let refused = sign_in(&api, "pkt_wrong").await;

    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text.contains("at most 10 attempts"), "{refused:?}");
}

#[tokio::test]
async fn a_change_by_another_website_with_the_cookie_of_a_session_is_refused() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let cookie = set_cookie(&sign_in(&api, &token).await);
    let change = || api.request(Method::PUT, "/api/v1/regions/us", None).header("cookie", &cookie);

    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        send(change().header(name, value)).await.expect_problem(403);
    }
    let own = send(change().header("origin", format!("http://{}", api.address))).await;

    assert_eq!(own.status, StatusCode::CREATED, "{own:?}");
    assert!(api.metric("picket_api_refusals_total{reason=\"cross_site\"}") >= 2.0);
}

#[tokio::test]
async fn cookies_behind_a_proxy_with_https_are_secure_and_bound_to_the_host() {
    let config = picket_api::Config {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        public_url: Some("https://picket.example.com".parse().unwrap()),
        ..crate::support::test_config()
    };
    let api = TestApi::start_with(config).await;
    let token = api.create_admin_token().await;

    let request = api.request(Method::POST, "/sign-in", None);
    let signed_in = send(
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("host", "picket.example.com")
            .header("x-forwarded-for", "198.51.100.7")
            .header("x-forwarded-proto", "https")
            .body(format!("token={token}")),
    )
    .await;

    let cookie = signed_in.header("set-cookie");
    assert!(cookie.starts_with("__Host-picket=pks_") && cookie.contains("Secure"), "{cookie}");
}
