//! JSONPath compared with other judges: the crate `serde_json_path` on random paths and documents,
//! and the compliance suite of RFC 9535.
//!
//! The suite is not part of this repository. Its file `cts.json` is read from the path in
//! `PICKET_JSONPATH_SUITE` (jsonpath-standard/jsonpath-compliance-test-suite, BSD-2-Clause).

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::collections::BTreeMap;

use picket_proto::{
    Pattern,
    json_path::{JsonDocument, JsonPath, NodeRef, NodeValue, StepBudget},
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Number, Value, json};

const SUITE_VARIABLE: &str = "PICKET_JSONPATH_SUITE";

fn to_value(node: NodeRef<'_>) -> Value {
    match node.value() {
        NodeValue::Null => Value::Null,
        NodeValue::Bool(value) => Value::Bool(value),
        NodeValue::Number(number) => Value::Number(number.to_string().parse::<Number>().unwrap()),
        NodeValue::Text(text) => Value::String(text.to_owned()),
        NodeValue::Array(_) => node.children().map(to_value).collect(),
        NodeValue::Object(_) => node
            .children()
            .map(|member| (member.name().to_owned(), to_value(member)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// The selected values; the reason if the path is refused.
fn select(path: &str, document: &Value) -> Result<Vec<Value>, String> {
    let path = JsonPath::parse("path", path, Pattern::compile).map_err(|why| why.expected)?;
    let document = JsonDocument::parse(document.to_string().as_bytes()).unwrap();
    let nodes = path.select_nodes(&document, &mut StepBudget::new(1 << 22)).unwrap();
    Ok(nodes.into_iter().map(to_value).collect())
}

/// Compares values with numbers by value: the suite has `1` where the document has `1.0`.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, left)| right.get(name).is_some_and(|right| is_same(left, right)))
        }
        (left, right) => left == right,
    }
}

/// Reasons of Picket's own limits, as parts of the refusal.
const LIMITS: [&str; 3] = ["no filter inside of a filter", "at most two '..'", "a pattern in quotes"];

#[test]
fn the_compliance_suite_of_rfc_9535_is_passed_except_for_paths_beyond_the_limits() {
    let Some(file) = std::env::var_os(SUITE_VARIABLE) else {
        eprintln!("NOT TESTED: {SUITE_VARIABLE} does not name the file cts.json of the compliance suite");
        return;
    };
    let suite: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let tests = suite["tests"].as_array().unwrap();
    let (mut failed, mut limited) = (Vec::new(), BTreeMap::<&str, Vec<&str>>::new());
    for test in tests {
        let (name, path) = (test["name"].as_str().unwrap(), test["selector"].as_str().unwrap());
        let is_invalid = test["invalid_selector"] == Value::Bool(true);
        match select(path, &test["document"]) {
            Err(_) if is_invalid => {}
            Err(why) => match LIMITS.iter().find(|limit| why.contains(**limit)) {
                Some(limit) => limited.entry(limit).or_default().push(name),
                None => failed.push(format!("{name}: {path} is refused: {why}")),
            },
            Ok(selected) => {
                let selected = Value::Array(selected);
                let is_expected = match test.get("result") {
                    Some(result) => is_same(result, &selected),
                    None => {
                        test["results"].as_array().into_iter().flatten().any(|one| is_same(one, &selected))
                    }
                };
                if is_invalid || !is_expected {
                    failed.push(format!("{name}: {path} selects {selected}"));
                }
            }
        }
    }
    eprintln!("{} cases; beyond the limits: {limited:#?}", tests.len());
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), tests.len(), failed.join("\n"));
    assert!(tests.len() > 600 && limited.values().flatten().count() < 20);
}

fn document() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3_i64..4).prop_map(Value::from),
        prop::sample::select(vec![0.5, -1.5, 2.0]).prop_map(Value::from),
        "[a-c\u{e9}\n]{0,3}".prop_map(Value::String),
    ];
    scalar.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("[a-d]", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Paths as the grammar has them, valid for the most part.
fn path() -> impl Strategy<Value = String> {
    let index = prop_oneof![Just(String::new()), (-4_i64..5).prop_map(|index| index.to_string())];
    let slice = (index.clone(), index.clone(), prop::option::of(index)).prop_map(|(start, end, step)| {
        let step = step.map(|step| format!(":{step}")).unwrap_or_default();
        format!("{start}:{end}{step}")
    });
    let singular = prop::collection::vec(
        prop_oneof![
            "[a-d]".prop_map(|name| format!(".{name}")),
            "[a-d]".prop_map(|name| format!("['{name}']")),
            // The crate finds no value at a negative index inside of a function.
            (0_i64..3).prop_map(|index| format!("[{index}]")),
        ],
        0..3,
    )
    .prop_map(|segments| segments.concat());
    let query = ("[@$]", singular.clone()).prop_map(|(start, segments)| format!("{start}{segments}"));
    let many = ("[@$]", singular, prop::sample::select(vec![".*", "[*]", "..a", "..*", "[0,1]", "[::-1]"]))
        .prop_map(|(start, segments, last)| format!("{start}{segments}{last}"));
    let literal = prop::sample::select(vec![
        "1", "-1", "0", "-0", "2.0", "1e0", "0.5", "'a'", "\"b\"", "''", "true", "null",
    ]);
    let plain = prop_oneof![query.clone(), literal.clone().prop_map(str::to_owned)];
    let function = prop_oneof![
        1 => query.clone().prop_map(|query| format!("length({query})")),
        1 => many.clone().prop_map(|query| format!("count({query})")),
        1 => many.clone().prop_map(|query| format!("value({query})")),
    ];
    let operator = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    // Of two operands without a value, `<=` is true by the RFC (section 2.3.5.2.2). The crate
    // disagrees.
    let strict = prop::sample::select(vec!["==", "!=", "<", ">"]);
    let pattern = prop::sample::select(vec!["a.", "[ab]*", "b|c", ".", "", "a.*c", "[^a]", "\\\\."]);
    let regex = (prop::sample::select(vec!["match", "search"]), query.clone(), pattern)
        .prop_map(|(function, query, pattern)| format!("{function}({query}, '{pattern}')"));
    let test = prop_oneof![
        2 => query.clone(),
        1 => many,
        2 => (plain.clone(), strict.clone(), plain)
            .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
        2 => (query.clone(), operator, literal.clone())
            .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
        2 => (function, strict, literal)
            .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
        1 => regex,
    ];
    let expression = test.prop_recursive(3, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} && {right}")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left}||{right}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.prop_map(|inner| format!("!({inner})")),
        ]
    });
    let selector = prop_oneof![
        2 => "[a-d]".prop_map(|name| format!("'{name}'")),
        1 => Just("*".to_owned()),
        2 => (-3_i64..4).prop_map(|index| index.to_string()),
        2 => slice,
        3 => expression.prop_map(|expression| format!("?{expression}")),
    ];
    let segment = prop_oneof![
        2 => "[a-d]".prop_map(|name| format!(".{name}")),
        1 => Just(".*".to_owned()),
        1 => "[a-d]".prop_map(|name| format!("..{name}")),
        4 => prop::collection::vec(selector, 1..3).prop_map(|selectors| format!("[{}]", selectors.join(", "))),
        1 => Just("..*".to_owned()),
    ];
    prop::collection::vec(segment, 0..4).prop_map(|segments| format!("${}", segments.concat()))
}

// With a fixed seed: the crate has faults that other seeds find (`true < false` is true, no value at
// a negative index inside of a function, no name of other letters after `..`).
proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(9_535),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_path_selects_what_the_crate_selects_that_passes_the_compliance_suite(
        path in path(),
        document in document(),
    ) {
        let theirs = serde_json_path::JsonPath::parse(&path);
        match (select(&path, &document), theirs) {
            (Ok(ours), Ok(theirs)) => {
                let theirs: Vec<Value> = theirs.query(&document).all().into_iter().cloned().collect();
                prop_assert!(
                    is_same(&Value::Array(ours.clone()), &Value::Array(theirs.clone())),
                    "{path} on {document}: {ours:?} is not {theirs:?}"
                );
            }
            (Err(_), Err(_)) => {}
            (Err(why), Ok(_)) => prop_assert!(LIMITS.iter().any(|limit| why.contains(limit)), "{path}: {why}"),
            (Ok(_), Err(why)) => prop_assert!(false, "{path} is accepted, and by the crate it is not: {why}"),
        }
    }

    #[test]
    fn a_path_of_any_characters_is_accepted_by_both_or_by_neither(
        path in r"\$([.\[\]'?@*:,0-9a-c()=!&| <-]{0,12}|[^\x00]{0,8})",
    ) {
        let ours = JsonPath::parse("path", &path, Pattern::compile);
        let theirs = serde_json_path::JsonPath::parse(&path);
        match (&ours, &theirs) {
            (Err(why), Ok(_)) => prop_assert!(LIMITS.iter().any(|limit| why.expected.contains(limit)), "{path}: {why}"),
            (Ok(_), Err(why)) => prop_assert!(false, "{path} is accepted, and by the crate it is not: {why}"),
            _ => {}
        }
    }

    #[test]
    fn a_document_is_read_as_serde_json_reads_it(document in document(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let text = document.to_string();
        prop_assert!(is_same(&to_value(JsonDocument::parse(text.as_bytes()).unwrap().root()), &document));
        let ours = JsonDocument::parse(&bytes).ok().map(|document| to_value(document.root()));
        let theirs = serde_json::from_slice::<Value>(&bytes).ok();
        prop_assert_eq!(ours.is_some(), theirs.is_some() || bytes.starts_with(b"\xef\xbb\xbf"));
    }
}

#[test]
fn values_are_selected_as_people_write_paths() {
    let document = json!({
        "status": "ok",
        "services": [
            {"name": "db", "healthy": true, "latency": 3.5},
            {"name": "cache", "healthy": false, "latency": 12},
        ],
        "a.b": {"services": null},
    });
    for (path, selected) in [
        ("$", json!([document])),
        ("$.status", json!(["ok"])),
        ("$['a.b'].services", json!([null])),
        ("$.services[*].healthy", json!([true, false])),
        ("$.services[-1].name", json!(["cache"])),
        ("$.services[?@.latency > 10].name", json!(["cache"])),
        ("$.services[?@.healthy == true && @.name == 'db'].latency", json!([3.5])),
        ("$.services[?match(@.name, 'c.*')].name", json!(["cache"])),
        ("$.services[?!@.error].name", json!(["db", "cache"])),
        ("$..healthy", json!([true, false])),
        ("$.nothing", json!([])),
    ] {
        assert_eq!(Value::Array(select(path, &document).unwrap()), selected, "{path}");
    }
}
