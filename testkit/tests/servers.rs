//! The servers that tests stand on: there when asked for, injured when asked to be, gone when the test process is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use picket_testkit::{
    eventually,
    servers::{nats, own_postgres, postgres, scratch_dir, shared_nats},
};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (first, second) = tokio::join!(async { postgres().await.database().await }, async {
        postgres().await.database().await
    });

    assert_ne!(first, second);
    let found =
        postgres().await.administer("SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'").await;
    assert_eq!(found.trim(), "2");
}

#[tokio::test]
async fn what_a_stream_has_acknowledged_outlives_a_restart_and_a_kill() {
    let mut server = nats().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let mut stream = jetstream
        .create_stream(async_nats::jetstream::stream::Config {
            name: "KEPT".to_owned(),
            subjects: vec!["kept".to_owned()],
            ..Default::default()
        })
        .await
        .unwrap();

    for _ in 0..2 {
        jetstream.publish("kept", "x".into()).await.unwrap().await.unwrap();
        server.restart().await;
        server.kill().await;
        server.start().await;
        eventually(LIMIT, "the client's connection", async || stream.info().await.map(drop)).await;
    }

    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test(start_paused = true)]
async fn servers_start_under_a_paused_clock_too() {
    shared_nats().await;
    postgres().await;

    let mut own = nats().await;
    own.restart().await;
}

#[tokio::test]
async fn a_killed_postgres_comes_back_under_the_same_url() {
    let mut server = own_postgres().await;
    let url = server.url().to_owned();

    server.kill().await;
    server.start().await;

    assert_eq!(server.administer("SELECT 1").await.trim(), "1");
    assert_eq!(server.url(), url);
}

/// Not a test of its own: the test process that is killed.
#[tokio::test]
#[ignore = "the test below runs it as a process"]
async fn starts_servers_and_is_killed() {
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    postgres().await;
    let paused = nats().await;
    paused.pause();
    fs::write(file, scratch_dir("x").parent().unwrap().to_str().unwrap()).unwrap();
    std::future::pending().await
}

/// Where it says what its directory is.
const FILE: &str = "PICKET_TEST_KILLED_FILE";

#[tokio::test]
async fn no_server_and_no_file_outlives_a_killed_test_process() {
    let file = scratch_dir("killed").join("directory");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "starts_servers_and_is_killed"])
        .env(FILE, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = eventually(LIMIT, "the other process's servers", async || {
        fs::read_to_string(&file).ok().filter(|dir| !dir.is_empty())
    })
    .await;
    let pid = |file: &str| {
        fs::read_to_string(find(Path::new(&dir), file)).unwrap().lines().next().unwrap().to_owned()
    };
    let pids = [pid("nats/nats.pid"), pid("postgres/postmaster.pid")];
    assert!(pids.iter().all(|pid| runs(pid)));

    process.kill().unwrap();
    process.wait().unwrap();

    eventually(LIMIT, "the directory's removal", async || !Path::new(&dir).exists()).await;
    for pid in pids {
        assert!(!runs(&pid), "process {pid} runs still");
    }
}

/// The file of this name in one of the directories of `dir`.
fn find(dir: &Path, file: &str) -> PathBuf {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let mut files = entries.flatten().map(|entry| entry.path().join(file));
    files.find(|file| file.exists()).unwrap_or_else(|| panic!("there is no {file} in {}", dir.display()))
}

/// Whether a process runs: a dead one that nobody has waited for does not.
fn runs(pid: &str) -> bool {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        return !stat.contains(") Z ");
    }
    Command::new("/bin/sh")
        .args(["-c", "kill -0 \"$0\" 2>/dev/null", pid])
        .status()
        .expect("sh runs")
        .success()
}
