//! Tokens, and the open mode on loopback.

use std::time::Duration;

use picket_harness::eventually;
use picket_runtime::clock::wall_clock_now;
use picket_store::{api_tokens, api_tokens::Scope};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{TEST_TIMEOUT, TestApi, send, start_part, test_config};

#[tokio::test]
async fn the_api_is_open_on_loopback_until_a_token_exists_and_stays_closed_after_its_end() {
    let api = TestApi::start().await;

    let open = api.get("/api/v1/me", None).await;
    assert_eq!(open.json()["open"], true, "{open:?}");

    let (id, token) = api.create_token_until(&[Scope::Read], None, None).await;
    eventually(TEST_TIMEOUT, "the API to close", async || match api.get("/api/v1/me", None).await.status {
        StatusCode::UNAUTHORIZED => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.json()["open"], false);

    api_tokens::revoke_token(&api.store, id).await.unwrap();
    eventually(TEST_TIMEOUT, "the token to be refused", async || {
        match api.get("/api/v1/me", Some(&token)).await.status {
            StatusCode::UNAUTHORIZED => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let refused = api.get("/api/v1/me", None).await;
    assert!(refused.expect_problem(401).contains("Bearer pkt_"));
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"picket\"");
}

#[tokio::test]
async fn a_website_reaches_nothing_of_an_open_api() {
    let api = TestApi::start().await;

    for (name, value) in [
        ("host", "rebound.example:8088"),
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("cf-connecting-ip", "198.51.100.7"),
    ] {
        let answer = send(api.request(Method::GET, "/api/v1/regions", None).header(name, value)).await;
        answer.expect_problem(401);
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let change = api.request(Method::PUT, "/api/v1/regions/us", None).header("sec-fetch-site", "cross-site");
    assert!(send(change).await.expect_problem(403).contains("another website"));
    assert_eq!(api.get("/api/v1/regions", None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_api_with_a_public_url_is_never_open() {
    let config = picket_api::Config {
        public_url: Some("https://picket.example.com".parse().unwrap()),
        ..test_config()
    };
    let api = TestApi::start_with(config).await;

    api.get("/api/v1/me", None).await.expect_problem(401);
}

#[tokio::test]
async fn a_revocation_takes_effect_at_once_here_and_within_seconds_in_other_processes() {
    let api = TestApi::start().await;
    let nats = picket_harness::servers::shared_nats().await;
    let (other, _running, _) = start_part(test_config(), &nats.url(), &api.database_url).await;
    let admin = api.create_admin_token().await;
    let (id, token) = api.create_token_until(&[Scope::Read], None, None).await;
    let ask_other = || api.client.get(format!("http://{other}/api/v1/me")).bearer_auth(&token);
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.status, StatusCode::OK);
    assert_eq!(send(ask_other()).await.status, StatusCode::OK);

    let revoked = send(api.request(Method::DELETE, &format!("/api/v1/tokens/{id}"), Some(&admin))).await;

    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    api.get("/api/v1/me", Some(&token)).await.expect_problem(401);
    eventually(Duration::from_secs(10), "the other process to refuse the token", async || {
        match send(ask_other()).await.status {
            StatusCode::UNAUTHORIZED => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let again = send(api.request(Method::DELETE, &format!("/api/v1/tokens/{id}"), Some(&admin))).await;
    assert!(again.expect_problem(404).contains("no valid token"));
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let api = TestApi::start().await;
    let soon = wall_clock_now().saturating_add(Duration::from_secs(2));
    let (_, token) = api.create_token_until(&[Scope::Read], None, Some(soon)).await;

    eventually(TEST_TIMEOUT, "the token to expire", async || {
        match api.get("/api/v1/me", Some(&token)).await.status {
            StatusCode::UNAUTHORIZED => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_is_created_once_with_its_secret_and_listed_without_it() {
    let api = TestApi::start().await;
    let admin = Some(api.create_admin_token().await);
    let fields = json!({"name": "ci", "scopes": ["write", "read"], "tags": ["shop"]});

    let created = api.send_json(Method::POST, "/api/v1/tokens", admin.as_deref(), &fields).await;

    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let secret = created.json()["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("pkt_") && secret.len() == 36, "{secret}");
    let own = api.get("/api/v1/me", Some(&secret)).await.json();
    assert_eq!(own, json!({"name": "ci", "scopes": ["read", "write"], "tags": ["shop"], "open": false}));
    let list = api.get("/api/v1/tokens", admin.as_deref()).await;
    assert!(!list.text.contains(&secret) && list.json()["items"][0]["name"] == "ci", "{list:?}");
    assert!(list.json()["items"][0]["last_used_at"].is_string(), "{list:?}");
    let stored: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT secret_hash FROM picket.api_tokens").fetch_all(&api.pool).await.unwrap();
    assert!(stored.iter().all(|hash| hash.len() == 32));

    let twice = api.send_json(Method::POST, "/api/v1/tokens", admin.as_deref(), &fields).await;
    assert!(twice.expect_problem(409).contains("'ci'"));
}

#[tokio::test]
async fn the_name_of_an_expired_or_revoked_token_may_be_used_again_and_both_remain_listed() {
    let api = TestApi::start().await;
    let admin = Some(api.create_admin_token().await);
    let create = async || {
        let fields = json!({"name": "ci", "scopes": ["read"]});
        let created = api.send_json(Method::POST, "/api/v1/tokens", admin.as_deref(), &fields).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
        created.json()["id"].as_i64().unwrap()
    };

    let expired = create().await;
    sqlx::query("UPDATE picket.api_tokens SET expires_at = clock_timestamp() WHERE token_id = $1")
        .bind(expired)
        .execute(&api.pool)
        .await
        .unwrap();
    let revoked = create().await;
    let path = format!("/api/v1/tokens/{revoked}");
    let revocation = send(api.request(Method::DELETE, &path, admin.as_deref())).await;
    assert_eq!(revocation.status, StatusCode::NO_CONTENT);
    let valid = create().await;

    let listed = api.get("/api/v1/tokens?all=true", admin.as_deref()).await.json();
    let mut states: Vec<_> = listed["items"].as_array().unwrap().iter().collect();
    states.retain(|token| token["name"] == "ci");
    let states: Vec<_> =
        states.iter().map(|token| (&token["id"], token["state"].as_str().unwrap())).collect();
    assert_eq!(
        states,
        [(&json!(valid), "valid"), (&json!(revoked), "revoked"), (&json!(expired), "expired")]
    );
    let twice = json!({"name": "ci", "scopes": ["read"]});
    api.send_json(Method::POST, "/api/v1/tokens", admin.as_deref(), &twice).await.expect_problem(409);
}

#[tokio::test]
async fn a_token_with_fields_that_are_not_allowed_is_refused_by_the_field() {
    let api = TestApi::start().await;
    let admin = Some(api.create_admin_token().await);

    for (fields, pointer, part) in [
        (json!({"name": "", "scopes": ["read"]}), "/name", "1 to 100"),
        (json!({"name": "a", "scopes": []}), "/scopes", "read, write, check, admin"),
        (json!({"name": "a", "scopes": ["root"]}), "/scopes", "'root' is not allowed"),
        (json!({"name": "a", "scopes": ["admin"], "tags": ["x"]}), "/tags", "no tags beside the scope admin"),
        (json!({"name": "a", "scopes": ["read"], "tags": []}), "/tags", "1 to 50"),
        (json!({"name": "a", "scopes": ["read"], "tags": ["x".repeat(65)]}), "/tags", "1 to 64 bytes"),
        (
            json!({"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
            "/expires_at",
            "a time after",
        ),
        (json!({"name": "a", "scope": ["read"]}), "/scope", "did you mean 'scopes'?"),
    ] {
        let refusal = api.send_json(Method::POST, "/api/v1/tokens", admin.as_deref(), &fields).await;
        let detail = refusal.expect_problem(422);
        assert!(detail.contains(part), "{detail}");
        assert_eq!(refusal.json()["errors"][0]["pointer"], pointer, "{refusal:?}");
    }
}

#[tokio::test]
async fn many_requests_with_an_invalid_token_are_refused_for_a_while_and_a_valid_one_is_not() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.status, StatusCode::OK);
    let mut refused = None;
    for number in 0..100 {
        let answer = api.get("/api/v1/me", Some(&format!("pkt_{number:032}"))).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
        answer.expect_problem(401);
    }

    let refused = refused.expect("the limit is 60 a minute");
    assert!(refused.expect_problem(429).contains("at most 60"));
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.status, StatusCode::OK);
    assert!(api.metric("picket_api_refusals_total{reason=\"failure_limit\"}") >= 1.0);
    assert!(api.metric("picket_api_refusals_total{reason=\"invalid_credential\"}") >= 59.0);
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_costs_no_query_beyond_the_limit() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.status, StatusCode::OK);
    let wrong = format!("pkt_{:032}", 1);
    while api.get("/api/v1/me", Some(&wrong)).await.status != StatusCode::TOO_MANY_REQUESTS {}

    // A query for a token would wait for this lock, and fail after seconds.
    let mut lock = api.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE picket.api_tokens IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let flood = (0..100).map(|_| api.get("/api/v1/me", Some(&wrong)));
    let answers = futures_util::future::join_all(flood).await;
    lock.rollback().await.unwrap();

    let refused = answers.iter().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).count();
    // The limit lets one more through each second.
    assert!(refused >= 95, "{refused}");
    assert_eq!(api.get("/api/v1/me", Some(&token)).await.status, StatusCode::OK);
}
