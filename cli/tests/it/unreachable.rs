//! Unavailable parts: the database, the bus, the schema, the reader of the output.

use std::{
    io::{BufRead, BufReader},
    process::{Output, Stdio},
};

use picket_harness::servers::{non_ephemeral_port, shared_postgres};

use crate::{Picket, picket_command};

#[track_caller]
fn unreachable_error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unreachable_server_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let port = non_ephemeral_port();
    let run = |arguments: &[&str]| {
        let urls = [
            ("DATABASE_URL", format!("postgres://picket:secret@127.0.0.1:{port}/picket")),
            ("NATS_URL", format!("nats://127.0.0.1:{port}")),
        ];
        picket_command(dir.path()).envs(urls).args(arguments).output().unwrap()
    };

    let database = unreachable_error(&run(&["site", "list"]));
    let bus = unreachable_error(&run(&["check", "http://example.com"]));

    for (said, server) in [(database, "Postgres"), (bus, "NATS")] {
        for part in [server, &format!("127.0.0.1:{port}: connection refused"), "picket up", ". .picket/env"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn without_an_address_the_directories_that_were_searched_are_named_with_the_options() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| picket_command(dir.path()).args(arguments).output().unwrap();

    let here = unreachable_error(&run(&["status"]));
    let named = unreachable_error(&run(&["status", "--data-dir", "elsewhere"]));

    for part in [".picket/env or .picket-demo/env", "'picket up'", "--data-dir", "DATABASE_URL"] {
        assert!(here.contains(part), "{part}: {here}");
    }
    assert!(named.contains("elsewhere/env") && !named.contains(".picket-demo"), "{named}");
}

#[tokio::test]
async fn an_error_of_the_database_is_shown_without_the_line_of_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let url = shared_postgres().await.create_database().await;
    let (server, _) = url.rsplit_once('/').unwrap();

    let output = picket_command(dir.path())
        .env("DATABASE_URL", format!("{server}/nothing"))
        .arg("status")
        .output()
        .unwrap();

    let said = unreachable_error(&output);
    assert!(said.contains("database \"nothing\" does not exist"), "{said}");
    assert!(!said.contains("at line"), "{said}");
}

#[test]
fn a_running_up_is_found_by_its_environment_file() {
    let dir = tempfile::tempdir().unwrap();
    let port = non_ephemeral_port();
    std::fs::create_dir(dir.path().join(".picket")).unwrap();
    let line = format!("NATS_URL='nats://127.0.0.1:{port}'\n");
    std::fs::write(dir.path().join(".picket/env"), line).unwrap();

    let output = picket_command(dir.path()).arg("probers").output().unwrap();

    assert!(unreachable_error(&output).contains(&format!("127.0.0.1:{port}")));
}

#[tokio::test]
async fn a_database_without_a_schema_is_reported_with_the_command_that_creates_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = shared_postgres().await.create_database().await;

    let output = picket_command(dir.path()).env("DATABASE_URL", url).args(["site", "list"]).output().unwrap();

    assert!(unreachable_error(&output).contains("run 'picket migrate'"));
}

#[tokio::test]
async fn a_closed_output_pipe_is_no_error() {
    let picket = Picket::new().await;
    picket.run_ok(&["generate", "5000", "--base-url", "http://127.0.0.1:1/"]);
    let mut child = picket_command(picket.dir())
        .env("DATABASE_URL", &picket.database_url)
        .args(["site", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();

    assert!(first.starts_with("  ID"), "{first}");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
