//! `picket up`: everything here with one command, as a person on a laptop has it.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use picket_harness::{
    eventually,
    receiver::Receiver,
    servers::{non_ephemeral_port, pinned_tools, scratch_dir},
    targets::Target,
};
use sqlx::PgPool;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Data directory and ports of an `up` of this test.
struct UpInstance {
    dir: PathBuf,
    nats_port: u16,
    pg_port: u16,
}

impl UpInstance {
    async fn new() -> Self {
        // Installs the servers, should they not be there.
        pinned_tools().await;
        Self { dir: scratch_dir("up"), nats_port: non_ephemeral_port(), pg_port: non_ephemeral_port() }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn picket_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(picket_e2e::program_path("picket"));
        command
            .args(arguments)
            .args(["--data-dir", self.data_dir().to_str().unwrap()])
            .current_dir(&self.dir)
            .env_remove("DATABASE_URL")
            .env_remove("NATS_URL")
            // A free port, since several systems run at once.
            .env("PICKET_API_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn up_command(&self, more: &[&str]) -> Command {
        let (nats, postgres) = (self.nats_port.to_string(), self.pg_port.to_string());
        let tools = std::env::var_os("PICKET_TOOLS_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools"), PathBuf::from);
        let mut command = self.picket_command(&["up", "--nats-port", &nats, "--pg-port", &postgres]);
        command.args(more).arg("--tools-dir").arg(tools);
        command
    }

    /// Value of `name` in the environment file of a running `up`.
    async fn read_environment(&self, name: &str) -> String {
        eventually(READY_TIMEOUT, "the environment file", async || {
            let text = std::fs::read_to_string(self.data_dir().join("env")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")))?.to_owned();
            Some(line.trim_matches(['\'', '"']).to_owned())
        })
        .await
    }

    async fn connect_database(&self) -> PgPool {
        let url = self.read_environment("DATABASE_URL").await;
        eventually(READY_TIMEOUT, "the database", async || {
            PgPool::connect(&url).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Processes whose command line names this directory.
    fn list_processes(&self) -> Vec<String> {
        let listed = std::process::Command::new("ps").args(["-eo", "pid,args"]).output().unwrap();
        let place = self.data_dir();
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.contains(place.to_str().unwrap()))
            .map(str::to_owned)
            .collect()
    }
}

async fn wait_rows(database: &PgPool, least: i64) {
    eventually(READY_TIMEOUT, &format!("{least} rows"), async || {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM report.checks").fetch_one(database).await.unwrap();
        if count >= least { Ok(()) } else { Err(count) }
    })
    .await;
}

async fn wait_output(child: Child) -> (Option<i32>, String) {
    let output =
        tokio::time::timeout(READY_TIMEOUT, child.wait_with_output()).await.expect("it ends").unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

fn send_signal(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn up_runs_everything_recovers_from_a_kill_and_finds_its_data_again() {
    let target = Target::serve_http().await;
    let place = UpInstance::new().await;
    let mut first = place.up_command(&["--regions", "one,two"]).spawn().unwrap();
    let database = place.connect_database().await;
    sqlx::query("INSERT INTO picket.sites (url, interval_seconds) VALUES ($1, 5)")
        .bind(target.url("/ok"))
        .execute(&database)
        .await
        .unwrap();
    wait_rows(&database, 2).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(place.data_dir().join("env")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let (code, text) = wait_output(place.up_command(&[]).spawn().unwrap()).await;
    assert!(code != Some(0) && text.contains(&first.id().unwrap().to_string()), "{code:?}: {text}");
    let before: i64 =
        sqlx::query_scalar("SELECT count(*) FROM report.checks").fetch_one(&database).await.unwrap();
    first.kill().await.unwrap();

    std::fs::remove_file(place.data_dir().join("env")).unwrap();
    let second = place.up_command(&["--regions", "one,two"]).spawn().unwrap();
    let database = place.connect_database().await;
    wait_rows(&database, before + 2).await;
    drop(database);
    send_signal(&second, "TERM");
    let (code, text) = wait_output(second).await;
    assert_eq!(code, Some(0), "{text}");
    eventually(READY_TIMEOUT, "no process left behind", async || {
        let left = place.list_processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// The SQL command that `picket up` prints shows rows, and no command line shows its password.
#[tokio::test]
async fn the_command_for_sql_that_up_prints_works_and_no_command_line_shows_the_password() {
    let place = UpInstance::new().await;
    let mut up = place.up_command(&[]).spawn().unwrap();
    let url = place.read_environment("DATABASE_URL").await;
    let password = url.split(['@', ':']).nth(2).unwrap().to_owned();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let printed = tokio::time::timeout(READY_TIMEOUT, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the command is printed");
            if line.contains("psql") {
                break line;
            }
        }
    });
    let printed = printed.await.unwrap();

    let tools = std::env::var_os("PICKET_TOOLS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools"), PathBuf::from);
    let path = format!("{}/postgres/bin:/usr/bin:/bin", tools.display());
    let slow = printed.replace("SELECT * FROM report.checks", "SELECT pg_sleep(60), 42 FROM report.sites");
    let run = |command: &str| {
        Command::new("sh")
            .args(["-c", command])
            .env("PATH", &path)
            .current_dir(&place.dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let (code, text) = wait_output(run(&printed)).await;
    assert_eq!(code, Some(0), "{printed}: {text}");
    assert!(text.contains("scheduled_at"), "{text}");
    let database = place.connect_database().await;
    sqlx::query("INSERT INTO picket.sites (url, enabled) VALUES ('http://a.example/', false)")
        .execute(&database)
        .await
        .unwrap();
    let _asking = run(&slow);
    eventually(READY_TIMEOUT, "psql to run", async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql'";
        let running: i64 = sqlx::query_scalar(running).fetch_one(&database).await.unwrap();
        if running == 1 { Ok(()) } else { Err(running) }
    })
    .await;

    let listed = std::process::Command::new("ps").args(["-ewwo", "args"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("service=picket"), "psql is listed");
    let showing: Vec<_> = listed.lines().filter(|line| line.contains(&password)).collect();
    assert!(showing.is_empty(), "{} command lines show the password", showing.len());
    drop(database);
    send_signal(&up, "TERM");
    up.wait().await.unwrap();
    assert!(!place.data_dir().join("pg_service.conf").exists());
}

#[tokio::test]
async fn down_stops_the_services_of_up() {
    let place = UpInstance::new().await;
    let up = place.up_command(&[]).spawn().unwrap();
    place.read_environment("NATS_URL").await;

    let (code, text) = wait_output(place.picket_command(&["down"]).spawn().unwrap()).await;

    assert_eq!(code, Some(0), "{text}");
    assert_eq!(wait_output(up).await.0, Some(0));
    assert_eq!(place.list_processes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_option() {
    let place = UpInstance::new().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", place.pg_port)).unwrap();

    let (code, text) = wait_output(place.up_command(&[]).spawn().unwrap()).await;

    drop(taken);
    assert_ne!(code, Some(0));
    assert!(text.contains(&place.pg_port.to_string()) && text.contains("--pg-port"), "{text}");
}

#[tokio::test]
async fn up_applies_the_sites_file_of_its_directory() {
    let target = Target::serve_http().await;
    let place = UpInstance::new().await;
    let sites = format!(
        "sites:\n  - url: {}\n    interval: 5s\n    regex: well\n    tags: [shop]\n",
        target.url("/ok")
    );
    std::fs::write(place.dir.join("sites.yaml"), sites).unwrap();

    let up = place.up_command(&[]).spawn().unwrap();
    let database = place.connect_database().await;
    wait_rows(&database, 1).await;
    let up_and_matched: bool =
        sqlx::query_scalar("SELECT bool_and(outcome = 'up' AND regex_matched) FROM report.checks")
            .fetch_one(&database)
            .await
            .unwrap();

    assert!(up_and_matched);
    drop(database);
    send_signal(&up, "INT");
    assert_eq!(wait_output(up).await.0, Some(0));
}

/// Requests a path and returns the response with its head.
async fn fetch_head(address: std::net::SocketAddr, path: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tokio::time::timeout(READY_TIMEOUT, connection.read_to_string(&mut response)).await.unwrap().unwrap();
    response
}

#[tokio::test]
async fn up_prints_a_link_that_signs_in_once() {
    let place = UpInstance::new().await;
    let mut up = place.up_command(&[]).spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(READY_TIMEOUT, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the link is printed");
            if line.contains("/sign-in?link=") {
                break line;
            }
        }
    });
    let line = line.await.unwrap();
    assert!(line.contains("open to all users of this machine"), "{line}");
    let url: url::Url =
        line.split_whitespace().find(|word| word.starts_with("http")).unwrap().parse().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], url.port().unwrap()));
    let path = format!("{}?{}", url.path(), url.query().unwrap());

    let (signed_in, again) = (fetch_head(address, &path).await, fetch_head(address, &path).await);

    let starts_session = |head: &str| head.to_ascii_lowercase().contains("set-cookie: ");
    assert!(signed_in.starts_with("HTTP/1.1 303") && starts_session(&signed_in), "{signed_in}");
    // It is open without a session too, so a used link leads on.
    assert!(again.starts_with("HTTP/1.1 303") && !starts_session(&again), "{again}");
    send_signal(&up, "TERM");
    up.wait().await.unwrap();
}

/// Stops an `up` after it has printed a line with `part`. Returns what it printed until then.
async fn stop_after_line(mut up: Child, part: &str) -> String {
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let mut text = String::new();
    let printed = tokio::time::timeout(READY_TIMEOUT, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&format!("{line}\n"));
            if line.contains(part) {
                return;
            }
        }
    });
    printed.await.unwrap();
    assert!(text.contains(part), "{text}");
    send_signal(&up, "TERM");
    up.wait().await.unwrap();
    text
}

#[tokio::test]
async fn up_tells_a_webhook_of_an_incident_with_a_link_and_says_what_another_url_changes() {
    let (receiver, place) = (Receiver::start().await, UpInstance::new().await);
    let first_url = receiver.url("/first");
    let up = place.up_command(&["--notify-webhook", &first_url]).spawn().unwrap();
    let database = place.connect_database().await;
    let url = format!("http://{}/", Target::closed_address().await);
    eventually(READY_TIMEOUT, "the route of the webhook", async || {
        let routes: i64 =
            sqlx::query_scalar("SELECT count(*) FROM picket.routes").fetch_one(&database).await.unwrap();
        if routes == 1 { Ok(()) } else { Err(routes) }
    })
    .await;
    sqlx::query("INSERT INTO picket.sites (url, interval_seconds) VALUES ($1, 5)")
        .bind(&url)
        .execute(&database)
        .await
        .unwrap();
    let told = eventually(READY_TIMEOUT, "the event", async || {
        receiver.requests().into_iter().find(|request| request.text().contains("incident.opened"))
    })
    .await;
    let link = told.json()["data"]["link"].as_str().unwrap().to_owned();
    assert!(link.starts_with("http://127.0.0.1:") && link.ends_with("/incidents/1"), "{link}");
    drop(database);
    stop_after_line(up, "channel webhook is told of every incident").await;

    let second_url = receiver.url("/second");
    let up = place.up_command(&["--notify-webhook", &second_url]).spawn().unwrap();
    stop_after_line(up, &format!("url was {first_url}, and is {second_url}")).await;
}

#[tokio::test]
async fn up_keeps_the_url_of_a_chat_in_its_secrets_file_alone() {
    const URL: &str = "https://hooks.slack.com/services/T0/B0/MARKED-CREDENTIAL";
    let place = UpInstance::new().await;
    let up = place.up_command(&["--notify-webhook", URL]).spawn().unwrap();
    let database = place.connect_database().await;
    let settings = eventually(READY_TIMEOUT, "the channel", async || {
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT kind, settings::text FROM picket.channels WHERE name = 'slack'")
                .fetch_optional(&database)
                .await
                .unwrap();
        row.ok_or("no channel")
    })
    .await;
    assert_eq!(settings, ("slack".to_owned(), r#"{"url": {"secret": "notify-slack"}}"#.to_owned()));
    drop(database);
    let text = stop_after_line(up, "channel slack is told of every incident").await;

    assert!(text.contains("secret notify-slack was written") && !text.contains("MARKED"), "{text}");
    let path = place.data_dir().join("secrets.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(std::fs::read_to_string(&path).unwrap().contains(URL));
    let file = path.to_str().unwrap();
    let (code, text) =
        wait_output(place.up_command(&["--notify-webhook", URL, "--secrets-file", file]).spawn().unwrap())
            .await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("picket channel add slack --kind slack") && !text.contains("MARKED"), "{text}");
}
