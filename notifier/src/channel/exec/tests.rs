use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use picket_harness::{eventually, process::WAIT_TIMEOUT, servers::scratch_dir};
use picket_runtime::Secrets;
use serde_json::{Value, json};

use super::*;
use crate::samples;

const RUNNER: ExecRunner = ExecRunner { is_allowed: true };

/// A program of `text`, and the directory that it is in.
fn write_program(text: &str) -> (ExecSettings, PathBuf) {
    let directory = scratch_dir("exec");
    let program = directory.join("program");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (settings_of(json!({"program": program})), directory)
}

fn settings_of(settings: Value) -> ExecSettings {
    serde_json::from_value(settings).unwrap()
}

fn is_retried(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, AttemptOutcome::Retry { is_channel_failing: false, .. })
}

/// Prints arguments, variables and input as JSON to the file of its first argument.
const RECORDER: &str = r#"#!/usr/bin/env python3
import json, os, sys
record = {"args": sys.argv[2:], "env": dict(os.environ), "input": json.load(sys.stdin), "cwd": os.getcwd()}
with open(sys.argv[1], "w") as file:
    json.dump(record, file)
print("done")
"#;

#[tokio::test]
async fn a_program_gets_the_message_as_json_and_in_variables_and_nothing_of_the_notifier() {
    let (mut settings, directory) = write_program(RECORDER);
    let file = directory.join("record.json");
    let tricky = ["$(touch /tmp/x)", "a b", "; exit 3", "`id`", "*", ""];
    settings.args = std::iter::once(file.to_str().unwrap()).chain(tricky).map(str::to_owned).collect();
    settings.check().unwrap();

    let attempt = RUNNER.run(&settings, &samples::down()).await;

    assert_eq!(attempt.outcome, AttemptOutcome::Delivered { receiver_ref: None }, "{}", attempt.message);
    assert_eq!((attempt.status, attempt.message.as_str()), (Some(0), "exit status: 0: done"));
    let record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(record["args"], json!(tricky));
    assert_eq!(record["cwd"], "/");
    assert_eq!(record["input"], serde_json::to_value(samples::down()).unwrap());
    assert_eq!(record["input"]["items"][0]["duration_ms"], 65_000);
    let variables = record["env"].as_object().unwrap();
    for (name, value) in [
        ("PICKET_NOTIFICATION_ID", samples::down().id.to_string().as_str()),
        ("PICKET_TITLE", "DOWN shop.example.com: connection refused (3 of 4 regions)"),
        ("PICKET_SEVERITY", "critical"),
        ("PICKET_PURPOSE", "alert"),
        ("PICKET_SITE", "shop.example.com"),
        ("PICKET_URL", "https://shop.example.com/"),
        ("PICKET_INCIDENT_ID", "17"),
        ("PICKET_LINK", "https://picket.example.com/incidents/17"),
        ("PATH", PATH),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    assert!(variables["PICKET_BODY"].as_str().unwrap().contains("3 of 4: eu-west, us-east, asia"));
    // Python and the kernel add these.
    let own = |name: &str| {
        name.starts_with("PICKET_") || ["PATH", "LANG", "LC_CTYPE", "PWD", "SHLVL", "_"].contains(&name)
    };
    assert!(variables.keys().all(|name| own(name)), "{:?}", variables.keys());
}

#[tokio::test]
async fn names_that_a_shell_could_obey_reach_the_program_as_they_are() {
    let (mut settings, directory) = write_program(RECORDER);
    let file = directory.join("record.json");
    settings.args = vec![file.to_str().unwrap().to_owned()];
    let long_name = samples::long_name();
    for name in samples::HOSTILE_NAMES.into_iter().chain([long_name.as_str()]) {
        let attempt = RUNNER.run(&settings, &samples::named(name)).await;
        assert!(matches!(attempt.outcome, AttemptOutcome::Delivered { .. }), "{name:?}: {}", attempt.message);
        let record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(record["env"]["PICKET_SITE"], name.replace('\0', " "), "{name:?}");
        assert_eq!(record["input"]["items"][0]["name"], *name);
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_it_is_delivered_tried_again_or_refused() {
    let (mut settings, _) = write_program("#!/bin/sh\necho \"out $1\"; echo err >&2; exit $1\n");
    let mut run = async |code: &str| {
        settings.args = vec![code.to_owned()];
        RUNNER.run(&settings, &samples::down()).await
    };

    assert!(matches!(run("0").await.outcome, AttemptOutcome::Delivered { .. }));
    let temporary = run("75").await;
    assert!(is_retried(&temporary) && temporary.status == Some(75), "{temporary:?}");
    let refused = run("1").await;
    assert_eq!((refused.outcome, refused.status), (AttemptOutcome::Refused, Some(1)));
    assert!(refused.message.starts_with("exit status: 1: "), "{}", refused.message);
    assert!(refused.message.contains("out 1") && refused.message.contains("err"), "{}", refused.message);
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let (mut settings, directory) =
        write_program("#!/bin/sh\nsleep 600 & echo $! >$1/child\necho waiting\nwait\n");
    settings.args = vec![directory.to_str().unwrap().to_owned()];
    settings.timeout_ms = Some(1_000);

    let attempt = RUNNER.run(&settings, &samples::down()).await;

    assert!(is_retried(&attempt) && attempt.status.is_none(), "{attempt:?}");
    assert_eq!(attempt.message, "killed after 1s: waiting");
    wait_gone(&directory).await;
}

#[tokio::test]
async fn a_program_is_killed_with_its_children_when_the_attempt_is_given_up() {
    let (mut settings, directory) = write_program("#!/bin/sh\nsleep 600 & echo $! >$1/child\nwait\n");
    settings.args = vec![directory.to_str().unwrap().to_owned()];
    let running = tokio::spawn(async move { RUNNER.run(&settings, &samples::down()).await });
    eventually(WAIT_TIMEOUT, "a child", async || read_child(&directory)).await;

    running.abort();

    wait_gone(&directory).await;
}

fn read_child(directory: &std::path::Path) -> Option<String> {
    let text = fs::read_to_string(directory.join("child")).ok()?;
    text.ends_with('\n').then(|| text.trim().to_owned())
}

async fn wait_gone(directory: &std::path::Path) {
    let child = read_child(directory).unwrap();
    eventually(WAIT_TIMEOUT, "the end of the child", async || {
        // A zombie waits for its parent only.
        let status = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_does_not_hold_up_the_attempt() {
    let (settings, _) = write_program("#!/bin/sh\necho started\nsleep 600 &\nexit 0\n");
    let started = Instant::now();

    let attempt = RUNNER.run(&settings, &samples::down()).await;

    assert_eq!(attempt.message, "exit status: 0: started");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn endless_output_and_unread_input_end_with_the_program() {
    let (mut settings, _) = write_program("#!/bin/sh\nexec yes\n");
    settings.timeout_ms = Some(500);
    let endless = RUNNER.run(&settings, &samples::down()).await;
    assert!(is_retried(&endless) && endless.message.len() <= 500, "{endless:?}");

    let (settings, _) = write_program("#!/bin/sh\nexit 0\n");
    let message = Message { csv: Some("x".repeat(4 << 20)), ..samples::digest() };
    let unread = RUNNER.run(&settings, &message).await;
    assert!(matches!(unread.outcome, AttemptOutcome::Delivered { .. }), "{unread:?}");
}

#[tokio::test]
async fn a_secret_that_a_program_prints_is_redacted() {
    let file = scratch_dir("secrets").join("secrets.toml");
    fs::write(&file, "[secret.token]\nvalue = \"swordfish-4711\"\nhosts = [\"example.com\"]\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let _secrets = Secrets::load(&file).unwrap();
    let (settings, _) = write_program("#!/bin/sh\necho token swordfish-4711\nexit 1\n");

    let attempt = RUNNER.run(&settings, &samples::down()).await;

    assert_eq!(attempt.message, "exit status: 1: token [redacted]");
}

#[tokio::test]
async fn a_program_does_not_run_unless_the_notifier_was_started_with_the_flag() {
    let (settings, directory) = write_program("#!/bin/sh\ntouch \"$0.ran\"\n");

    let attempt = ExecRunner { is_allowed: false }.run(&settings, &samples::down()).await;

    assert!(matches!(attempt.outcome, AttemptOutcome::Retry { is_channel_failing: true, .. }));
    assert!(attempt.message.contains("--allow-exec"), "{}", attempt.message);
    assert!(!directory.join("program.ran").exists());
}

#[tokio::test]
async fn a_program_that_is_not_there_may_be_installed_later() {
    let attempt = RUNNER.run(&settings_of(json!({"program": "/nonexistent/notify"})), &samples::down()).await;

    assert!(matches!(attempt.outcome, AttemptOutcome::Retry { is_channel_failing: true, .. }));
    assert!(attempt.message.contains("could not be started: No such file"), "{}", attempt.message);
}

#[test]
fn a_refused_setting_is_named_with_its_value_and_what_is_allowed() {
    for (bad, field) in [
        (json!({"program": "notify"}), "program"),
        (json!({"program": "./notify"}), "program"),
        (json!({"program": ""}), "program"),
        (json!({"program": "/bin/sh\u{0}"}), "program"),
        (json!({"program": "/bin/true", "args": vec!["x"; 65]}), "args"),
        (json!({"program": "/bin/true", "args": ["a\u{0}b"]}), "args"),
        (json!({"program": "/bin/true", "timeout_ms": 1}), "timeout_ms"),
        (json!({"program": "/bin/true", "body": "{{ nothing }}"}), "body"),
    ] {
        let refusal = settings_of(bad.clone()).check().expect_err(&bad.to_string());
        assert_eq!(refusal.field, field, "{refusal}");
    }
    let shell = serde_json::from_value::<ExecSettings>(json!({"program": "/bin/true", "shell": "x"}));
    assert!(shell.unwrap_err().to_string().contains("shell"));
}

#[test]
fn the_documented_limit_of_time_is_that_of_the_code() {
    let setting = picket_proto::ChannelKind::Exec.find_setting("timeout_ms").unwrap();
    let documented = picket_proto::channel_setting::SettingDefault::Value("15000");
    assert_eq!((setting.default, DEFAULT_TIMEOUT_MS), (documented, 15_000));
}
