//! Starting and stopping: persistent data, ports and directories in use, errors with reasons.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use picket_servers::{DataDir, Error, Nats, NatsConfig, Postgres, PostgresConfig, Signal, Tools};

use crate::{create_open_dir, nats_config, pinned_tools, postgres_config};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_second_start_finds_the_data_of_the_first() {
    let dir = create_open_dir();
    let data = DataDir::lock(&dir.path().join("data")).unwrap();
    let first = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    let url = first.url();
    first.run_admin_sql("CREATE DATABASE kept").await.unwrap();
    first.stop(TEST_TIMEOUT).await.unwrap();

    let second = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    let found =
        second.run_admin_sql("SELECT count(*) FROM pg_database WHERE datname IN ('kept', 'picket')").await;

    assert_eq!(found.unwrap().trim(), "2");
    let password = |url: &str| url.split(['@', ':']).nth(2).unwrap().to_owned();
    assert_eq!(password(&second.url()), password(&url));
    second.stop(TEST_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn the_password_is_readable_by_its_user_alone_and_required() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    let mode = fs::metadata(dir.path().join("postgres.password")).unwrap().permissions().mode();
    let psql = pinned_tools().find_postgres().unwrap().psql_path();
    let port = postgres.port().to_string();
    let arguments = ["-w", "-h", "127.0.0.1", "-p", &port, "-U", "picket", "-c", "SELECT 1"];
    let refused =
        std::process::Command::new(psql).env("PGPASSFILE", "/dev/null").args(arguments).output().unwrap();

    assert_eq!(mode & 0o777, 0o600);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no password supplied"), "{refused:?}");
    postgres.stop(TEST_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_symbolic_link_in_place_of_the_lock_or_of_a_log_is_not_followed() {
    for link in ["lock", "logs/nats.log"] {
        let dir = create_open_dir();
        let victim = dir.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("logs")).unwrap();
        std::os::unix::fs::symlink(&victim, data.join(link)).unwrap();

        let refused = match DataDir::lock(&data) {
            Ok(data) => Nats::start(&pinned_tools(), &data, nats_config()).await.map(drop).unwrap_err(),
            Err(refused) => refused,
        };

        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains(link) && cause.contains("symbolic link"), "{cause}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept", "{link}");
    }
}

#[tokio::test]
async fn logs_are_private_and_omit_the_values_of_failed_statements() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let old = dir.path().join("logs/postgres.log");
    fs::write(&old, "of an earlier release\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    postgres
        .run_admin_sql("CREATE TABLE kept (secret text PRIMARY KEY CHECK (secret <> 'hunter2'))")
        .await
        .unwrap();
    for statement in ["INSERT INTO kept VALUES ('hunter2')", "SELECT 'hunter2' FROM nowhere"] {
        postgres.run_admin_sql(statement).await.unwrap_err();
    }
    postgres.stop(TEST_TIMEOUT).await.unwrap();

    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["logs", "logs/postgres.log", "lock", "nats"].map(mode), [0o700, 0o600, 0o600, 0o700]);
    let log = fs::read_to_string(&old).unwrap();
    assert!(log.contains("violates check constraint") && log.contains("nowhere"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn the_log_of_a_running_server_is_bounded() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();
    let mut log = fs::File::options().append(true).open(nats.log_path()).unwrap();

    log.write_all(&vec![b'x'; 17 << 20]).unwrap();

    let bounded = tokio::time::timeout(TEST_TIMEOUT, async {
        while log.metadata().unwrap().len() > 1 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    bounded.await.expect("the log is emptied");
    assert_eq!(fs::metadata(dir.path().join("logs/nats.log.1")).unwrap().len(), 16 << 20);
    nats.stop(TEST_TIMEOUT).await.unwrap();
    let after = fs::read_to_string(dir.path().join("logs/nats.log")).unwrap();
    assert!(after.contains("Exiting") || after.contains("exiting"), "the server goes on writing: {after}");
}

#[tokio::test]
async fn data_of_another_major_version_are_refused_with_a_remedy() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    let version = postgres.cluster_dir().join("PG_VERSION");
    postgres.stop(TEST_TIMEOUT).await.unwrap();
    fs::write(&version, "14\n").unwrap();

    let error = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap_err();

    assert!(matches!(&error, Error::VersionMismatch { found, .. } if found == "14"), "{error}");
    let said = error.to_string();
    assert!(["Postgres 14", "pg_dump", "--data-dir"].iter().all(|part| said.contains(part)), "{said}");
}

#[tokio::test]
async fn a_lost_password_is_reported_and_not_replaced() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    postgres.stop(TEST_TIMEOUT).await.unwrap();
    fs::remove_file(dir.path().join("postgres.password")).unwrap();

    let error = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap_err();

    assert!(matches!(error, Error::PasswordMissing { .. }), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_option() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();

    let nats = Nats::start(&pinned_tools(), &data, NatsConfig { port, ..nats_config() }).await.unwrap_err();
    let postgres = Postgres::start(&pinned_tools(), &data, PostgresConfig { port, ..postgres_config() })
        .await
        .unwrap_err();

    let said = nats.to_string();
    assert!(said.contains(&port.to_string()) && said.contains("--nats-port"), "{said}");
    let said = postgres.to_string();
    assert!(said.contains(&port.to_string()) && said.contains("--pg-port"), "{said}");
}

#[tokio::test]
async fn a_data_directory_in_use_names_its_holder() {
    let dir = create_open_dir();
    let _data = DataDir::lock(dir.path()).unwrap();

    let error = DataDir::lock(dir.path()).unwrap_err();

    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(DataDir::holder_pid(dir.path()).unwrap(), Some(std::process::id()));
}

#[tokio::test]
async fn a_data_directory_is_free_after_its_holder_ends() {
    let dir = create_open_dir();
    drop(DataDir::lock(dir.path()).unwrap());

    // Another test may just be starting a process, which has all of this one's files open until its exec.
    let taken = tokio::time::timeout(TEST_TIMEOUT, async {
        loop {
            match DataDir::lock(dir.path()) {
                Err(Error::DataDirInUse { .. }) => tokio::task::yield_now().await,
                taken => break taken,
            }
        }
    });

    taken.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_to_start_is_quoted() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let jetstream = dir.path().join("nats/jetstream");
    fs::write(&jetstream, "a file where a directory should be").unwrap();

    let error = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap_err();

    assert!(matches!(error, Error::ExitedAtStart { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("nats.log") && said.contains("not a directory"), "{said}");
}

#[tokio::test]
async fn the_exit_of_a_server_is_detected_and_reported() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let mut nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();

    nats.send_signal(Signal::KILL).unwrap();
    let error = tokio::time::timeout(TEST_TIMEOUT, nats.wait_exited()).await.unwrap();

    assert!(error.to_string().contains("nats-server ended (signal: 9"), "{error}");
}

#[tokio::test]
async fn a_paused_server_stops_in_order() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    postgres.send_signal(Signal::STOP).unwrap();
    let stopped = postgres.stop(TEST_TIMEOUT).await;

    stopped.unwrap();
}

#[tokio::test]
async fn servers_are_process_groups_of_their_own() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let nats = Nats::start(&pinned_tools(), &data, nats_config()).await.unwrap();

    let pid = rustix::process::Pid::from_raw(nats.pid().cast_signed());
    let group = rustix::process::getpgid(pid).unwrap();

    assert_eq!(Some(group), pid);
    nats.stop(TEST_TIMEOUT).await.unwrap();
}

#[test]
fn a_missing_tool_is_named_with_its_install_command() {
    let dir = create_open_dir();

    let said = Tools::in_dir(Some(dir.path())).find_postgres().unwrap_err().to_string();

    assert!(said.contains("postgres") && said.contains("./justw tools"), "{said}");
}

#[tokio::test]
async fn the_bus_writes_what_it_has_acknowledged_to_disk_each_second() {
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();
    let config = nats_config();
    let monitor = nats_config().port;
    let nats = Nats::start(&pinned_tools(), &data, NatsConfig { monitor_port: Some(monitor), ..config })
        .await
        .unwrap();

    let mut asked = TcpStream::connect(("127.0.0.1", monitor)).unwrap();
    asked.write_all(b"GET /jsz?config=true HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    asked.read_to_string(&mut answer).unwrap();

    // In nanoseconds. Without it two minutes are at stake.
    assert!(answer.contains("\"sync_interval\": 1000000000"), "{answer}");
    nats.stop(TEST_TIMEOUT).await.unwrap();
}
