use std::time::Duration;

use super::*;
use crate::samples;

fn count_chars(text: &str) -> usize {
    text.chars().count()
}

#[test]
fn a_down_message_says_cause_regions_times_phases_and_tags() {
    let text = Layout::new(&samples::down(), &Plain).fit_text(5_000, str::len, &Plain);

    insta::assert_snapshot!(text);
}

#[test]
fn an_up_message_says_how_long_it_was_down() {
    let text = Layout::new(&samples::up(), &Plain).fit_text(5_000, str::len, &Plain);

    assert!(text.starts_with("UP shop.example.com: was down 12 min 4 s\n"), "{text}");
    assert!(text.contains("Down: 2026-11-20 12:01:03 UTC to 2026-11-20 12:13:07 UTC, 12 min 4 s"), "{text}");
}

#[test]
fn a_digest_has_headings_counts_and_the_number_of_hidden_items() {
    let text = Layout::new(&samples::digest(), &Html).fit_text(5_000, str::len, &Html);

    insta::assert_snapshot!(text);
}

#[test]
fn a_text_is_cut_between_items_and_counts_those_it_leaves_out() {
    let layout = Layout::new(&samples::digest(), &Html);
    let all = layout.items.len() + layout.hidden_items;
    for cap in (200..4_000).step_by(17) {
        let text = layout.fit_text(cap, count_chars, &Html);
        assert!(count_chars(&text) <= cap, "{cap}: {text}");
        let shown = text.lines().filter(|line| line.starts_with("<b>DOWN site-")).count();
        let hidden = text.lines().find_map(|line| line.strip_prefix("and ")?.strip_suffix(" more"));
        let hidden = hidden.map_or(0, |count| count.parse::<usize>().unwrap());
        assert!(text.lines().count() == 1 || shown + hidden == all, "{cap}: {text}");
        assert_eq!(text.matches("<b>").count(), text.matches("</b>").count(), "{text}");
    }
}

#[test]
fn a_text_under_a_small_cap_is_the_start_of_its_title() {
    let layout = Layout::new(&samples::down(), &Plain);

    assert_eq!(layout.fit_text(10, count_chars, &Plain), "DOWN shop…");
    assert_eq!(layout.fit_text(0, count_chars, &Plain), "");
    assert_eq!(layout.fit_body(3, count_chars), "");
}

#[test]
fn hostile_names_stay_on_one_line_and_are_escaped_whole() {
    for name in samples::HOSTILE_NAMES.iter().map(|name| (*name).to_owned()).chain([samples::long_name()]) {
        let message = samples::named(&name);
        let html = Layout::new(&message, &Html).fit_text(4_096, count_chars, &Html);
        let plain = Layout::new(&message, &Plain).fit_text(4_096, count_chars, &Plain);

        assert!(!html.contains("<script") && !html.contains("<!channel>"), "{html}");
        assert!(plain.lines().count() == html.lines().count() && plain.lines().count() < 12, "{plain}");
        let is_visible = |character: char| {
            character == '\n' || picket_proto::safe_text::to_visible(character) == character
        };
        assert!(plain.chars().all(is_visible), "{plain}");
        assert!(count_chars(&plain) < 4_096, "{}", plain.len());
    }
}

#[test]
fn a_test_message_and_a_repeated_one_say_so() {
    let test = Layout::new(&samples::test(), &Plain);
    let mut message = samples::down();
    message.is_repeat = true;

    assert!(test.title.starts_with("TEST"), "{}", test.title);
    assert_eq!(Layout::new(&message, &Plain).notes, [REPEAT_NOTE]);
}

#[test]
fn a_reminder_says_for_how_long_it_has_been_so() {
    let text = Layout::new(&samples::reminder(), &Plain).fit_text(5_000, str::len, &Plain);

    assert!(text.contains("opened 2026-11-20 12:01:03 UTC, 1 h"), "{text}");
}

#[test]
fn an_address_that_is_no_web_address_becomes_no_link() {
    let mut message = samples::down();
    for (url, is_link) in [
        ("https://shop.example.com/", true),
        ("javascript:alert(1)", false),
        ("https://shop.example.com/\"onclick=\"x", true),
        ("nonsense", false),
    ] {
        message.items[0].url = Some(url.to_owned());
        let text = Layout::new(&message, &Html).fit_text(5_000, str::len, &Html);
        let address = text.lines().find(|line| line.starts_with("Address")).unwrap();
        assert_eq!(address.contains("<a href=\"http"), is_link, "{address}");
        assert!(!address.contains("\"onclick"), "{address}");
    }
}

#[test]
fn each_verdict_has_a_line_of_its_own() {
    let mut item = samples::down().items.remove(0);
    item.duration = Duration::from_secs(240);
    let mut lines = Vec::new();
    for verdict in samples::ALL_VERDICTS {
        item.verdict = verdict;
        lines.push(describe_item(&item));
    }

    insta::assert_snapshot!(lines.join("\n"));
}
