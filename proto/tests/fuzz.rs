//! All input is either decoded or rejected with a readable error: the stored corpus, mutations of
//! it, and noise.
//!
//! `PROPTEST_CASES` sets the number of cases (default 256). Cases that once failed are stored
//! beside this file and run first.

#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

use std::{fs, path::Path};

use picket_proto::{CheckRequest, Timestamp, ValidationError, check, status_ranges::StatusRanges};
use proptest::{prelude::*, test_runner::FileFailurePersistence};

/// Fields of an ad-hoc request.
fn adhoc_fields() -> Vec<&'static str> {
    let known = CheckRequest::KNOWN_FIELDS.iter().map(|(name, _)| *name);
    known.take_while(|name| *name != "site_id").collect()
}

fn fields() -> Vec<&'static str> {
    adhoc_fields().into_iter().chain(["site_id"]).collect()
}

fn config() -> ProptestConfig {
    let kept = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(kept)), ..ProptestConfig::default() }
}

fn load_corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/requests");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "the corpus is there");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A request of the corpus with some bytes changed, removed, repeated or inserted.
fn mutated_request() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_u8..4, any::<u8>(), 1_usize..40);
    (prop::sample::select(load_corpus()), prop::collection::vec(change, 0..8)).prop_map(
        |(mut bytes, changes)| {
            for (place, kind, byte, length) in changes {
                let at = place.index(bytes.len() + 1);
                let end = (at + length).min(bytes.len());
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 => drop(bytes.drain(at..end)),
                    2 => {
                        let again = bytes[at..end].to_vec();
                        bytes.splice(at..at, again);
                    }
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        },
    )
}

fn assert_readable(why: &ValidationError) {
    assert!(!why.field.is_empty() && !why.expected.is_empty(), "{why:?}");
    let text = why.to_string();
    assert!(text.len() < 2_048, "{} bytes: {text}", text.len());
    assert!(!why.field.chars().chain(why.value.chars()).any(char::is_control), "{why:?}");
}

/// Asserts that `bytes` decode to a request that survives a round trip, or are rejected with a
/// readable error.
fn assert_decoded_or_refused(bytes: &[u8]) {
    let request = match CheckRequest::decode(bytes) {
        Ok(request) => request,
        Err(why) => return assert_readable(&why),
    };
    let written = serde_json::to_vec(&request).unwrap();
    assert_eq!(CheckRequest::decode(&written).unwrap(), request);
    if let Err(why) = request.scheduled_tick() {
        assert_readable(&why);
    }
    match request.validate() {
        Ok(check) => {
            assert!(matches!(check.url.scheme(), "http" | "https") && check.url.host().is_some());
            assert!((100..=60_000).contains(&check.timeout.as_millis()));
        }
        Err(why) => assert_readable(&why),
    }
}

#[test]
fn every_request_of_the_corpus_decodes_or_is_refused_with_a_reason() {
    for bytes in load_corpus() {
        assert_decoded_or_refused(&bytes);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn noise_is_refused_with_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        assert_decoded_or_refused(&bytes);
    }

    #[test]
    fn a_mutated_request_decodes_or_is_refused_with_a_reason(bytes in mutated_request()) {
        assert_decoded_or_refused(&bytes);
    }

    #[test]
    fn arbitrary_field_values_decode_or_are_refused(
        fields in prop::collection::vec((prop::sample::select(fields()), json_value()), 0..6),
    ) {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        assert_decoded_or_refused(format!("{{{}}}", fields.join(",")).as_bytes());
    }

    /// Typing errors: a character wrong, missing or added, or two swapped.
    #[test]
    fn a_misspelled_field_is_answered_with_a_suggestion(
        field in prop::sample::select(adhoc_fields().into_iter().filter(|name| name.len() > 4).collect::<Vec<_>>()),
        place in any::<prop::sample::Index>(),
        kind in 0_u8..4,
        letter in "[a-z]",
    ) {
        let mut name: Vec<char> = field.chars().collect();
        let at = place.index(name.len() - 1);
        match kind {
            0 => name[at] = letter.chars().next().unwrap(),
            1 => drop(name.remove(at)),
            2 => name.swap(at, at + 1),
            _ => name.insert(at, letter.chars().next().unwrap()),
        }
        let name: String = name.into_iter().collect();
        prop_assume!(name != field);

        let why = CheckRequest::decode(format!(r#"{{"url":"http://x","{name}":1}}"#).as_bytes()).unwrap_err();

        prop_assert_eq!(&why.field, &name);
        prop_assert!(why.expected.contains(&format!("did you mean '{field}'?")), "{}", why);
    }

    #[test]
    fn a_list_of_statuses_reads_back_or_is_refused(text in "[0-9, x-]{0,40}|.{0,40}") {
        match text.parse::<StatusRanges>() {
            Ok(rule) => prop_assert_eq!(rule.to_string().parse::<StatusRanges>().unwrap(), rule),
            Err(why) => assert_readable(&why),
        }
    }

    #[test]
    fn a_list_of_statuses_allows_exactly_its_members(ranges in prop::collection::vec((100_u16..600, 0_u16..50), 1..8)) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, (first + more).min(599))).collect();
        let text: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let rule: StatusRanges = text.join(",").parse().unwrap();

        for status in 0..700 {
            let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&status));
            prop_assert_eq!(rule.allows_status(status), expected, "{}", status);
        }
    }

    #[test]
    fn a_url_is_http_or_refused(text in "(https?:)?[/\\\\]{0,3}[a-z0-9.:@%\\[\\]-]{0,20}(/.{0,10})?|.{0,60}") {
        match check::parse_url(&text) {
            Ok(url) => {
                prop_assert!(url.host().is_some() && url.username().is_empty() && url.password().is_none());
                prop_assert_eq!(check::parse_url(url.as_str()).unwrap(), url);
            }
            Err(why) => assert_readable(&why),
        }
    }

    #[test]
    fn a_timestamp_reads_back_or_is_refused(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.+Z-]{0,24}|.{0,40}") {
        if let Ok(moment) = text.parse::<Timestamp>() {
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }
}

/// A well-formed JSON value.
fn json_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no other numbers", |number| number.is_finite())
            .prop_map(|n| n.to_string()),
        ".{0,40}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "https?://[a-z0-9.]{1,12}/".prop_map(|url| format!("{url:?}")),
        prop::collection::vec(("[A-Za-z:-]{0,10}", ".{0,20}"), 0..4).prop_map(|fields| {
            let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
            serde_json::to_string(&fields).unwrap()
        }),
    ]
}
