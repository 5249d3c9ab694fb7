//! Redirects: targets, and the headers, bodies and cookies that are resent.

use picket_harness::targets::{Step, Target};
use picket_proto::{Cause, CheckRequest, Outcome};

use crate::http::{assert_down, check_with_limits, get_request};

#[tokio::test]
async fn redirects_are_followed_and_counted() {
    let target = Target::serve_http().await;

    let seen = get_request(target.url("/redirect/3")).await;

    assert_eq!((seen.outcome, seen.redirects, seen.http_status), (Outcome::Up, 3, Some(200)));
    assert_eq!(target.accepted_connections(), 4, "each hop has a connection of its own");
}

#[tokio::test]
async fn a_redirect_loop_and_too_many_redirects_are_down() {
    let target = Target::serve_http().await;

    assert_down(&get_request(target.url("/loop")).await, Cause::Redirect, "redirect loop");
    let seen = get_request(target.url("/redirect/11")).await;
    assert_down(&seen, Cause::Redirect, "more than 10 redirects");
    assert_eq!(seen.redirects, 10);
    let seen = get_request(target.url("/to/ftp://127.0.0.1/")).await;
    assert_down(&seen, Cause::Redirect, "not http or https");
}

#[tokio::test]
async fn without_redirects_allowed_the_redirect_is_the_response() {
    let target = Target::serve_http().await;
    let request = CheckRequest {
        max_redirects: 0,
        status: "302".into(),
        ..CheckRequest::new(target.url("/redirect/1"))
    };

    let seen = check_with_limits(&request).await;

    assert_eq!((seen.outcome, seen.http_status, seen.redirects), (Outcome::Up, Some(302), 0));
}

#[tokio::test]
async fn headers_are_sent_to_the_sites_own_origin_only() {
    let (target, other) = (Target::serve_http().await, Target::serve_http().await);
    let request = |url: String| CheckRequest {
        headers: [("X-Secret".to_owned(), "hidden".to_owned()), ("User-Agent".to_owned(), "mine".to_owned())]
            .into(),
        ..CheckRequest::new(url)
    };

    check_with_limits(&request(target.url("/redirect/1"))).await;
    check_with_limits(&request(target.url(&format!("/to/{}", other.url("/ok"))))).await;

    let requests = target.received_requests();
    assert!(
        requests.iter().all(|head| head.contains("hidden") && head.contains("user-agent: mine")),
        "{requests:?}"
    );
    let [elsewhere] = other.received_requests().try_into().unwrap();
    assert!(!elsewhere.contains("hidden") && elsewhere.contains("user-agent: Picket/"), "{elsewhere}");
}

#[tokio::test]
async fn a_method_and_its_body_are_sent_and_become_get_after_a_302() {
    let target = Target::serve_http().await;
    let request = CheckRequest {
        method: "POST".into(),
        body: Some("hello".into()),
        ..CheckRequest::new(target.url("/redirect/1"))
    };

    let seen = check_with_limits(&request).await;

    let requests = target.received_requests();
    assert_eq!(seen.outcome, Outcome::Up);
    assert!(
        requests[0].starts_with("POST /redirect/1") && requests[0].contains("content-length: 5"),
        "{requests:?}"
    );
    assert!(requests[1].starts_with("GET /ok") && !requests[1].contains("content-length"), "{requests:?}");
}

#[tokio::test]
async fn an_invalid_redirect_target_is_down_by_redirect_and_a_missing_location_by_status() {
    for (location, message) in [
        ("file:///etc/passwd", "redirect to 'file:///etc/passwd', which is not http or https"),
        ("javascript:alert(1)", "redirect to 'javascript:alert(1)', which is not http or https"),
        ("http://", "redirect to 'http://', which is no URL (empty host)"),
        ("http://127.0.0.1:0/", "redirect to 'http://127.0.0.1:0/', where the port is 0"),
        ("http://127.0.0.1:99999/", "which is no URL (invalid port number)"),
    ] {
        let target = serve_redirect(302, location).await;
        let seen = get_request(target.url("/")).await;
        assert_down(&seen, Cause::Redirect, message);
        assert_eq!((seen.http_status, seen.redirects), (Some(302), 0), "{seen:?}");
    }
    let target =
        Target::serve_script(|_| vec![Step::send("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n")]).await;
    assert_down(
        &get_request(target.url("/")).await,
        Cause::Status,
        "status 302 without a Location, not 200-299",
    );
}

async fn serve_redirect(status: u16, location: &str) -> Target {
    let answer = format!("HTTP/1.1 {status} There\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    Target::serve_script(move |_| vec![Step::send(&answer)]).await
}

#[tokio::test]
async fn a_relative_location_is_resolved_against_its_hop() {
    let target = Target::serve_script(|request| {
        let location = match request.split(' ').nth(1).unwrap_or_default() {
            "/a/b/start" => "../c?d#e",
            "/a/c?d" => "//LOCALHOST:PORT/last",
            _ => return vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")],
        };
        let port = request.lines().find_map(|line| line.strip_prefix("host: ")?.rsplit(':').next());
        let location = location.replace("PORT", port.unwrap_or_default());
        vec![Step::send(format!("HTTP/1.1 301 There\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))]
    })
    .await;

    let seen = get_request(target.url("/a/b/start")).await;

    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 2), "{seen:?}");
    let requests = target.received_requests();
    assert!(requests[1].starts_with("GET /a/c?d HTTP") && requests[2].starts_with("GET /last HTTP"));
    assert!(requests[2].contains("host: localhost:"), "{requests:?}");
}

#[tokio::test]
async fn a_request_body_is_resent_after_307_and_308_and_not_after_303() {
    let target = Target::serve_http().await;
    for (status, method, body) in [(303, "GET", ""), (307, "PUT", "hello"), (308, "PUT", "hello")] {
        let url = target.url(&format!("/see/{status}//ok"));
        let request =
            CheckRequest { method: "PUT".into(), body: Some("hello".into()), ..CheckRequest::new(url) };
        assert_eq!(check_with_limits(&request).await.outcome, Outcome::Up);

        let last = target.received_requests().pop().unwrap();
        let (head, sent) = last.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("{method} /ok HTTP")), "{status}: {last}");
        assert_eq!(sent, body, "{status}: {last}");
    }
}

#[tokio::test]
async fn site_headers_are_dropped_at_another_origin_and_not_restored() {
    let (target, other) = (Target::serve_http().await, Target::serve_http().await);
    let url = target.url(&format!("/to/{}", other.url(&format!("/to/{}", target.url("/ok")))));
    let headers = ["Authorization", "Cookie", "X-Api-Key", "Referer"]
        .map(|name| (name.to_owned(), "hidden".to_owned()));

    let seen = check_with_limits(&CheckRequest { headers: headers.into(), ..CheckRequest::new(url) }).await;

    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 2));
    let [first, last] = target.received_requests().try_into().unwrap();
    assert_eq!(first.matches("hidden").count(), 4, "{first}");
    assert!(!last.contains("hidden") && !other.received_requests()[0].contains("hidden"), "{last}");
    assert!(!last.contains("referer") && !last.contains("cookie"), "{last}");
}

/// Sets a cookie on requests without one, and responds 200 to requests with it.
async fn serve_cookie_gate(set: &'static str, to: &'static str) -> Target {
    Target::serve_script(move |request| match request.contains("\r\ncookie: pass=1") {
        true => vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nin")],
        false => vec![Step::send(format!(
            "HTTP/1.1 302 Found\r\nset-cookie: {set}\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        ))],
    })
    .await
}

#[tokio::test]
async fn a_redirects_cookie_is_sent_within_the_check_and_forgotten_after_it() {
    let target = serve_cookie_gate("pass=1; Path=/", "/inner").await;

    for _ in 0..2 {
        let seen = get_request(target.url("/")).await;
        assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");
    }

    let with_cookie: Vec<bool> =
        target.received_requests().iter().map(|head| head.contains("cookie:")).collect();
    assert_eq!(with_cookie, [false, true, false, true], "each check begins without");
}

#[tokio::test]
async fn a_redirect_to_itself_with_a_new_cookie_is_no_loop() {
    let target = serve_cookie_gate("pass=1; Path=/", "/").await;
    let seen = get_request(target.url("/")).await;
    assert_eq!((seen.outcome, seen.redirects), (Outcome::Up, 1), "{seen:?}");

    let shut = serve_cookie_gate("pass=0; Path=/", "/").await;
    let seen = get_request(shut.url("/")).await;
    assert_down(&seen, Cause::Redirect, "redirect loop: back at http://127.0.0.1:");
    assert_eq!(seen.redirects, 1, "with the cookie it was another question once");
}

#[tokio::test]
async fn a_cookie_is_not_sent_to_another_host() {
    let other = Target::serve_http().await;
    let there = other.localhost_url("/ok");
    let target = Target::serve_script(move |_| {
        let head = "HTTP/1.1 302 Found\r\nset-cookie: pass=1; Path=/\r\ncontent-length: 0\r\n";
        vec![Step::send(format!("{head}location: {there}\r\n\r\n"))]
    })
    .await;

    assert_eq!(get_request(target.url("/")).await.outcome, Outcome::Up);
    assert!(!other.received_requests()[0].contains("pass"), "{:?}", other.received_requests());
}

#[tokio::test]
async fn all_hops_share_one_deadline() {
    let target = Target::serve_script(|request| {
        let number: u32 = request.split(['/', ' ']).nth(2).and_then(|text| text.parse().ok()).unwrap_or(0);
        let next = format!("HTTP/1.1 302 On\r\nlocation: /{}\r\ncontent-length: 0\r\n\r\n", number + 1);
        vec![Step::wait_ms(200), Step::send(next)]
    })
    .await;
    let request = CheckRequest { timeout_ms: 500, ..CheckRequest::new(target.url("/0")) };

    let seen = check_with_limits(&request).await;

    assert_down(&seen, Cause::Timeout, "no answer within 500 ms (waiting for the first byte)");
    assert!(seen.redirects <= 2, "not 200 ms for each of eleven hops: {seen:?}");
    let sum = seen.timing.connect_us.unwrap() + seen.timing.first_byte_us.unwrap();
    assert!(sum <= seen.timing.total_us.unwrap() && sum > 400_000, "{seen:?}");
}
