//! The API as a process: floods of connections, a kill during a write, and its end.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]
#![expect(clippy::print_stdout, reason = "says what was measured, and what was not tested")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use picket_e2e::Stack;
use picket_harness::{eventually, http};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Files that this process may open, for connections.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(500)
}

#[tokio::test]
async fn ten_thousand_half_open_connections_cost_bounded_memory_and_lock_out_no_other_peer() {
    let stack = Stack::start(&["local"]).await;
    let (api, address) = stack.spawn_api(&[]).await;
    api.wait_ready().await;
    let before = api.memory_kib();
    let count = raise_file_limit().min(10_500);
    if count < 10_500 {
        println!("NOT TESTED with more than {count} connections: the limit of open files is lower");
    }

    let mut flood = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let _ = stream.write_all(b"GET /api/v1/me HTTP/1.1\r\nhost: a\r\nx:").await;
        flood.push(stream);
    }

    let answer = http::get(address, "/api/v1/me", Duration::from_secs(5)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let grown = api.memory_kib().saturating_sub(before);
    println!("{count} half-open connections: {grown} KiB more");
    assert!(grown < 400_000, "{grown} KiB for {count} connections");
    drop(flood);
    api.stop().await;
}

/// Sends a request by hand, without waiting for its answer.
async fn send_request(address: SocketAddr, method: &str, path: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_kill_during_a_change_leaves_nothing_of_it() {
    let stack = Stack::start(&["local"]).await;
    let create = async |name: &str, scopes: &str| {
        let arguments = ["token", "create", name, "--scopes", scopes, "--output", "json"];
        let (code, text, error) = stack.run_picket(&arguments).await;
        assert_eq!(code, 0, "{error}");
        let token: Value = serde_json::from_str(&text).unwrap();
        (token["id"].as_i64().unwrap(), token["secret"].as_str().unwrap().to_owned())
    };
    let (_, admin) = create("admin", "admin").await;
    let (id, _) = create("victim", "read").await;
    let session = format!(
        "INSERT INTO picket.sessions (session_hash, token_id, name, scopes, expires_at)
         VALUES (decode(repeat('00', 32), 'hex'), {id}, 'victim', '{{read}}', now() + interval '1 hour')"
    );
    stack.execute_sql(&session).await;
    let (api, address) = stack.spawn_api(&[]).await;
    api.wait_ready().await;
    // The revocation has changed the token, and waits for the session.
    let mut holder = PgConnection::connect(stack.database_url()).await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("SELECT FROM picket.sessions FOR UPDATE").execute(&mut *lock).await.unwrap();
    let _request = send_request(address, "DELETE", &format!("/api/v1/tokens/{id}"), &admin).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    stack.wait_at_least(TEST_TIMEOUT, 1, waiting).await;

    api.kill().await;
    lock.rollback().await.unwrap();

    let sessions_of = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'picket-api'";
    eventually(TEST_TIMEOUT, "the sessions of the killed process to end", async || {
        match stack.query_number(sessions_of).await {
            0 => Ok(()),
            open => Err(open),
        }
    })
    .await;
    let left = "SELECT count(*) FROM picket.sessions JOIN picket.api_tokens USING (token_id) WHERE revoked_at IS NULL";
    assert_eq!(stack.query_number(left).await, 1);
}

#[tokio::test]
async fn a_process_ends_on_sigterm_beside_idle_connections() {
    let stack = Stack::start(&["local"]).await;
    let (api, address) = stack.spawn_api(&[]).await;
    api.wait_ready().await;
    let _idle = TcpStream::connect(address).await.unwrap();

    api.stop().await;

    assert!(TcpStream::connect(address).await.is_err());
}
