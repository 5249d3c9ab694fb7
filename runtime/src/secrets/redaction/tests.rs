use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine as _};
use proptest::prelude::*;

use super::*;

fn redactor(values: &[&str]) -> Redactor {
    let redactor = Redactor::default();
    let values: Vec<_> = values.iter().map(|value| SecretValue::new((*value).to_owned())).collect();
    redactor.set_secrets(values.iter());
    redactor
}

fn redacted(values: &[&str], text: &str) -> String {
    redactor(values).0.redact(text).into_owned()
}

#[test]
fn a_text_without_a_value_is_borrowed() {
    let redactor = redactor(&["hunter2hunter2"]);

    assert!(matches!(redactor.0.redact("nothing 100% secret %41…"), Cow::Borrowed(_)));
    assert!(matches!(Redactor::default().0.redact("hunter2hunter2"), Cow::Borrowed(_)));
}

#[test]
fn a_value_is_found_in_each_form() {
    let value = r#"s3/c "r\e%t+ü"#;
    let json = serde_json::to_string(value).unwrap();
    let double = "s3%252Fc%2520%2522r%255Ce%2525t%252B%25C3%25BC";
    for text in [
        value.to_owned(),
        json,
        format!("{value:?}"),
        "s3%2Fc%20%22r%5Ce%25t%2B%C3%BC".to_owned(),
        "s3%2fc%20%22r%5ce%25t%2b%c3%bc".to_owned(),
        "s3/c+%22r%5Ce%25t+%C3%BC".to_owned(),
        double.to_owned(),
        BASE64_STANDARD.encode(value),
        BASE64_URL_SAFE.encode(value),
        BASE64_STANDARD.encode(format!("user:{value}")),
        BASE64_STANDARD.encode(format!("users:{value}\n")),
        BASE64_STANDARD.encode(format!("usersx:{value}:tail")),
    ] {
        let shown = redacted(&[value], &format!("before ({text}) after"));
        let hidden = shown.strip_prefix("before (").and_then(|shown| shown.strip_suffix(") after"));
        assert!(matches!(hidden, Some("[redacted]" | "\"[redacted]\"")), "{text}: {shown}");
    }
}

#[test]
fn a_value_in_the_host_of_a_url_is_found_in_the_form_that_hosts_have() {
    let url = url::Url::parse("http://Hunter2-Über.Evil.example/").unwrap();
    assert_eq!(url.as_str(), "http://xn--hunter2-ber-0hb.evil.example/");

    assert_eq!(redacted(&["Hunter2-Über"], url.as_str()), "http://[redacted].evil.example/");
    assert_eq!(
        redacted(&["Hunter2-Secret"], "to http://xhunter2-secret.example/"),
        "to http://x[redacted].example/"
    );
}

#[test]
fn texts_are_withheld_as_a_whole_and_counted_if_values_cannot_be_searched_for() {
    let redactor = Redactor::default();
    let value = SecretValue::new("unsearchable-value".to_owned());
    let needles = Needles::build_with([&value].into_iter(), |_| Err(())).unwrap();
    let before = WITHHELD_TEXTS.get();

    report_unsearchable(Some(&needles));
    *redactor.0.secrets.write() = Some(Arc::new(needles));
    let texts = ["with unsearchable-value", "without", "a line\n", ""]
        .map(|text| redactor.0.redact(text).into_owned());
    let json = redactor.0.redact(r#"{"message":"unsearchable-value"}"#).into_owned();

    assert_eq!(&texts[..2], [WITHHELD_TEXT; 2]);
    assert_eq!(texts[2], format!("{WITHHELD_TEXT}\n"));
    assert!(!json.contains("unsearchable"), "{json}");
    assert!(WITHHELD_TEXTS.get() >= before + 4);
}

#[test]
fn the_lines_of_a_private_key_are_found_and_those_of_its_certificate_are_not() {
    let pem = "-----BEGIN CERTIFICATE-----\nPUBLICPUBLICPUBLIC\n-----END CERTIFICATE-----\n\
               -----BEGIN PRIVATE KEY-----\nKEYLINEKEYLINE0\nKEYLINEKEYLINE1\n-----END PRIVATE KEY-----\n";

    let shown = redacted(&[pem], "PUBLICPUBLICPUBLIC KEYLINEKEYLINE1 and KEYLINEKEYLINE0KEYLINEKEYLINE1");

    assert_eq!(shown, "PUBLICPUBLICPUBLIC [redacted] and [redacted][redacted]");
}

#[test]
fn the_beginning_of_a_value_is_not_redacted_so_no_guess_of_it_is_confirmed() {
    for guess in
        ["hunt…", "hunter2hunter…", "to '/x?hunter2hun…' and on", "hunter2hunter", "aHVudGVyMmh1bnRl…"]
    {
        assert_eq!(redacted(&["hunter2hunter2"], guess), guess);
    }
}

#[test]
fn the_two_latest_tokens_of_an_origin_are_redacted() {
    let redactor = redactor(&[]);
    for token in ["token-number-1", "token-number-2", "token-number-3"] {
        redactor.add_token("origin", SecretValue::new(token.to_owned()));
    }

    let shown = redactor.0.redact("token-number-1 token-number-2 token-number-3").into_owned();

    assert_eq!(shown, "token-number-1 [redacted] [redacted]");
    redactor.add_token("other", SecretValue::new("token-number-4".to_owned()));
    assert_eq!(redactor.0.redact("token-number-2 token-number-4"), "[redacted] [redacted]");
}

#[test]
fn the_redactors_of_dropped_secrets_are_forgotten() {
    let registered = Redactor::registered();
    registered.set_secrets([SecretValue::new("registered-value".to_owned())].iter());

    assert_eq!(redact("a registered-value"), "a [redacted]");
    drop(registered);
    assert_eq!(redact("a registered-value"), "a registered-value");
}

proptest! {
    #[test]
    fn no_value_survives_any_surroundings_and_nothing_panics(
        value in "[ -~ü€]{6,40}",
        before in ".{0,20}",
        after in ".{0,20}",
        encoded in any::<[bool; 160]>(),
    ) {
        let mixed: String = value.bytes().enumerate().map(|(index, byte)| {
            match encoded[index % encoded.len()] || !byte.is_ascii() || byte == b'%' {
                true => format!("%{byte:02X}"),
                false => char::from(byte).to_string(),
            }
        }).collect();
        let redactor = redactor(&[&value]);

        let plain = redactor.0.redact(&format!("{before}{value}{after}")).into_owned();
        let percent = redactor.0.redact(&format!("x{mixed}y")).into_owned();
        let base64 = redactor.0.redact(&format!("x {} y", BASE64_STANDARD.encode(format!("{before}{value}{after}")))).into_owned();

        prop_assert!(plain.contains("[redacted]"), "{plain}");
        prop_assert!(!plain.contains(&value) || before.contains(&value) || after.contains(&value));
        prop_assert_eq!(percent, "x[redacted]y");
        prop_assert_eq!(base64, "x [redacted] y");
    }
}
