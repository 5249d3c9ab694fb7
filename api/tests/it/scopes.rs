//! Each route of the OpenAPI document with each scope, without a token, and with the token of another tag. New
//! routes are covered by standing in the document.

use picket_store::api_tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    notifications::{fail_notifications, open_incident},
    support::{REGION, TestApi},
};

/// Part of the URL of the site that another token may not see.
pub(crate) const FOREIGN_HOST: &str = "foreign-shop.example";
/// Number of a notification about that site.
pub(crate) const MESSAGE: &str = "0193a5d0-0000-7000-8000-000000000007";

/// An operation of the document, with the values of its path.
#[derive(Debug)]
struct Operation {
    id: String,
    method: Method,
    path: String,
    scopes: Vec<String>,
    has_body: bool,
}

/// The operations of the document. `site` stands for the site of a path; other objects do not exist.
async fn list_operations(api: &TestApi, token: &str, site: i64) -> Vec<Operation> {
    let document = api.get("/api/v1/openapi.json", Some(token)).await.json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            let security = operation["security"].as_array();
            let security = security.unwrap_or_else(|| panic!("{method} {path} states no scope"));
            assert_eq!(security.len(), 1, "{method} {path}");
            let scopes: Vec<String> = serde_json::from_value(security[0]["token"].clone()).unwrap();
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: fill_path(path, operation, site),
                scopes,
                has_body: operation.get("requestBody").is_some(),
            });
        }
    }
    operations
}

/// The path with a value for each parameter, and the required parameters of the query.
fn fill_path(path: &str, operation: &Value, site: i64) -> String {
    let mut path = format!("/api/v1{path}");
    let mut query = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        let is_number = parameter["schema"]["type"] == "integer";
        let value = match name {
            "site" | "site_id" => site.to_string(),
            "region" => REGION.to_owned(),
            "id" if path.starts_with("/api/v1/incidents") => "1".to_owned(),
            "id" if path.starts_with("/api/v1/notifications") => MESSAGE.to_owned(),
            _ if is_number => "999999".to_owned(),
            _ => "unknown".to_owned(),
        };
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace(&format!("{{{name}}}"), &value),
            "query" if parameter["required"] == true => query.push(format!("{name}={value}")),
            _ => {}
        }
    }
    assert!(!path.contains('{'), "{path} has a parameter that the document does not describe");
    match query.is_empty() {
        true => path,
        false => format!("{path}?{}", query.join("&")),
    }
}

/// Sends the operation. Returns the status, and the text unless it is endless.
async fn perform(api: &TestApi, operation: &Operation, token: Option<&str>) -> (StatusCode, String) {
    let mut request = api.request(operation.method.clone(), &operation.path, token);
    if operation.has_body {
        request = request.header("content-type", "application/json").body("{}");
    }
    let response = request.send().await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.as_bytes().to_owned());
    let is_stream = kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"));
    let status = response.status();
    (status, if is_stream { String::new() } else { response.text().await.unwrap() })
}

/// Adds what notifications know of the site: a channel, a route, a silence, an incident and a message.
pub(crate) async fn add_notifications(api: &TestApi, site: i64) {
    let channel = "INSERT INTO picket.channels (name, kind, settings) VALUES ('unknown', 'webhook', $1)";
    let url = format!("https://{FOREIGN_HOST}/hook");
    sqlx::query(channel).bind(serde_json::json!({ "url": url })).execute(&api.pool).await.unwrap();
    let route =
        "INSERT INTO picket.routes (name, site_ids, channels) VALUES ('unknown', ARRAY[$1], '{unknown}')";
    sqlx::query(route).bind(site).execute(&api.pool).await.unwrap();
    let silence = "INSERT INTO picket.silences (silence_id, site_id, ends_at, reason) OVERRIDING SYSTEM VALUE
                   VALUES (999999, $1, now() + interval '1 day', 'known to others only')";
    sqlx::query(silence).bind(site).execute(&api.pool).await.unwrap();
    open_incident(api, site).await;
    fail_notifications(api).await;
    let sql = "WITH message AS (
                   INSERT INTO picket.notifications (notification_id, channel, lane, purpose, state, reason, title, ended_at)
                   SELECT $1::uuid, channel, lane, purpose, state, reason, $2, ended_at FROM picket.notifications
                   RETURNING notification_id),
               told AS (UPDATE picket.notices SET notification_id = (SELECT notification_id FROM message))
               INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, message)
               SELECT notification_id, 1, 'n', 1, $2 FROM message";
    sqlx::query(sql).bind(MESSAGE).bind(FOREIGN_HOST).execute(&api.pool).await.unwrap();
}

/// All that requests of another tag's token must not change.
pub(crate) async fn read_state(pool: &PgPool) -> Vec<String> {
    let mut state = Vec::new();
    for table in [
        "sites",
        "regions",
        "maintenance",
        "settings",
        "api_tokens",
        "channels",
        "routes",
        "silences",
        "acknowledgements",
        "notifications",
    ] {
        let sql = format!("SELECT to_jsonb(entry) - 'last_used_at' FROM picket.{table} AS entry ORDER BY 1");
        let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
        state.extend(rows.iter().map(|row| format!("{table}: {row}")));
    }
    state
}

#[tokio::test]
async fn each_route_allows_exactly_the_scopes_that_the_document_states() {
    let api = TestApi::start().await;
    let site = api.add_site(&format!("https://{FOREIGN_HOST}/"), &["foreign"]).await;
    let admin = api.create_admin_token().await;
    let operations = list_operations(&api, &admin, site).await;
    let mut tokens = Vec::new();
    for scope in Scope::ALL_SCOPES {
        tokens.push((scope, api.create_token(&[scope], None).await));
    }

    let mut wrong = Vec::new();
    for operation in &operations {
        let (status, _) = perform(&api, operation, None).await;
        if status != StatusCode::UNAUTHORIZED {
            wrong.push(format!("{operation:?} without a token: {status}"));
        }
        for (scope, token) in &tokens {
            let is_allowed =
                *scope == Scope::Admin || operation.scopes.iter().all(|needed| needed == scope.as_str());
            let (status, text) = perform(&api, operation, Some(token)).await;
            let names_scope = text.contains(&format!("lacks the scope '{}'", operation.scopes.concat()));
            let is_as_stated = match is_allowed {
                true => status != StatusCode::FORBIDDEN && status != StatusCode::UNAUTHORIZED,
                false => status == StatusCode::FORBIDDEN && names_scope,
            };
            if !is_as_stated || status == StatusCode::INTERNAL_SERVER_ERROR {
                wrong.push(format!("{operation:?} with {scope}: {status} {text}"));
            }
        }
    }

    assert!(operations.len() >= 7, "{operations:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_token_of_another_tag_reads_and_changes_nothing_of_a_site() {
    let api = TestApi::start().await;
    let site = api.add_site(&format!("https://{FOREIGN_HOST}/"), &["foreign"]).await;
    api.add_site("https://own.example/", &["own"]).await;
    add_notifications(&api, site).await;
    let admin = api.create_admin_token().await;
    let operations = list_operations(&api, &admin, site).await;
    let token = api.create_token(&[Scope::Read, Scope::Write, Scope::Check], Some(&["own"])).await;
    let before = read_state(&api.pool).await;

    let mut wrong = Vec::new();
    for operation in &operations {
        let (status, text) = perform(&api, operation, Some(&token)).await;
        if text.contains(FOREIGN_HOST) || status.is_server_error() {
            wrong.push(format!("{operation:?}: {status} {text}"));
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(read_state(&api.pool).await, before);
}

#[tokio::test]
async fn each_operation_has_an_id_of_its_own_and_the_problems_that_it_can_answer() {
    let api = TestApi::start().await;
    let document = api.get("/api/v1/openapi.json", None).await.json();
    let operations = list_operations(&api, "", 1).await;

    let mut ids: Vec<_> = operations.iter().map(|operation| &operation.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), operations.len());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for status in ["401", "403", "500", "503"] {
                let response = &responses[status];
                assert_eq!(
                    response["content"]["application/problem+json"]["schema"]["$ref"],
                    "#/components/schemas/Problem",
                    "{method} {path} {status}"
                );
            }
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        }
    }
}
