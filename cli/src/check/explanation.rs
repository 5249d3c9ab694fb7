//! The assertions of an ad-hoc check with their results (`picket check --explain`).

use picket_proto::CheckResult;
use serde_json::Value;

use crate::output::{TextTable, status_cell, text_cell};

/// Table of the assertions of all regions; empty if no result has an explanation.
pub(super) fn build_table<'a>(results: impl Iterator<Item = &'a CheckResult>) -> TextTable {
    let columns = ["REGION", "ASSERTION", "RESULT", "EXPECTED", "FOUND"];
    let mut listing = TextTable::new(columns, "no prober explained the check; probers of this version do");
    for result in results {
        let assertions = result.details.as_ref().and_then(|details| details.get("assertions"));
        for assertion in assertions.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| assertion[name].as_str().map(str::to_owned);
            listing.add_row([
                text_cell(result.region.as_str()),
                text_cell(text("name")),
                status_cell(&text("result").unwrap_or_default().replace('_', " ")),
                text_cell(text("expected")),
                text_cell(text("found")),
            ]);
        }
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_assertion_is_a_line_with_its_result() {
        let json = r#"{"v":1,"id":"a","kind":"adhoc","region":"eu","prober":"p","url":"http://x/",
            "scheduled_at":"2026-11-20T12:00:00.000000Z","outcome":"down","cause":"body","details":{"assertions":[
            {"name":"status","result":"passed","expected":"a status of 200-299","found":"200"},
            {"name":"json[0]","result":"not_evaluated","expected":"$.a to exist","found":null}]}}"#;
        let result: CheckResult = serde_json::from_str(json).unwrap();

        let text = build_table([&result].into_iter()).to_string();

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, parts) in [
            (1, ["eu", "status", "passed", "200-299"]),
            (2, ["eu", "json[0]", "not evaluated", "$.a to exist"]),
        ] {
            for part in parts {
                assert!(lines[line].contains(part), "{text}");
            }
        }
        let plain = CheckResult { details: None, ..result };
        assert!(build_table([&plain].into_iter()).to_string().contains("no prober explained"));
    }
}
