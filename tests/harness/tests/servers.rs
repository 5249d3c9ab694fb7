//! The servers of tests: started on demand, stopped and killed on demand, ended with the test
//! process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use picket_harness::{
    eventually,
    proc::is_running,
    servers::{scratch_dir, shared_nats, shared_postgres, start_nats, start_postgres},
};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (first, second) = tokio::join!(async { shared_postgres().await.create_database().await }, async {
        shared_postgres().await.create_database().await
    });

    assert_ne!(first, second);
    let found = shared_postgres()
        .await
        .run_admin_sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'")
        .await;
    assert_eq!(found.trim(), "2");
}

#[tokio::test]
async fn acknowledged_messages_survive_a_restart_and_a_kill() {
    let mut server = start_nats().await;
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
        eventually(TEST_TIMEOUT, "the client's connection", async || stream.info().await.map(drop)).await;
    }

    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test(start_paused = true)]
async fn servers_start_under_a_paused_clock() {
    shared_nats().await;
    shared_postgres().await;

    let mut own = start_nats().await;
    own.restart().await;
}

#[tokio::test]
async fn a_killed_postgres_restarts_under_the_same_url() {
    let mut server = start_postgres().await;
    let url = server.url().to_owned();

    server.kill().await;
    server.start().await;

    assert_eq!(server.run_admin_sql("SELECT 1").await.trim(), "1");
    assert_eq!(server.url(), url);
}

/// Not a test of its own: the test process that is killed.
#[tokio::test]
#[ignore = "the test below runs it as a process"]
async fn helper_process_starts_servers_and_is_killed() {
    let Some(file) = std::env::var_os(FILE_VARIABLE) else {
        return;
    };
    shared_postgres().await;
    let paused = start_nats().await;
    paused.pause();
    fs::write(file, scratch_dir("x").parent().unwrap().to_str().unwrap()).unwrap();
    std::future::pending().await
}

/// Where it says what its directory is.
const FILE_VARIABLE: &str = "PICKET_TEST_KILLED_FILE";

#[tokio::test]
async fn no_server_and_no_file_outlives_a_killed_test_process() {
    let file = scratch_dir("killed").join("directory");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "helper_process_starts_servers_and_is_killed"])
        .env(FILE_VARIABLE, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = eventually(TEST_TIMEOUT, "the other process's servers", async || {
        fs::read_to_string(&file).ok().filter(|dir| !dir.is_empty())
    })
    .await;
    let pid = |file: &str| {
        let text = fs::read_to_string(find_file(Path::new(&dir), file)).unwrap();
        text.lines().next().unwrap().parse::<u32>().unwrap()
    };
    let pids = [pid("nats/nats.pid"), pid("postgres/postmaster.pid")];
    assert!(pids.iter().all(|pid| is_running(*pid)));

    process.kill().unwrap();
    process.wait().unwrap();

    eventually(TEST_TIMEOUT, "the directory's removal", async || !Path::new(&dir).exists()).await;
    for pid in pids {
        assert!(!is_running(pid), "process {pid} runs still");
    }
}

/// The file of this name in one of the directories of `dir`.
fn find_file(dir: &Path, file: &str) -> PathBuf {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let mut files = entries.flatten().map(|entry| entry.path().join(file));
    files.find(|file| file.exists()).unwrap_or_else(|| panic!("there is no {file} in {}", dir.display()))
}
