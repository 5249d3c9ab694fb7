//! Servers whose owner was killed, and stale pid files.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use picket_servers::{DataDir, Nats, Postgres};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{create_open_dir, nats_config, pinned_tools, postgres_config};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Data directory of the process to be killed.
const DIR_VARIABLE: &str = "PICKET_TEST_LEFTOVER_DIR";

/// Not a test of its own: the process that starts servers and is killed.
#[tokio::test]
#[ignore = "the other tests of this file run it as a process"]
async fn helper_process_starts_servers_and_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let data = DataDir::lock(Path::new(&dir)).unwrap();
    let nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    fs::write(Path::new(&dir).join("started.new"), format!("{} {}", nats.pid(), postgres.pid())).unwrap();
    fs::rename(Path::new(&dir).join("started.new"), Path::new(&dir).join("started")).unwrap();
    std::future::pending().await
}

/// Starts servers in another process, kills that, and gives the servers' pids.
async fn orphan_servers(dir: &Path) -> (Pid, Pid) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "leftovers::helper_process_starts_servers_and_is_killed"])
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = tokio::time::timeout(TEST_TIMEOUT, async {
        loop {
            match fs::read_to_string(dir.join("started")) {
                Ok(started) => break started,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let started = started.await.expect("the servers of the other process start");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let pids: Vec<_> = started.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    (pids[0], pids[1])
}

#[tokio::test]
async fn servers_left_by_a_killed_process_are_stopped_by_the_next_start() {
    let dir = create_open_dir();
    let (old_nats, old_postgres) = orphan_servers(dir.path()).await;
    test_kill_process(old_nats).expect("nats-server outlives its owner");
    test_kill_process(old_postgres).expect("Postgres outlives its owner");

    let data = DataDir::lock(dir.path()).unwrap();
    let nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    assert!(!is_running(old_nats) && !is_running(old_postgres));
    let log = fs::read_to_string(postgres.log_path()).unwrap();
    assert!(log.contains("received fast shutdown request"), "stopped in order: {log}");
    postgres.stop(TEST_TIMEOUT).await.unwrap();
    nats.stop(TEST_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_killed_postgres_starts_again_on_its_data() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    postgres.run_admin_sql("CREATE DATABASE kept").await.unwrap();
    postgres.kill().await.unwrap();

    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    let found = postgres.run_admin_sql("SELECT 1 FROM pg_database WHERE datname = 'kept'").await.unwrap();
    assert_eq!(found.trim(), "1");
    postgres.stop(TEST_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn an_unrelated_process_with_a_reused_pid_is_not_stopped() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap().kill().await.unwrap();
    Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap().kill().await.unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let pid_file = dir.path().join("postgres/postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();
    fs::write(dir.path().join("nats/nats.pid"), stranger.id().to_string()).unwrap();

    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    let nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();

    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    postgres.stop(TEST_TIMEOUT).await.unwrap();
    nats.stop(TEST_TIMEOUT).await.unwrap();
}

/// Returns true if a process runs. An ended process that was not reaped yet exists but does not
/// run.
fn is_running(pid: Pid) -> bool {
    let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    test_kill_process(pid).is_ok() && !zombie && kill_process(pid, Signal::CONT).is_ok()
}
