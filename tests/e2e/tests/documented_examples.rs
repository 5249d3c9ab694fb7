//! The examples of docs/reference/assertions-and-options.md, each executed by the command against a real target, and
//! those of docs/how-to/notifications.md.
#![expect(
    clippy::unwrap_used,
    reason = "as in any test; clippy.toml allows it only within functions marked as tests"
)]

use std::{fs, path::PathBuf};

use futures_util::{StreamExt, stream};
use picket_e2e::Stack;
use picket_harness::{
    certificates::{CertificateAuthority, Validity},
    documented_examples::{DocumentedExamples, split_words},
    servers,
    targets::{Step, Target},
};
use serde_json::Value;

/// Time of the response of the example, in milliseconds.
const RESPONSE_MS: u64 = 300;

/// Serves the response of the page by HTTPS. Returns the file with the trusted root as well.
async fn serve_example(page: &DocumentedExamples) -> (Target, PathBuf) {
    let authority = CertificateAuthority::new();
    let ca_file = servers::scratch_dir("roots").join("ca.pem");
    fs::write(&ca_file, authority.pem()).unwrap();
    let identity = authority.issue_identity(&["localhost", "api.example"], Validity::EndsInDays(20));
    let (head, body) = page.code_block("http").split_once("\n\n").unwrap();
    let head = head.replace('\n', "\r\n");
    let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let steps = vec![Step::wait_ms(RESPONSE_MS), Step::send(response)];
    (Target::serve_script_https(&identity, move |_| steps.clone()).await, ca_file)
}

/// Runs `picket check` for `url` with the options `words`. Returns the result and the errors.
async fn run_check(stack: &Stack, url: &str, words: &[String]) -> (Value, String) {
    let fixed = ["check", url, "--region", "local", "--output", "json"];
    let arguments: Vec<&str> = fixed.into_iter().chain(words.iter().map(String::as_str)).collect();
    let (_, output, error) = stack.run_picket(&arguments).await;
    let results: Value = serde_json::from_str(&output).unwrap_or_default();
    (results[0].clone(), error)
}

/// Outcome, and the cause or the warnings.
fn result_words(result: &Value) -> Vec<String> {
    let warnings = result["warnings"].as_array().into_iter().flatten();
    [&result["outcome"], &result["cause"]]
        .into_iter()
        .chain(warnings)
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn each_example_of_the_reference_has_the_result_that_the_reference_states() {
    /// Concurrent commands. Few enough that the response's time is that of the target.
    const MAX_CONCURRENT: usize = 4;
    let page = DocumentedExamples::read("reference/assertions-and-options.md");
    let (target, ca_file) = serve_example(&page).await;
    let (well, refused) =
        (target.localhost_url("/health"), format!("https://{}/", Target::closed_address().await));
    let stack = Stack::start(&["local"]).await;
    let coordinator = stack.spawn_coordinator(&[]).await;
    let prober = stack.spawn_prober("local", &["--ca-file", &ca_file.to_string_lossy()]).await;
    coordinator.wait_ready().await;
    prober.wait_ready().await;

    let rows = page.table_rows();
    // Each row has two examples with their results.
    let examples = rows.iter().filter(|row| row.cells.len() == 6).flat_map(|row| [(row, 2), (row, 4)]);
    let wrong: Vec<String> = stream::iter(examples)
        .map(async |(row, cell)| {
            let url = if row.section.contains("refuses") { &refused } else { &well };
            let words = row.words(cell);
            let (result, error) = run_check(&stack, url, &words).await;
            let (stated, found) = (row.code_spans(cell + 1), result_words(&result));
            (stated != found).then(|| {
                format!("{words:?}: stated {stated:?}, found {found:?}: {}{error}", result["message"])
            })
        })
        .buffered(MAX_CONCURRENT)
        .filter_map(std::future::ready)
        .collect()
        .await;

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(target.accepted_connections() > 40);
    for process in [coordinator, prober] {
        process.stop().await;
    }
}

/// Runs a documented command, which must succeed.
async fn run_documented(stack: &Stack, words: &[impl AsRef<str>]) {
    let arguments: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    assert_eq!(arguments[0], "picket", "{arguments:?}");
    let (code, output, error) = stack.run_picket(&arguments[1..]).await;
    assert_eq!(code, 0, "{arguments:?}: {output}{error}");
}

#[tokio::test]
async fn each_example_of_the_pages_about_notifications_is_accepted() {
    let stack = Stack::start(&["local"]).await;
    let page = DocumentedExamples::read("how-to/notifications.md");
    let rows = page.table_rows();
    let channels: Vec<_> = rows
        .iter()
        .filter(|row| row.section == "A channel of each kind")
        .map(|row| split_words(row.code_spans(2)[0]))
        .collect();
    assert!(channels.len() > 10, "{channels:?}");
    for words in &channels {
        run_documented(&stack, words).await;
        run_documented(&stack, &["picket", "channel", "remove", &words[3]]).await;
    }

    // Channels that the commands of the page take for granted.
    for name in ["desk", "phone", "hook"] {
        let example = channels.iter().find(|words| words[3] == name).expect(name);
        run_documented(&stack, example).await;
    }
    run_documented(&stack, &["picket", "channel", "add", "boss", "--kind", "ntfy", "--set", "topic=boss"])
        .await;
    let runnable = ["site add", "channel add", "channel set", "route add", "route test", "silence add"];
    let reference = DocumentedExamples::read("reference/channels.md");
    let mut ran = 0;
    for words in page.commands().into_iter().chain(reference.commands()) {
        let is_runnable = words[0] == "picket"
            && runnable.iter().any(|command| words[1..].starts_with(&split_words(command)));
        if is_runnable {
            run_documented(&stack, &words).await;
            ran += 1;
        }
    }
    assert!(ran > 10, "{ran}");

    let directory = servers::scratch_dir("documented");
    let (sites, secrets) = (directory.join("sites.yaml"), directory.join("secrets.toml"));
    fs::write(&sites, page.code_block("yaml")).unwrap();
    run_documented(&stack, &["picket", "apply", "-f", sites.to_str().unwrap()]).await;
    fs::write(&secrets, page.code_block("toml")).unwrap();
    fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let checked = std::process::Command::new(picket_e2e::program_path("picket-prober"))
        .args(["secrets", "check", "--secrets-file"])
        .arg(&secrets)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&checked.stdout).contains("hooks.slack.com"), "{checked:?}");
}
