//! Requests that no handler should see, and headers of all responses.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{TestApi, send};

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_and_allow_names_the_methods() {
    let api = TestApi::start().await;

    let path = api.get("/api/v1/nothing", None).await;
    assert!(path.expect_problem(404).contains("/api/v1/nothing"));
    let method = send(api.request(Method::POST, "/api/v1/regions", None)).await;
    method.expect_problem(405);
    assert_eq!(method.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn a_body_of_another_media_type_is_refused() {
    let api = TestApi::start().await;

    let request = api.request(Method::POST, "/api/v1/tokens", None).header("content-type", "text/plain");
    let refused = send(request.body("{}")).await;

    assert!(refused.expect_problem(415).contains("allowed: application/json"));
}

#[tokio::test]
async fn a_body_of_more_than_a_mebibyte_is_refused_and_counted() {
    let api = TestApi::start().await;
    let body = json!({"name": "x".repeat(1 << 20), "scopes": ["read"]});

    let refused = api.send_json(Method::POST, "/api/v1/tokens", None, &body).await;

    refused.expect_problem(413);
    assert_eq!(api.metric("picket_api_refusals_total{reason=\"body_too_large\"}"), 1.0);
}

#[tokio::test]
async fn an_unknown_query_parameter_is_refused_by_its_name() {
    let api = TestApi::start().await;

    let refused = api.get("/api/v1/tokens?al=true", None).await;

    assert!(refused.expect_problem(422).contains("did you mean 'all'?"), "{refused:?}");
    assert_eq!(refused.json()["errors"][0]["pointer"], "?al");
}

#[tokio::test]
async fn every_response_has_the_security_headers_and_an_id_of_its_own() {
    let api = TestApi::start().await;
    let mut ids = Vec::new();

    for path in ["/api/v1/me", "/api/v1/nothing", "/sign-in", "/nothing"] {
        let answer = api.get(path, None).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("cache-control"), "no-store");
        ids.push(answer.header("x-request-id").to_owned());
    }

    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[tokio::test]
async fn requests_are_counted_by_their_route_and_not_by_their_path() {
    let api = TestApi::start().await;
    for region in ["a", "b", "c"] {
        let added = send(api.request(Method::PUT, &format!("/api/v1/regions/{region}"), None)).await;
        assert_eq!(added.status, StatusCode::CREATED);
    }

    let labels = "route=\"/api/v1/regions/{region}\",method=\"PUT\",status=\"201\"";

    assert_eq!(api.metric(&format!("picket_api_requests_total{{{labels}}}")), 3.0);
}

#[tokio::test]
async fn responses_are_compressed_when_the_client_allows_it() {
    let api = TestApi::start().await;
    for encoding in ["gzip", "br"] {
        let request = api.request(Method::GET, "/api/v1/openapi.json", None);
        let response = request.header("accept-encoding", encoding).send().await.unwrap();
        assert_eq!(response.headers()["content-encoding"], encoding);
    }
}
