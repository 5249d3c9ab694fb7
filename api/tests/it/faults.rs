//! Clients that send too much, too slowly or too often, and a database that is away.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use picket_harness::{eventually, proc, servers};
use picket_store::api_tokens::Scope;
use reqwest::{Method, StatusCode};
use sqlx::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::support::{TEST_TIMEOUT, TestApi, send, test_config};

/// A connection from this address of loopback.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// What the server answers until it closes the connection.
async fn read_rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.expect("it is closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn idle_and_half_open_connections_of_one_peer_lock_out_no_other() {
    let api = TestApi::start_with(picket_api::Config { max_connections: 50, ..test_config() }).await;
    let mut flood = Vec::new();
    for number in 0..200 {
        let mut stream = connect_from(2, api.address).await;
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /api/v1/me HTTP/1.1\r\nhost:").await;
        }
        flood.push(stream);
    }

    assert_eq!(api.get("/api/v1/me", None).await.status, StatusCode::OK);

    let evicted = api.metric("picket_api_refusals_total{reason=\"connection_evicted\"}");
    assert!(evicted >= 150.0, "{evicted}");
    assert!(read_rest(&mut flood[0]).await.is_empty());
    assert!(api.metric("picket_api_connections") <= 51.0);
}

#[tokio::test]
async fn a_head_and_a_body_of_one_byte_a_second_end_within_their_limits() {
    let api = TestApi::start().await;
    let trickle = async |text: &'static [u8], head: String| {
        let started = Instant::now();
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let write = async {
            for byte in text.iter().cycle() {
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = write => {}
            _ = reader.read_to_end(&mut answer) => {}
        }
        (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
    };
    let head = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        api.address
    );

    let ((slow_head, head_time), (slow_body, body_time)) = tokio::join!(
        trickle(b"x-slow: a\r\n", "GET /api/v1/me HTTP/1.1\r\n".to_owned()),
        trickle(b" ", head)
    );

    assert!(
        !slow_head.contains("200 OK") && head_time < Duration::from_secs(15),
        "{head_time:?} {slow_head}"
    );
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    assert!(body_time < Duration::from_secs(25), "{body_time:?}");
    assert_eq!(api.metric("picket_api_refusals_total{reason=\"body_timed_out\"}"), 1.0);
    assert!(api.metric("picket_api_refusals_total{reason=\"invalid_head\"}") >= 1.0);
}

#[tokio::test]
async fn bodies_of_100_mb_are_refused_with_bounded_memory() {
    const BODY_BYTES: usize = 100_000_000;
    let api = TestApi::start().await;
    let before = proc::resident_kib(std::process::id()).unwrap();
    let send_body = async |framing: String, is_chunked: bool| {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = format!(
            "POST /api/v1/tokens HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n{framing}\r\n\r\n",
            api.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let piece = vec![b' '; 50_000];
        let write = async {
            for _ in 0..BODY_BYTES / piece.len() {
                if is_chunked && writer.write_all(b"c350\r\n").await.is_err() {
                    break;
                }
                if writer.write_all(&piece).await.is_err() {
                    break;
                }
                if is_chunked && writer.write_all(b"\r\n").await.is_err() {
                    break;
                }
            }
            // The answer may be lost with the reset, but not that the body was not taken.
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = write => {}
            _ = reader.read_to_end(&mut answer) => {}
        }
        String::from_utf8_lossy(&answer).into_owned()
    };

    let (sized, chunked) = tokio::join!(
        send_body(format!("content-length: {BODY_BYTES}"), false),
        send_body("transfer-encoding: chunked".to_owned(), true)
    );

    for answer in [sized, chunked] {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert_eq!(api.metric("picket_api_refusals_total{reason=\"body_too_large\"}"), 2.0);
    let grown = proc::resident_kib(std::process::id()).unwrap().saturating_sub(before);
    assert!(grown < 50_000, "{grown} KiB more");
    assert_eq!(api.get("/api/v1/me", None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_postgres_requests_are_refused_as_unavailable_and_work_again_afterwards() {
    let mut postgres = servers::start_postgres().await;
    let database_url = postgres.create_database().await;
    let api = TestApi::start_on(test_config(), servers::shared_nats().await, database_url).await;
    let token = api.create_token(&[Scope::Read], None).await;
    assert_eq!(api.get("/api/v1/regions", Some(&token)).await.status, StatusCode::OK);

    postgres.stop().await;
    let away = api.get("/api/v1/regions", Some(&token)).await;
    away.expect_problem(503);
    assert_eq!(
        (away.json()["type"].as_str(), away.header("retry-after")),
        (Some("/api#database-unavailable"), "5")
    );
    assert!(!away.text.contains("127.0.0.1"), "{away:?}");
    // What needs no database goes on.
    assert_eq!(api.get("/sign-in", None).await.status, StatusCode::OK);

    postgres.start().await;
    eventually(TEST_TIMEOUT, "the API to recover", async || {
        match api.get("/api/v1/regions", Some(&token)).await.status {
            StatusCode::OK => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_finishes_the_running_request_and_takes_no_more() {
    let api = TestApi::start().await;
    let admin = api.create_admin_token().await;
    let (id, _) = api.create_token_until(&[Scope::Read], None, None).await;
    let mut holder = sqlx::PgConnection::connect(&api.database_url).await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("SELECT FROM picket.api_tokens WHERE token_id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut *lock)
        .await
        .unwrap();
    let request = api.request(Method::DELETE, &format!("/api/v1/tokens/{id}"), Some(&admin));
    let running_request = tokio::spawn(send(request));
    eventually(TEST_TIMEOUT, "the request to wait for the lock", async || {
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE NOT granted")
            .fetch_one(&api.pool)
            .await
            .unwrap();
        if waiting > 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
    let (address, client) = (api.address, api.client.clone());

    let drain = tokio::spawn(api.running.drain());
    eventually(TEST_TIMEOUT, "new requests to be refused", async || {
        let answer =
            client.get(format!("http://{address}/api/v1/me")).timeout(Duration::from_secs(1)).send().await;
        if answer.is_err() { Ok(()) } else { Err("answered") }
    })
    .await;
    assert!(!drain.is_finished());
    lock.rollback().await.unwrap();

    assert_eq!(running_request.await.unwrap().status, StatusCode::NO_CONTENT);
    timeout(TEST_TIMEOUT, drain).await.expect("the drain ends").unwrap();
}

#[tokio::test]
async fn reports_that_are_given_up_keep_their_permits_and_leave_connections_to_lists() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let mut lock = api.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE picket.incidents IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let given_up = (0..3 * picket_api::DATABASE_CONNECTIONS).map(|_| async {
        let report = api.get("/api/v1/reports/incidents", Some(&token));
        tokio::time::timeout(std::time::Duration::from_millis(300), report).await.unwrap_err();
    });
    futures_util::future::join_all(given_up).await;

    let other = api.create_token(&[Scope::Read], None).await;
    assert_eq!(api.get("/api/v1/sites", Some(&other)).await.status, StatusCode::OK);
    lock.rollback().await.unwrap();
    assert_eq!(api.get("/api/v1/reports/incidents", Some(&token)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn reports_that_wait_for_the_database_leave_connections_to_lists_and_the_next_is_refused() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    let mut lock = api.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE picket.incidents IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let report = || api.get("/api/v1/reports/incidents", Some(&token));
    let others = async {
        eventually(TEST_TIMEOUT, "half of the connections to wait", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE wait_event_type = 'Lock' AND datname = current_database()";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&api.pool).await.unwrap();
            if waiting == i64::from(picket_api::DATABASE_CONNECTIONS) / 2 { Ok(()) } else { Err(waiting) }
        })
        .await;
        // Another token, whose rights the database must be asked for.
        let other = api.create_token(&[Scope::Read], None).await;
        assert_eq!(api.get("/api/v1/sites", Some(&other)).await.status, StatusCode::OK);
        let (refused, page) = tokio::join!(report(), api.get("/incidents", Some(&token)));
        assert!(refused.expect_problem(503).contains("too many reports"), "{refused:?}");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.text.contains("too many reports"), "{}", page.text);
        lock.rollback().await.unwrap();
    };
    // A report of more connections would wait for the lock too, and not for a permit.
    let held = futures_util::future::join_all((0..4).map(|_| report()));
    let (held, ()) = tokio::join!(held, others);

    assert!(held.iter().all(|answer| answer.status == StatusCode::OK), "{held:?}");
    assert_eq!(report().await.status, StatusCode::OK);
    assert_eq!(api.metric("picket_api_refusals_total{reason=\"report_limit\"}"), 2.0);
}

#[tokio::test]
async fn a_report_has_at_most_as_many_rows_as_its_limit() {
    let api = TestApi::start().await;
    let token = api.create_admin_token().await;
    for n in 0..3 {
        let site = api.add_site(&format!("https://{n}.example/"), &[]).await;
        sqlx::query(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, regions)
             VALUES ($1, now() - interval '1 hour', now() - interval '1 hour', 'timeout', '{eu}')",
        )
        .bind(site)
        .execute(&api.pool)
        .await
        .unwrap();
    }
    let count = async |query: &str| {
        let report = api.get(&format!("/api/v1/reports/incidents{query}"), Some(&token)).await;
        assert_eq!(report.status, StatusCode::OK, "{report:?}");
        report.json()["items"].as_array().unwrap().len()
    };

    assert_eq!((count("").await, count("?limit=2").await, count("?limit=1000").await), (3, 2, 3));
    let refused = api.get("/api/v1/reports/incidents?limit=1001", Some(&token)).await;
    assert!(refused.expect_problem(422).contains("1 to 1000"), "{refused:?}");
}
