//! The examples of docs/reference/assertions.md, against the website that it describes.

use picket_harness::targets::{Step, Target};
use picket_prober::check::apply_must_fail;
use picket_proto::{Cause, CheckRequest, Outcome};
use serde_json::Value;

use crate::http::check_with_limits;

const DOCUMENT: &str = include_str!("../../../docs/reference/assertions.md");

/// The website of the document: its response, after a redirect and a delay of some milliseconds.
async fn serve_document() -> Target {
    let text = DOCUMENT.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let (head, body) = text.split_once("\n\n").unwrap();
    let body = body.trim_end();
    let head = head.replace('\n', "\r\n");
    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    Target::serve_script(move |request| match request.starts_with("GET /start ") {
        true => vec![Step::send("HTTP/1.1 302 Found\r\nlocation: /shop?page=1\r\ncontent-length: 0\r\n\r\n")],
        false => vec![Step::wait_ms(20), Step::send(&answer)],
    })
    .await
}

#[tokio::test]
async fn every_example_of_the_reference_has_the_result_that_it_shows() {
    let target = serve_document().await;
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `") && line.contains("`{"));
    let mut names = std::collections::BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, met, missed, cause] = cells.as_slice() else { panic!("{row}") };
        let cause: Cause = cause.trim_matches(['`', ' ']).parse().unwrap();
        for (example, expected) in [(met, None), (missed, Some(cause))] {
            let json = example.trim_matches('`');
            if json.is_empty() {
                continue;
            }
            let assertions: Value = serde_json::from_str(json).unwrap();
            names.extend(assertions.as_object().unwrap().keys().cloned());
            let request = CheckRequest {
                assertions: serde_json::from_value(assertions).unwrap(),
                ..CheckRequest::new(target.url("/start"))
            };
            let seen = apply_must_fail(&request.validate().unwrap(), check_with_limits(&request).await);
            let outcome = if expected.is_some() { Outcome::Down } else { Outcome::Up };
            assert_eq!((seen.outcome, seen.cause), (outcome, expected), "{name}: {json}: {seen:?}");
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    let all = [
        "body_bytes",
        "fail_after_ms",
        "final_url",
        "headers",
        "json",
        "must_fail",
        "not_regexes",
        "regexes",
    ];
    assert_eq!(names, all, "every assertion about a response has an example");
}
