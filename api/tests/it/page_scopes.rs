//! Each page, each of its forms and `/probe` with each scope, without a token, and with the token of another tag. A new
//! route must be listed here.

use std::collections::BTreeSet;

use picket_store::api_tokens::Scope;
use reqwest::{Method, StatusCode};

use crate::{
    scopes::{FOREIGN_HOST, MESSAGE, add_notifications, read_state},
    support::{TestApi, send},
};

/// A route outside of `/api/v1`.
struct PageRoute {
    method: Method,
    route: &'static str,
    /// Address, with `SITE` for the site of another tag and `MESSAGE` for a notification about it.
    address: &'static str,
    form: &'static str,
    /// The scopes that the sender needs all of; none for a route for everybody.
    scopes: &'static [Scope],
}

fn list_routes() -> Vec<PageRoute> {
    use Scope::{Admin, Check, Read, Write};
    let get = |route, address, scopes| PageRoute { method: Method::GET, route, address, form: "", scopes };
    let post =
        |route, address, form, scopes| PageRoute { method: Method::POST, route, address, form, scopes };
    vec![
        get("/", "/", &[Read]),
        get("/api", "/api", &[]),
        get("/channels", "/channels", &[Read]),
        post("/channels", "/channels", "name=a&kind=x", &[Read, Admin]),
        get("/channels/{name}", "/channels/unknown", &[Read]),
        post("/channels/{name}", "/channels/unknown", "kind=x", &[Read, Admin]),
        post("/channels/{name}/test", "/channels/missing/test", "", &[Read, Write]),
        post("/channels/{name}/{action}", "/channels/unknown/pause", "", &[Read, Admin]),
        get("/check", "/check", &[Read]),
        // A refused URL, since nothing here answers a check.
        post("/check", "/check", "url=x", &[Read, Check]),
        get("/checks/{site}/{region}/{due}", "/checks/SITE/eu/2026-11-20T12:00:00Z", &[Read]),
        get("/incidents", "/incidents", &[Read]),
        get("/incidents/{id}", "/incidents/999999", &[Read]),
        post("/incidents/{id}/acknowledge", "/incidents/1/acknowledge", "", &[Read, Write]),
        post("/incidents/{id}/withdraw", "/incidents/1/withdraw", "", &[Read, Write]),
        get("/ledger", "/ledger", &[Read]),
        get("/live", "/live", &[Read]),
        get("/maintenance", "/maintenance", &[Read]),
        post("/maintenance", "/maintenance", "site=SITE", &[Read, Write]),
        post("/maintenance/{id}/remove", "/maintenance/999999/remove", "", &[Read, Write]),
        get("/notifications", "/notifications", &[Read]),
        get("/notifications/{id}", "/notifications/MESSAGE", &[Read]),
        post("/notifications/{id}/retry", "/notifications/MESSAGE/retry", "", &[Read, Write]),
        get("/probe", "/probe", &[Check]),
        get("/regions", "/regions", &[Read]),
        get("/reports", "/reports", &[Read]),
        get("/routes", "/routes?site=SITE", &[Read]),
        post("/routes", "/routes", "channels=missing", &[Read, Admin]),
        get("/routes/{name}", "/routes/unknown", &[Read]),
        post("/routes/{name}", "/routes/unknown", "channels=missing", &[Read, Admin]),
        post("/routes/{name}/remove", "/routes/unknown/remove", "", &[Read, Admin]),
        get("/settings", "/settings", &[Read]),
        get("/silences", "/silences", &[Read]),
        post("/silences", "/silences", "site=SITE&to=%2B2h&reason=x", &[Read, Write]),
        post("/silences/{id}/end", "/silences/999999/end", "", &[Read, Write]),
        get("/sign-in", "/sign-in", &[]),
        post("/sign-in", "/sign-in", "token=x", &[]),
        get("/sign-in/oidc", "/sign-in/oidc", &[]),
        post("/sign-out", "/sign-out", "", &[]),
        get("/sites", "/sites", &[Read]),
        post("/sites/bulk", "/sites/bulk", "site=SITE:1&action=remove", &[Read, Write]),
        get("/sites/new", "/sites/new", &[Read, Write]),
        post("/sites/new", "/sites/new", "url=x", &[Read, Write]),
        get("/sites/{id}", "/sites/SITE", &[Read]),
        post("/theme", "/theme", "theme=dark", &[]),
        get("/tokens", "/tokens", &[Read, Admin]),
        post("/tokens", "/tokens", "name=a&scopes=read", &[Read, Admin]),
        post("/tokens/{id}/revoke", "/tokens/999999/revoke", "", &[Read, Admin]),
        get("/warnings", "/warnings", &[Read]),
    ]
}

/// Routes and methods in the sources of the routers.
fn list_built_routes() -> BTreeSet<(String, &'static str)> {
    let sources = [
        include_str!("../../src/pages.rs"),
        include_str!("../../src/sign_in.rs"),
        include_str!("../../src/router.rs"),
    ];
    let mut found = BTreeSet::new();
    for (route, handlers) in sources
        .iter()
        .flat_map(|text| text.split(".route(\"").skip(1))
        .filter_map(|part| part.split_once('"'))
    {
        let handlers = handlers.split([';', '\n']).next().unwrap_or_default();
        for (method, call) in [("GET", "get("), ("POST", "post(")] {
            if handlers.contains(call) && route != "/openapi.json" {
                found.insert((route.to_owned(), method));
            }
        }
    }
    found
}

/// Requests the address with a token or without. Returns the status and the text.
async fn request(api: &TestApi, route: &PageRoute, site: i64, token: Option<&str>) -> (StatusCode, String) {
    let fill = |text: &str| text.replace("SITE", &site.to_string()).replace("MESSAGE", MESSAGE);
    let mut request = api.request(route.method.clone(), &fill(route.address), token);
    if route.method == Method::POST {
        request = request.header("content-type", "application/x-www-form-urlencoded").body(fill(route.form));
    }
    let answer = send(request).await;
    (answer.status, answer.text)
}

#[test]
fn every_route_outside_of_the_document_is_listed_with_its_scopes() {
    let listed: BTreeSet<(String, &str)> = list_routes()
        .iter()
        .map(|route| (route.route.to_owned(), if route.method == Method::GET { "GET" } else { "POST" }))
        .collect();

    assert_eq!(listed, list_built_routes());
}

#[tokio::test]
async fn each_page_allows_exactly_the_scopes_that_it_needs() {
    let api = TestApi::start().await;
    let site = api.add_site(&format!("https://{FOREIGN_HOST}/"), &["foreign"]).await;
    let mut tokens = Vec::new();
    for scopes in [
        &[Scope::Read][..],
        &[Scope::Write],
        &[Scope::Check],
        &[Scope::Admin],
        &[Scope::Read, Scope::Write],
        &[Scope::Read, Scope::Check],
    ] {
        tokens.push((scopes, api.create_token(scopes, None).await));
    }

    let mut wrong = Vec::new();
    for route in list_routes() {
        let name = format!("{} {}", route.method, route.address);
        let (status, text) = request(&api, &route, site, None).await;
        // The form refuses its own token.
        let needs_token = status == StatusCode::UNAUTHORIZED && route.route != "/sign-in";
        if needs_token == route.scopes.is_empty() {
            wrong.push(format!("{name} without a token: {status} {text}"));
        }
        for (scopes, token) in &tokens {
            let has = |needed: &Scope| scopes.contains(needed) || scopes.contains(&Scope::Admin);
            let (status, text) = request(&api, &route, site, Some(token)).await;
            let is_as_needed = match route.scopes.iter().find(|needed| !has(needed)) {
                Some(missing) => {
                    let names_scope = text.contains(&format!("lacks the scope &#39;{missing}&#39;"))
                        || text.contains(&format!("lacks the scope '{missing}'"));
                    status == StatusCode::FORBIDDEN && names_scope
                }
                None => {
                    status != StatusCode::FORBIDDEN
                        && (status != StatusCode::UNAUTHORIZED || route.route == "/sign-in")
                }
            };
            if !is_as_needed || status.is_server_error() {
                wrong.push(format!("{name} with {scopes:?}: {status} {text}"));
            }
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_token_of_another_tag_sees_and_changes_nothing_of_a_site_on_pages() {
    let api = TestApi::start().await;
    let site = api.add_site(&format!("https://{FOREIGN_HOST}/"), &["foreign"]).await;
    api.add_site("https://own.example/", &["own"]).await;
    add_notifications(&api, site).await;
    let token = api.create_token(&[Scope::Read, Scope::Write, Scope::Check], Some(&["own"])).await;
    let before = read_state(&api.pool).await;

    let mut wrong = Vec::new();
    for route in list_routes() {
        let (status, text) = request(&api, &route, site, Some(&token)).await;
        if text.contains(FOREIGN_HOST) || status.is_server_error() {
            wrong.push(format!("{} {}: {status} {text}", route.method, route.address));
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(read_state(&api.pool).await, before);
}
