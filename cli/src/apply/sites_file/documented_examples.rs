//! The examples of docs/reference/assertions-and-options.md: file and command line say the same.

use std::{collections::BTreeSet, path::Path};

use clap::Parser;
use picket_harness::documented_examples::{DocumentedExamples, TableRow};
use picket_proto::{CheckRequest, site::IntervalRange};
use serde_json::Value;

use super::parse_sites_file;
use crate::site_args::CheckOptions;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    check: CheckOptions,
}

fn check_by_options(words: &[String]) -> CheckRequest {
    let words = std::iter::once("picket").chain(words.iter().map(String::as_str));
    let mut check = CheckRequest::new("https://api.example/health");
    Command::try_parse_from(words).unwrap().check.apply_to(&mut check).unwrap();
    check.validate().unwrap();
    check
}

fn check_by_file(object: &str, fields: &str) -> CheckRequest {
    let file = format!("sites:\n  - url: https://api.example/health\n    {object}:\n      {fields}\n");
    let wanted = parse_sites_file("sites.yaml", &file, IntervalRange::default());
    wanted.unwrap_or_else(|why| panic!("{why:?}\n{file}")).sites.sites.remove(0).check
}

/// The rows with an example, and the object of each.
fn example_rows() -> Vec<(&'static str, TableRow)> {
    let rows = DocumentedExamples::read("reference/assertions-and-options.md").table_rows().into_iter();
    rows.filter_map(|row| match row.cells.len() {
        6 => Some(("assertions", row)),
        4 => Some(("options", row)),
        _ => None,
    })
    .collect()
}

#[test]
fn each_example_of_the_reference_means_the_same_in_the_file_and_on_the_command_line() {
    for (object, row) in example_rows() {
        let by_options = check_by_options(&row.words(2));

        assert_eq!(check_by_file(object, &row.code_spans(1).concat()), by_options, "{row:?}");
        assert_ne!(by_options, CheckRequest::new("https://api.example/health"), "{row:?}");
        if object == "assertions" {
            check_by_options(&row.words(4));
        }
    }
}

#[test]
fn each_field_of_assertions_and_options_has_an_example_in_the_reference() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/schema/check-request.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
    let fields = |object: &str, type_name: &str| -> BTreeSet<(String, String)> {
        let properties = schema["$defs"][type_name]["properties"].as_object().unwrap();
        properties.keys().map(|field| (object.to_owned(), field.clone())).collect()
    };
    let mut known = fields("assertions", "HttpAssertions");
    known.append(&mut fields("options", "HttpOptions"));

    let documented: BTreeSet<(String, String)> = example_rows()
        .iter()
        .map(|(object, row)| ((*object).to_owned(), row.code_spans(0).concat()))
        .collect();

    assert_eq!(documented, known);
}
