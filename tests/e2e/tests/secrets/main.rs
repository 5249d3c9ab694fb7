//! Secrets of checks in the whole system: they reach the sites that they are for, and appear
//! nowhere else.
#![expect(clippy::unwrap_used, reason = "what a test needs is there, or it fails")]

mod secrets_file;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use futures_util::StreamExt;
use parking_lot::Mutex;
use picket_e2e::{Stack, program_path};
use picket_harness::{
    process::run_to_end,
    targets::{Step, Target, TokenEndpoint},
};

use self::secrets_file::{PROXY_LOGIN, ProtectedServers, SecretsFile};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Base64 of `me:MARK-basic-password`.
const LOGIN: &str = "Basic bWU6TUFSSy1iYXNpYy1wYXNzd29yZA==";
/// Base64 of `me:MARK-oauth-secret`.
const CLIENT_LOGIN: &str = "Basic bWU6TUFSSy1vYXV0aC1zZWNyZXQ=";

/// What must appear nowhere: the marks, and parts of their base64 forms at each alignment.
const MARKS: [&str; 7] = ["MARK-", "MARK%2D", "TUFSSy", "1BUkst", "NQVJLL", "bWU6TUFS", "mark-header-value"];

/// Name and options of each check that uses a secret.
const CHECKS: [(&str, &str); 3] = [
    ("basic", r#"{"auth": {"basic": {"user": "me", "password": {"secret": "basic"}}}}"#),
    ("bearer", r#"{"auth": {"bearer": {"secret": "bearer"}}}"#),
    ("header", r#"{"secret_headers": {"X-Api-Key": {"secret": "header"}}}"#),
];

/// A site that repeats the credentials that it was sent, as they are and percent-encoded, in a
/// redirect that ends in the result's message.
async fn serve_echo() -> Target {
    Target::serve_script(|request| {
        let lines = request.lines().filter_map(|line| line.split_once(": "));
        let sent = lines.filter(|(name, _)| name.contains("authorization") || name.contains("key"));
        let sent: Vec<&str> = sent.map(|(_, value)| value).collect();
        // The whole value is a host, in which letters become lower-case.
        if request.starts_with("GET /host") {
            let host = sent.concat();
            return vec![Step::send(format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{host}.invalid/\r\n\r\n"
            ))];
        }
        if request.starts_with("GET /denied") {
            let value = sent.concat();
            return vec![Step::send(format!(
                "HTTP/1.1 401 No\r\nwww-authenticate: {value}\r\ncontent-length: {}\r\n\r\n{value}",
                value.len()
            ))];
        }
        let values: String =
            sent.iter().map(|value| format!("{value}/{}", value.replace('-', "%2D"))).collect();
        vec![Step::send(format!(
            "HTTP/1.1 302 Found\r\nlocation: ftp://x/{values}\r\nconnection: close\r\n\r\n"
        ))]
    })
    .await
}

async fn add_site(stack: &Stack, name: &str, url: &str, options: &str) {
    let sql = format!(
        "INSERT INTO picket.sites (name, url, interval_seconds, options) VALUES ('{name}', '{url}', 5, '{options}')"
    );
    stack.execute_sql(&sql).await;
}

/// Waits until the site has a row with `verdict`, which is an outcome and a cause.
async fn wait_verdict(stack: &Stack, site: &str, verdict: &str) {
    let rows = format!(
        "SELECT count(*) FROM picket.check_results JOIN picket.sites ON sites.id = site_id
         WHERE name = '{site}' AND concat_ws(' ', outcome, cause) = '{verdict}'"
    );
    stack.wait_at_least(WAIT_TIMEOUT, 1, &rows).await;
}

/// Collects all that passes over the bus.
async fn record_bus(stack: &Stack) -> Arc<Mutex<String>> {
    let messages = Arc::<Mutex<String>>::default();
    let recorded = Arc::clone(&messages);
    let mut subscription = stack.connect_client().await.subscribe(">").await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = subscription.next().await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            *recorded.lock() += &format!("{} {:?} {text}\n", message.subject, message.headers);
        }
    });
    messages
}

/// All rows of all tables.
async fn dump_database(stack: &Stack) -> String {
    let tables = stack
        .query_lines(
            "SELECT oid::regclass::text FROM pg_class
             WHERE relnamespace = 'picket'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
        )
        .await;
    let mut dump = String::new();
    for table in tables {
        let rows = format!("SELECT coalesce(string_agg(row_to_json(t)::text, ' '), '') FROM {table} AS t");
        dump += &stack.query_lines(&rows).await.concat();
    }
    dump
}

/// The command lines of all processes of this machine.
fn read_command_lines() -> String {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("cmdline"));
    processes
        .filter_map(|path| fs::read(path).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}

#[track_caller]
fn assert_unmarked(place: &str, text: &str) {
    assert_without(place, text, MARKS);
}

#[track_caller]
fn assert_without<'m>(place: &str, text: &str, marks: impl IntoIterator<Item = &'m str>) {
    for mark in marks {
        if let Some(at) = text.find(mark) {
            let around: String =
                text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{place} has '{mark}' after: {around}");
        }
    }
}

#[tokio::test]
async fn secrets_reach_their_sites_and_appear_in_no_log_row_message_metric_or_command_line() {
    let stack = Stack::start(&["local"]).await;
    let echo = serve_echo().await;
    let endpoint = TokenEndpoint::serve_http(CLIENT_LOGIN, "MARK-token", Duration::ZERO).await;
    let issuer = endpoint.issuer();
    // Repeats the request, and with it the token, in a body that a regex is matched with.
    let protected = Target::serve_script(move |request| issuer.protect_site(request)).await;
    let servers = ProtectedServers::start().await;
    let file = SecretsFile::new(&[&echo, endpoint.target(), &protected]).with_protected_servers(&servers);
    let messages = record_bus(&stack).await;
    let processes =
        [stack.spawn_coordinator(&[]).await, file.spawn_prober(&stack).await, stack.spawn_sink(&[]).await];
    for process in &processes {
        process.wait_ready().await;
    }
    for (name, options) in CHECKS {
        add_site(&stack, name, &echo.url(&format!("/{name}")), options).await;
    }
    let oauth = |token_url: String| {
        format!(
            r#"{{"auth": {{"oauth2": {{"token_url": "{token_url}", "client_id": "me", "client_secret": {{"secret": "oauth"}}}}}}}}"#
        )
    };
    let token_url = endpoint.target().url("/token");
    add_site(&stack, "oauth", &protected.url("/"), &oauth(token_url.clone())).await;
    add_site(&stack, "oauth-echo", &echo.url("/token"), &oauth(token_url)).await;

    for (name, url, options, _) in servers.sites() {
        add_site(&stack, name, &url, &options).await;
    }
    add_site(&stack, "host", &echo.url("/host"), CHECKS[2].1).await;
    add_site(&stack, "denied", &echo.url("/denied"), CHECKS[0].1).await;
    add_site(&stack, "denied-header", &echo.url("/denied/header"), CHECKS[1].1).await;
    let expected =
        r#"status = '401', assertions = '{"headers": [{"name": "www-authenticate", "regex": "^nothing$"}]}'"#;
    stack.execute_sql(&format!("UPDATE picket.sites SET {expected} WHERE name = 'denied-header'")).await;

    for (name, _, _, verdict) in servers.sites() {
        wait_verdict(&stack, name, verdict).await;
    }
    wait_verdict(&stack, "denied", "down status").await;
    wait_verdict(&stack, "denied-header", "down header").await;
    let host = "SELECT count(*) FROM picket.check_results JOIN picket.sites ON sites.id = site_id
                WHERE name = 'host' AND message LIKE '%[redacted].invalid%'";
    stack.wait_at_least(WAIT_TIMEOUT, 1, host).await;
    let redacted =
        "SELECT count(DISTINCT site_id) FROM picket.check_results WHERE message LIKE '%[redacted]%'";
    stack.wait_at_least(WAIT_TIMEOUT, CHECKS.len() as i64 + 1, redacted).await;
    let up = "SELECT count(*) FROM picket.check_results WHERE outcome = 'up'";
    stack.wait_at_least(WAIT_TIMEOUT, 1, up).await;
    let received = echo.received_requests().concat() + &protected.received_requests().concat();
    for sent in [LOGIN, "Bearer MARK-bearer-token", "x-api-key: MARK-header-value", "Bearer MARK-token-1"] {
        assert!(received.contains(sent), "{sent}: {received}");
    }

    let to_proxy = servers.proxy.received_requests().concat();
    for sent in [PROXY_LOGIN, "Basic bWU6TUFSSy13cm9uZy1wYXNzd29yZA=="] {
        assert!(to_proxy.contains(sent), "{sent}: {to_proxy}");
    }
    assert!(!servers.site.received_requests().is_empty());

    let mut check = tokio::process::Command::new(program_path("picket-prober"));
    check.args(["secrets", "check", "--secrets-file", &file.path()]).env("TEST_HEADER", "MARK-header-value");
    let (code, listed, errors) = run_to_end(&mut check).await;
    assert!(
        code == 0 && listed.contains("secret  basic ") && listed.contains("proxy   office"),
        "{listed}{errors}"
    );
    let published = messages.lock().clone();
    let mut places = vec![
        ("the output of secrets check".to_owned(), listed + &errors),
        ("the bus".to_owned(), published),
        ("the database".to_owned(), dump_database(&stack).await),
        ("a command line".to_owned(), read_command_lines()),
    ];
    for process in processes {
        places.push(("a metric".to_owned(), process.http_get("/metrics").unwrap().body));
        places.push((format!("the log of {}", process.name()), process.read_log()));
        process.stop().await;
    }
    let key_lines = servers.key_lines();
    assert!(key_lines.len() >= 4, "{key_lines:?}");
    for (place, text) in &places {
        assert_unmarked(place, text);
        assert_without(place, text, key_lines.iter().map(String::as_str));
    }
}

#[tokio::test]
async fn no_secret_is_sent_to_a_host_that_is_not_listed() {
    let stack = Stack::start(&["local"]).await;
    let (listed, evil) = (Target::serve_http().await, Target::serve_http().await);
    let file = SecretsFile::new(&[&listed]);
    let processes =
        [stack.spawn_coordinator(&[]).await, file.spawn_prober(&stack).await, stack.spawn_sink(&[]).await];
    for process in &processes {
        process.wait_ready().await;
    }

    for (name, options) in CHECKS {
        add_site(&stack, name, &evil.url(&format!("/{name}")), options).await;
        let redirect = listed.url(&format!("/to/{}", evil.url(&format!("/redirected-{name}"))));
        add_site(&stack, &format!("redirected-{name}"), &redirect, options).await;
        let led_astray = options.replacen('{', &format!(r#"{{"connect_to": "{}", "#, evil.address()), 1);
        add_site(&stack, &format!("astray-{name}"), &listed.url(&format!("/{name}")), &led_astray).await;
    }
    let client = stack.connect_client().await;
    for (_, options) in CHECKS {
        for url in [evil.url("/adhoc"), listed.url("/adhoc")] {
            let request = format!(r#"{{"url": "{url}", "options": {options}}}"#);
            let reply = client.request("picket.check.local", request.into()).await.unwrap();
            let reply = String::from_utf8_lossy(&reply.payload).into_owned();
            assert!(reply.contains(r#""cause":"secret_unavailable""#), "{reply}");
        }
    }

    let missed =
        "SELECT count(DISTINCT site_id) FROM picket.check_results JOIN picket.sites ON sites.id = site_id
                  WHERE name !~ '^redirected' AND outcome = 'missed'";
    stack.wait_at_least(WAIT_TIMEOUT, 2 * CHECKS.len() as i64, missed).await;
    let redirected = "SELECT count(DISTINCT site_id) FROM picket.check_results WHERE redirects = 1";
    stack.wait_at_least(WAIT_TIMEOUT, CHECKS.len() as i64, redirected).await;
    let requests = evil.received_requests();
    assert!(requests.iter().all(|request| request.starts_with("GET /redirected-")), "{requests:?}");
    assert_unmarked("a request to another host", &requests.concat());
    let sent = listed.received_requests().concat();
    assert!(!sent.contains("/adhoc") && sent.contains(LOGIN), "{sent}");
    for process in processes {
        process.stop().await;
    }
}

#[tokio::test]
async fn a_prober_with_a_refused_secrets_file_ends_and_names_the_line_and_no_value() {
    let stack = Stack::start(&["local"]).await;
    let file = SecretsFile::empty();
    for (text, mode, reason) in [
        ("[secret.a]\nvalue = MARK-unquoted", 0o600, "line 2: not TOML"),
        ("[secret.a]\nvalue = 'MARK-value'\nhost = 'x'", 0o600, "line 3: secret.a: 'host' is not allowed"),
        ("[secret.a]\nvalue = 'MARK-value'", 0o640, "mode 0640 is not allowed"),
    ] {
        file.write("secrets.toml", text);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let mut prober = file.spawn_prober(&stack).await;

        let status = prober.wait_exit(WAIT_TIMEOUT).await;

        let log = prober.read_log();
        assert_eq!(status.code(), Some(3), "{log}");
        assert!(log.contains(reason), "{reason}: {log}");
        assert_unmarked("the log", &log);
    }
}
