//! Forms of pages over a real socket: changes, refusals, and links between what belongs together.

use picket_store::{api_tokens::Scope, lanes};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    notifications::{fail_notifications, open_incident, open_unplanned_incident},
    pages::{list_links, open_page, parse_page, post_form, start_fleet, text_of},
    support::TestApi,
};

#[tokio::test]
async fn sites_are_added_paused_and_removed_by_forms() {
    let api = TestApi::start().await;
    assert_eq!(text_of(&open_page(&api, "/", None).await, "h1"), "Welcome");
    let added =
        post_form(&api, "/sites/new", None, "url=https%3A%2F%2Fexample.com&interval=30s&tags=a").await;
    assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.text);
    let site = added.header("location").to_owned();
    let page = api.get(&site, None).await;
    assert!(page.text.contains("Just added"), "{}", page.text);

    let refused = post_form(&api, "/sites/new", None, "url=https%3A%2F%2Fexample.com&interval=soon").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("soon"), "{}", refused.text);

    let marked = find_marked_site(&api, &site).await;
    let paused = post_form(&api, "/sites/bulk", None, &format!("site={marked}&back=site&action=pause")).await;
    assert_eq!((paused.status, paused.header("location")), (StatusCode::SEE_OTHER, site.as_str()));
    assert!(api.get(&site, None).await.text.contains("Resume"));

    let marked = find_marked_site(&api, "/sites").await;
    let removal = format!("site={marked}&action=remove");
    assert_eq!(post_form(&api, "/sites/bulk", None, &removal).await.status, StatusCode::SEE_OTHER);
    assert_eq!(api.get(&site, None).await.status, StatusCode::NOT_FOUND);
}

/// Value of the first site on a page that an action would change.
async fn find_marked_site(api: &TestApi, path: &str) -> String {
    let elements = open_page(api, path, None).await;
    let field = elements.iter().find(|element| element.attribute("name") == Some("site"));
    field.and_then(|field| field.attribute("value")).unwrap().to_owned()
}

#[tokio::test]
async fn an_action_on_sites_that_were_changed_meanwhile_names_them_and_does_nothing() {
    let api = TestApi::start().await;
    let (first, other) =
        (api.add_site("https://a.example/", &[]).await, api.add_site("https://b.example/", &[]).await);
    let elements = open_page(&api, "/sites", None).await;
    let marked: Vec<String> = elements
        .iter()
        .filter(|element| element.attribute("name") == Some("site"))
        .map(|element| format!("site={}&", element.attribute("value").unwrap()))
        .collect();
    assert_eq!(marked.len(), 2, "{marked:?}");
    let changed = json!({"interval": "30s", "name": "shop"});
    let path = format!("/api/v1/sites/{first}");
    assert_eq!(api.send_json(Method::PATCH, &path, None, &changed).await.status, StatusCode::OK);

    for action in ["pause", "resume", "remove"] {
        let body = format!("{}action={action}", marked.concat());
        let refused = post_form(&api, "/sites/bulk", None, &body).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text);
        parse_page("/sites/bulk", &refused);
        assert!(refused.text.contains("the page was shown: shop."), "{}", refused.text);
        assert!(!refused.text.contains("b.example"), "{}", refused.text);
    }
    let kept: Vec<(i64, bool)> = sqlx::query_as("SELECT id, enabled FROM picket.sites ORDER BY id")
        .fetch_all(&api.pool)
        .await
        .unwrap();
    assert_eq!(kept, [(first, true), (other, true)]);
}

#[tokio::test]
async fn a_form_adds_no_site_with_tags_of_others() {
    let api = TestApi::start().await;
    let token = api.create_token(&[Scope::Read, Scope::Write], Some(&["shop"])).await;

    for (tags, part) in
        [("victim", "at least one of shop"), ("shop%2Cvictim", "victim"), ("", "at least one of shop")]
    {
        let body = format!("url=https%3A%2F%2Fa.example&interval=30s&tags={tags}");
        let refused = post_form(&api, "/sites/new", Some(&token), &body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text);
        assert!(refused.text.contains(part), "{}", refused.text);
    }
    let body = "url=https%3A%2F%2Fa.example&interval=30s&tags=shop";
    assert_eq!(post_form(&api, "/sites/new", Some(&token), body).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn maintenance_is_added_and_removed_by_forms() {
    let api = TestApi::start().await;
    let site = api.add_site("https://example.com", &["shop"]).await;
    let body = format!("site={site}&tag=&from=now&to=%2B2h");
    assert_eq!(post_form(&api, "/maintenance", None, &body).await.status, StatusCode::SEE_OTHER);
    let elements = open_page(&api, "/maintenance", None).await;
    let removal = elements
        .iter()
        .filter_map(|element| element.attribute("action"))
        .find(|action| action.ends_with("/remove"));
    let removal = removal.unwrap().to_owned();
    assert_eq!(post_form(&api, &removal, None, "").await.status, StatusCode::SEE_OTHER);
    let refused = post_form(&api, "/maintenance", None, "tag=shop&from=tomorrow").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("tomorrow"), "{}", refused.text);
}

#[tokio::test]
async fn a_reader_without_rights_sees_why_and_changes_nothing() {
    let api = start_fleet().await;
    let reader = api.create_token(&[Scope::Read], Some(&["customer-7"])).await;
    let locked = api.get("/", None).await;
    assert!(matches!(locked.status, StatusCode::UNAUTHORIZED | StatusCode::SEE_OTHER), "{}", locked.status);

    open_page(&api, "/", Some(&reader)).await;
    let sites = open_page(&api, "/sites", Some(&reader)).await;
    let links: Vec<String> =
        list_links(&sites).into_iter().filter(|link| link.starts_with("/sites/")).collect();
    assert_eq!(links, ["/sites/7"]);
    assert_eq!(api.get("/sites/8", Some(&reader)).await.status, StatusCode::NOT_FOUND);
    for (path, body) in [
        ("/sites/bulk", "site=7:1&action=remove"),
        ("/sites/new", "url=http%3A%2F%2Fx"),
        ("/maintenance", "tag=a"),
    ] {
        assert_eq!(post_form(&api, path, Some(&reader), body).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    open_page(&api, "/ledger", Some(&reader)).await;
    open_page(&api, "/sites/7", Some(&reader)).await;
}

#[tokio::test]
async fn a_refused_form_keeps_what_was_typed_names_the_field_and_repeats_no_credential() {
    let api = TestApi::start().await;
    for (path, form, status, parts) in [
        (
            "/channels",
            "name=bot&kind=telegram&token=Hunter2%21&chat_id=-100",
            422,
            &["value=\"bot\"", "value=\"-100\"", "id=\"channel-token-error\""][..],
        ),
        (
            "/channels",
            "name=a+b&kind=webhook&url=https%3A%2F%2Fx.example%2F",
            422,
            &["value=\"a b\"", "value=\"https://x.example/\"", "id=\"channel-name-error\""],
        ),
        ("/channels", "name=ops&kind=webhook&url=https%3A%2F%2Fx.example%2F", 303, &[]),
        ("/channels", "name=ops&kind=webhook&url=https%3A%2F%2Fx.example%2F", 422, &["no other channel has"]),
        (
            "/channels/ops",
            "kind=webhook&url=https%3A%2F%2Fy.example%2F&pace=soon",
            422,
            &["value=\"https://y.example/\"", "value=\"soon\"", "id=\"channel-pace-error\""],
        ),
        (
            "/routes",
            "channels=none&tags=shop&catch_up=yes",
            422,
            &["value=\"shop\"", "id=\"route-channels-error\"", "value=\"yes\" selected"],
        ),
        (
            "/routes",
            "channels=ops&escalate=15m%3Dboss",
            422,
            &["value=\"15m=boss\"", "id=\"route-escalate-error\""],
        ),
        ("/routes", "channels=ops&name=all&tags=shpo", 303, &[]),
        (
            "/routes/all",
            "channels=ops&name=all&position=first&wait=5s",
            422,
            &["value=\"5s\"", "id=\"route-position-error\""],
        ),
        (
            "/silences",
            "site=999&to=%2B2h&reason=moving",
            422,
            &["value=\"moving\"", "value=\"+2h\"", "id=\"silence-site-error\""],
        ),
        ("/silences", "tag=shop&to=soon&reason=moving", 422, &["value=\"shop\"", "id=\"silence-to-error\""]),
        ("/silences", "tag=shop&to=%2B2h&reason=", 422, &["id=\"silence-reason-error\""]),
    ] {
        let answer = post_form(&api, path, None, form).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {form}: {}", answer.text);
        for part in parts {
            assert!(answer.text.contains(part), "{path} {form} {part}: {}", answer.text);
        }
        assert!(!answer.text.contains("Hunter2"), "{}", answer.text);
        if status == 422 {
            parse_page(path, &answer);
        }
    }
    for (path, part) in
        [("/notifications?incident=x", "log-incident-error"), ("/routes?site=x", "reach-site-error")]
    {
        let answer = api.get(path, None).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.text.contains(part) && answer.text.contains("value=\"x\""), "{path}: {}", answer.text);
    }
    let routes = api.get("/routes", None).await;
    assert!(routes.text.contains("no site has the tag"), "{}", routes.text);
}

#[tokio::test]
async fn pages_say_that_no_notifier_runs_until_one_does() {
    const ABSENCE: &str = "No notifier runs";
    let api = TestApi::start().await;
    let site = api.add_site("https://own.example/", &[]).await;
    assert!(!api.get("/", None).await.text.contains(ABSENCE), "nobody expects to be told without a channel");
    let incident = open_unplanned_incident(&api, site).await;
    post_form(&api, "/channels", None, "name=ops&kind=webhook&url=https%3A%2F%2Fx.example%2F").await;
    let paths = ["/", "/channels", "/channels/ops", "/routes", "/notifications"];
    let incident = format!("/incidents/{incident}");

    for path in paths.into_iter().chain([incident.as_str()]) {
        let answer = api.get(path, None).await;
        parse_page(path, &answer);
        assert!(answer.text.contains(ABSENCE), "{path}: {}", answer.text);
    }
    assert!(api.get(&incident, None).await.text.contains("It is not decided yet who is told."));
    lanes::mark_notifier(&api.store, "n", "test").await.unwrap();
    lanes::plan_notices(&api.store).await.unwrap();
    for path in paths.into_iter().chain([incident.as_str()]) {
        assert!(!api.get(path, None).await.text.contains(ABSENCE), "{path}");
    }
    assert!(api.get(&incident, None).await.text.contains("no route named a channel for it"));
}

#[tokio::test]
async fn an_incident_leads_to_its_messages_and_channels_and_each_of_them_back() {
    let api = TestApi::start().await;
    let site = api.add_site("https://own.example/", &[]).await;
    post_form(&api, "/channels", None, "name=ops&kind=webhook&url=https%3A%2F%2Fx.example%2F").await;
    post_form(&api, "/routes", None, "channels=ops").await;
    let id = open_incident(&api, site).await;
    fail_notifications(&api).await;
    let incident = format!("/incidents/{id}");

    let links = list_links(&open_page(&api, &incident, None).await);
    let message = links.iter().find(|link| link.starts_with("/notifications/")).unwrap().clone();
    assert!(
        links.contains("/channels/ops") && links.contains(&format!("/notifications?incident={id}")),
        "{links:?}"
    );
    let links = list_links(&open_page(&api, &message, None).await);
    assert!(links.contains("/channels/ops") && links.contains(&incident), "{links:?}");
    let log = list_links(&open_page(&api, "/notifications", None).await);
    assert!(log.contains("/channels/ops") && log.contains(&incident) && log.contains(&message), "{log:?}");
    let channel = list_links(&open_page(&api, "/channels/ops", None).await);
    assert!(channel.contains("/notifications?channel=ops"), "{channel:?}");
}
