//! Parts that pages are made of. Each is written as HTML wherever a template names it.

use std::time::Duration;

use askama::Template;
use picket_proto::{Outcome, Timestamp, duration::describe_duration};

use crate::charts::Chart;

/// A status with a shape, a word and, last, a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StatusMark {
    Down,
    Unknown,
    /// The site cannot be checked.
    Problem,
    Maintenance,
    Warning,
    Missed,
    /// A region without an active prober.
    Silent,
    Up,
    Paused,
}

impl StatusMark {
    /// The mark of a word of the database; words of newer versions are unknown.
    pub(crate) fn from_word(word: &str) -> Self {
        match word {
            "up" => Self::Up,
            "down" => Self::Down,
            "paused" => Self::Paused,
            "problem" => Self::Problem,
            "missed" => Self::Missed,
            "silent" => Self::Silent,
            "warning" => Self::Warning,
            "maintenance" => Self::Maintenance,
            _ => Self::Unknown,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Problem => "problem",
            Self::Maintenance => "maintenance",
            Self::Warning => "warning",
            Self::Missed => "missed",
            Self::Silent => "silent",
            Self::Up => "up",
            Self::Paused => "paused",
        }
    }

    /// Path of the shape, in a square of 16: a disc, a cross, a dashed circle, and so on.
    fn shape(self) -> &'static str {
        match self {
            Self::Up => r#"<circle class="mark-fill" cx="8" cy="8" r="6"/>"#,
            Self::Down => r#"<path class="mark-line" d="M3 3l10 10M13 3l-10 10"/>"#,
            Self::Unknown => r#"<circle class="mark-line" cx="8" cy="8" r="6" stroke-dasharray="3 2"/>"#,
            Self::Problem => r#"<path class="mark-line" d="M8 1.5v8M8 12v3"/>"#,
            Self::Maintenance => r#"<path class="mark-line" d="M8 2l6 6-6 6-6-6z"/>"#,
            Self::Warning => r#"<path class="mark-fill" d="M8 1l7 13h-14z"/>"#,
            Self::Missed => r#"<path class="mark-line" d="M2 2h12v12h-12zM2 9l7-7M3 13l10-10M8 14l6-6"/>"#,
            Self::Silent => r#"<path class="mark-line" d="M8 2a6 6 0 1 0 .1 0zM4 12l8-8"/>"#,
            Self::Paused => r#"<path class="mark-line" d="M5 3v10M11 3v10"/>"#,
        }
    }
}

impl From<Outcome> for StatusMark {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Up => Self::Up,
            Outcome::Down => Self::Down,
            Outcome::Missed => Self::Missed,
        }
    }
}

impl std::fmt::Display for StatusMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, shape) = (self.word(), self.shape());
        write!(
            f,
            r#"<span class="status {word}"><svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>{word}</span>"#
        )
    }
}

/// A time in UTC, to the second; a script adds the reader's local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeMark(pub(crate) Timestamp);

impl std::fmt::Display for TimeMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exact = self.0.to_string();
        let text = exact.get(..19).unwrap_or(&exact).replace('T', " ");
        write!(f, r#"<time datetime="{exact}" class="nowrap">{text}</time>"#)
    }
}

/// The statements and commands that give the same data as a table or chart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "parts/behind.html")]
pub(crate) struct Behind {
    pub(crate) sql: String,
    pub(crate) command: String,
    pub(crate) curl: String,
}

/// A chart with its caption, read-out and table.
#[derive(Clone, Debug, PartialEq, Eq, Template)]
#[template(path = "parts/figure.html")]
pub(crate) struct Figure {
    pub(crate) title: &'static str,
    pub(crate) chart: Chart,
    /// Class and name of each series.
    pub(crate) legend: Vec<(String, &'static str)>,
    /// Span that dragging selects a part of.
    pub(crate) zoom: Option<(Timestamp, Timestamp)>,
}

/// A tag with the list of its sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagLink {
    pub(crate) name: String,
    pub(crate) href: String,
}

impl TagLink {
    pub(crate) fn new(name: &str) -> Self {
        let query: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        Self { name: name.to_owned(), href: format!("/sites?tag={query}") }
    }
}

/// Heading of a column that sorts the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SortLink {
    pub(crate) name: &'static str,
    /// Address of the sorted table; absent for columns that cannot sort.
    pub(crate) href: Option<String>,
    /// `ascending` or `descending`, if the table is sorted by this column.
    pub(crate) direction: Option<&'static str>,
    pub(crate) is_number: bool,
}

/// Links to the neighbouring pages of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "parts/pager.html")]
pub(crate) struct Pager {
    pub(crate) shown: String,
    pub(crate) first: Option<String>,
    pub(crate) next: Option<String>,
}

/// A share in per cent with two decimals, truncated so that 100 % means all; `–` if unknown.
pub(crate) fn format_percent(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 => "100 %".to_owned(),
        Some(value) => format!("{:.2} %", (value * 100.0).floor() / 100.0),
        None => "–".to_owned(),
    }
}

/// A number with thin spaces between thousands.
pub(crate) fn format_count(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = String::from(if count < 0 { "−" } else { "" });
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A span of seconds in its two largest units: `3 d 4 h`, `12 min 5 s`.
pub(crate) fn format_seconds(seconds: i64) -> String {
    describe_duration(Duration::from_secs(seconds.max(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(format_percent(Some(99.9999)), "99.99 %");
        assert_eq!(format_percent(Some(100.0)), "100 %");
        assert_eq!(format_count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(format_count(-12), "−12");
        assert_eq!(format_seconds(-1), "0 s");
        assert_eq!(format_seconds(725), "12 min 5 s");
    }

    #[test]
    fn each_status_has_a_word_and_a_shape_of_its_own() {
        use StatusMark::{Down, Maintenance, Missed, Paused, Problem, Silent, Unknown, Up, Warning};
        let all = [Down, Unknown, Problem, Maintenance, Warning, Missed, Silent, Up, Paused];
        let shapes: std::collections::HashSet<_> = all.iter().map(|mark| mark.shape()).collect();
        assert_eq!(shapes.len(), all.len());
        for mark in all {
            assert_eq!(StatusMark::from_word(mark.word()), mark);
            picket_harness::markup::parse_markup(&mark.to_string()).unwrap();
        }
    }
}
