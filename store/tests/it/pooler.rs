//! PgBouncer between a process and Postgres, where it is installed.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use picket_harness::{eventually, servers};
use picket_store::Error;

use crate::open_store;

/// A PgBouncer of a test's own.
struct Pooler {
    process: Child,
    url: String,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pooler in front of `url`; `None`, with a message, where it is not installed.
async fn start_pooler(url: &str, mode: &str) -> Option<Pooler> {
    let (login, place) = url.trim_start_matches("postgres://").split_once('@').unwrap();
    let ((user, password), (host, database)) =
        (login.split_once(':').unwrap(), place.split_once('/').unwrap());
    let port = servers::non_ephemeral_port();
    let config = format!(
        "[databases]\n{database} = host=127.0.0.1 port={} user={user} password={password}\n\
         [pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\nunix_socket_dir=\n\
         pool_mode={mode}\nuser=nobody\n",
        host.rsplit(':').next().unwrap()
    );
    let file = servers::scratch_dir("pgbouncer").join("pgbouncer.ini");
    fs::write(&file, config).unwrap();
    let started = Command::new("pgbouncer")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(process) = started else {
        eprintln!("NOT TESTED: there is no pgbouncer on this machine (Debian's package of that name)");
        return None;
    };
    let pooler = Pooler { process, url: format!("postgres://{user}@127.0.0.1:{port}/{database}") };
    eventually(Duration::from_secs(20), "a pooler that listens", async || {
        TcpStream::connect(("127.0.0.1", port)).map(drop)
    })
    .await;
    Some(pooler)
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_by_name() {
    let url = servers::shared_postgres().await.create_database().await;
    let Some(pooler) = start_pooler(&url, "transaction").await else { return };

    let store = open_store(&pooler.url);
    for refused in [store.check_session().await, store.check_usable().await, store.migrate(64).await] {
        assert!(matches!(refused, Err(Error::SharedSession)), "{refused:?}");
    }
    let message = Error::SharedSession.to_string();
    assert!(message.contains("PgBouncer") && message.contains("pool_mode=session"), "{message}");
}

#[tokio::test]
async fn a_pooler_in_session_mode_works_like_postgres() {
    let url = servers::shared_postgres().await.create_database().await;
    let Some(pooler) = start_pooler(&url, "session").await else { return };

    let store = open_store(&pooler.url);
    store.migrate(64).await.unwrap();
    store.check_usable().await.unwrap();
}

#[tokio::test]
async fn two_direct_connections_are_two_sessions() {
    let url = servers::shared_postgres().await.create_database().await;
    open_store(&url).check_session().await.unwrap();
}
