use super::*;

fn refusal(path: &str) -> ValidationError {
    JsonPath::parse("assertions.json[0].path", path, Pattern::compile).map(drop).unwrap_err()
}

/// The number of selected values, and the steps of the selection.
fn select(path: &str, body: &[u8], steps: u64) -> (Result<usize, BudgetExhausted>, u64) {
    let path = JsonPath::parse("path", path, Pattern::compile).unwrap();
    let document = JsonDocument::parse(body).unwrap();
    let mut budget = StepBudget::new(steps);
    let selected = path.select_nodes(&document, &mut budget).map(|nodes| nodes.len());
    (selected, budget.taken())
}

#[test]
fn a_refused_path_is_named_with_the_character_at_which_it_fails() {
    for (path, expected) in [
        ("", "at character 1: $"),
        ("status", "at character 1: $"),
        ("$.", "at character 3: a name"),
        ("$.é[", "at character 5: a name in quotes"),
        ("$[01]", "at character 3: a whole number without leading zeros"),
        ("$[?@.a ==]", "at character 10: a value"),
        ("$[?@.*==1]", "a path to a single value"),
        ("$[?length(@.a)]", "a comparison"),
        ("$[?foo(@)]", "a function: length, count"),
        ("$['a", "the closing quote"),
        ("$ ", "a segment"),
    ] {
        let why = refusal(path);
        assert_eq!((why.field.as_str(), why.value.as_str()), ("assertions.json[0].path", path));
        assert!(why.expected.contains(expected), "{path}: {}", why.expected);
    }
}

#[test]
fn a_path_that_could_take_long_is_refused_by_its_form() {
    for (path, expected) in [
        ("$..a..b..c".to_owned(), "at most two '..'"),
        ("$..a[?@..b && @..c]".to_owned(), "at most two '..'"),
        ("$[?@.a[?@.b]]".to_owned(), "no filter inside of a filter"),
        ("$[?match(@.a, @.b)]".to_owned(), "a pattern in quotes"),
        (r"$[?search(@.a, '(?:[a-z]{0,50}x?){50}!')]".to_owned(), "steps for a byte"),
        ("$[?match(@.a, '(')]".to_owned(), "unclosed group"),
        (format!("$[?{}@.a{}]", "(".repeat(33), ")".repeat(33)), "at most 32 levels"),
        (format!("$[?{}@.a{}==1]", "length(".repeat(33), ")".repeat(33)), "at most 32 levels"),
        (format!("$.{}", "a".repeat(MAX_PATH_BYTES)), "at most 512 bytes"),
    ] {
        assert!(refusal(&path).expected.contains(expected), "{path}: {}", refusal(&path));
    }
}

/// Bodies of 1 MiB that are expensive for a path.
#[test]
fn the_most_expensive_paths_and_bodies_end_by_their_steps() {
    const BODY_BYTES: usize = 1 << 20;
    const STEPS: u64 = 1 << 22;
    let objects = format!("[{}]", vec![r#"{"a":1}"#; BODY_BYTES / 8].join(","));
    let numbers = format!("[{}]", vec!["0"; BODY_BYTES / 2].join(","));
    let nested = format!("[{}]", vec![format!("{}0{}", "[".repeat(100), "]".repeat(100)); 5_000].join(","));
    let texts = format!("[{}]", vec![format!("{:?}", "a".repeat(60)); BODY_BYTES / 64].join(","));
    let name = "n".repeat(BODY_BYTES / 4);
    let names =
        format!(r#"{{"x":{{"{name}":0}},"y":{{"{name}":0}},"z":[{}0]}}"#, "0,".repeat(BODY_BYTES / 4));
    // Members that a later one shadows take no steps, so they must take no time.
    let repeated = r#""a":0,"#.repeat(BODY_BYTES / 12);
    let visible: String = (0..BODY_BYTES / 24).map(|number| format!("\"{number:05}\":0,")).collect();
    let shadowed = format!(r#"{{{repeated}{visible}"b":0}}"#);
    let many = vec!["*"; 20].join(",");
    for (path, body, is_decided) in [
        ("$[*].a".to_owned(), &objects, true),
        ("$[?@.a == 2]".to_owned(), &objects, true),
        ("$[?@.a == $[-1].a]".to_owned(), &objects, false),
        ("$[?count($..a) == 1]".to_owned(), &objects, false),
        ("$.z[?$.x == $.y]".to_owned(), &names, false),
        ("$[?$.a == 1]".to_owned(), &shadowed, true),
        ("$..*".to_owned(), &numbers, true),
        ("$..*..*".to_owned(), &nested, false),
        ("$..[?@..a]".to_owned(), &nested, false),
        (format!("$[{many}][{many}][{many}][{many}][{many}]"), &nested, false),
        (r"$[?search(@, '(?:[ab]{0,99}b?){5}\\b!')]".to_owned(), &texts, false),
    ] {
        let (selected, steps) = select(&path, body.as_bytes(), STEPS);
        assert_eq!(selected.is_ok(), is_decided, "{path}");
        assert!(steps < 2 * STEPS, "{path}: {steps}");
    }
}

#[test]
fn a_document_has_limits_and_the_last_of_equal_names_counts() {
    let deep = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert!(JsonDocument::parse(&deep(JsonDocument::MAX_DEPTH)).is_ok());
    assert_eq!(JsonDocument::parse(&deep(JsonDocument::MAX_DEPTH + 1)).err(), Some(DocumentError::TooDeep));
    assert_eq!(JsonDocument::parse(&b"[".repeat(1 << 20)).err(), Some(DocumentError::TooDeep));
    let many = format!("[{}0]", "0,".repeat(JsonDocument::MAX_VALUES));
    assert_eq!(JsonDocument::parse(many.as_bytes()).err(), Some(DocumentError::TooManyValues));
    assert_eq!(JsonDocument::parse(b"\xef\xbb\xbf \n").err(), Some(DocumentError::Empty));
    for broken in ["{", "[1,]", "{'a':1}", "1 2", "\"\u{1}\"", "NaN", "1e999"] {
        assert!(matches!(JsonDocument::parse(broken.as_bytes()), Err(DocumentError::Syntax(_))), "{broken}");
    }
    let count = |path: &str, body: &str| select(path, body.as_bytes(), 1_000).0.unwrap();
    assert_eq!(count("$.a", "\u{feff}{\"a\":1}"), 1);
    for others in ["", &(0..20).map(|i| format!("\"x{i}\":0,")).collect::<String>()] {
        let body = format!(r#"{{"a":[1,[2]],{others}"a":3}}"#);
        assert_eq!(count("$[?@ == 3]", &body), 1);
        assert_eq!((count("$.a", &body), count("$..[1]", &body), count("$.a[0]", &body)), (1, 0, 0));
        assert_eq!(count("$[?length($) == 1]", &body), usize::from(others.is_empty()));
    }
}

#[test]
fn whole_numbers_of_64_bits_are_exact_and_numbers_are_equal_by_value() {
    let is_equal = |left: &str, right: &str| {
        let (left, right) = (JsonNumber::parse(left).unwrap(), JsonNumber::parse(right).unwrap());
        left.compare(right) == Some(std::cmp::Ordering::Equal)
    };
    for (left, right, expected) in [
        ("1", "1.0", true),
        ("-0", "0", true),
        ("1e2", "100", true),
        ("9007199254740993", "9007199254740992", false),
        ("9007199254740993", "9007199254740992.0", false),
        ("18446744073709551615", "18446744073709551614", false),
        ("-9223372036854775808", "-9223372036854775807", false),
        ("0.1", "0.10", true),
    ] {
        assert_eq!(is_equal(left, right), expected, "{left} {right}");
    }
}
