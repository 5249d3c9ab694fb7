//! The examples of docs/reference/assertions-and-options.md, each executed by the command against a real target.

use futures_util::{StreamExt, stream};
use picket_e2e::Stack;
use picket_harness::{
    certificates::{CertificateAuthority, Validity},
    documented_examples::DocumentedExamples,
    servers,
    targets::{Step, Target},
};
use serde_json::Value;

/// Time of the response of the example, in milliseconds.
const RESPONSE_MS: u64 = 300;

/// Response of the page as it is sent.
fn example_response(page: &DocumentedExamples) -> Vec<Step> {
    let (head, body) = page.code_block("http").split_once("\n\n").unwrap();
    let head = head.replace('\n', "\r\n");
    let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    vec![Step::wait_ms(RESPONSE_MS), Step::send(response)]
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
    let authority = CertificateAuthority::new();
    let ca_file = servers::scratch_dir("roots").join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let identity = authority.issue_identity(&["localhost"], Validity::EndsInDays(20));
    let response = example_response(&page);
    let target = Target::serve_script_https(&identity, move |_| response.clone()).await;
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
            let arguments = [
                &["check", url, "--region", "local", "--output", "json"][..],
                &words.iter().map(String::as_str).collect::<Vec<_>>(),
            ]
            .concat();
            let (_, output, error) = stack.run_picket(&arguments).await;
            let results: Value = serde_json::from_str(&output).unwrap_or_default();
            let (stated, found) = (row.code_spans(cell + 1), result_words(&results[0]));
            (stated != found).then(|| {
                format!("{words:?}: stated {stated:?}, found {found:?}: {}{error}", results[0]["message"])
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
