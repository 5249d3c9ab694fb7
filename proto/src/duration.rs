//! Durations as people type them.

use std::{fmt, str::FromStr, time::Duration};

/// Duration as typed by people: `500ms`, `15s`, `1m 30s`, `2h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationArg(pub Duration);

impl DurationArg {
    /// The duration in whole seconds; `None` if it has a fraction of a second.
    pub fn as_whole_seconds(self) -> Option<i64> {
        match (self.0.subsec_nanos(), i64::try_from(self.0.as_secs())) {
            (0, Ok(seconds)) => Some(seconds),
            _ => None,
        }
    }

    /// The duration in milliseconds, rounded down.
    pub fn as_saturating_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(duration) => Ok(Self(duration)),
            Err(_) => Err(format!(
                "'{text}' is not a duration; allowed: a number with ms, s, m, h or d, such as 15s or 1h30m"
            )),
        }
    }
}

impl fmt::Display for DurationArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A duration for a reader, in its two largest units: `3 d 4 h`, `12 min 5 s`.
pub fn describe_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let (size, unit) = units[first];
    let rest = seconds % size;
    match units.get(first + 1).map(|(size, unit)| (rest / size, unit)) {
        Some((count, second)) if count > 0 => format!("{} {unit} {count} {second}", seconds / size),
        _ => format!("{} {unit}", seconds / size),
    }
}

/// A measured time in the unit that needs the fewest digits: `850 µs`, `4.2 ms`, `1.25 s`, `3 min`.
/// The number must be finite.
pub fn describe_micros(micros: f64) -> String {
    let (value, unit) = match micros {
        m if m < 999.5 => (m.round(), "µs"),
        m if m < 999_500.0 => (m / 1e3, "ms"),
        m if m < 119_500_000.0 => (m / 1e6, "s"),
        m if m < 7_170_000_000.0 => (m / 60e6, "min"),
        m if m < 172_000_000_000.0 => (m / 3_600e6, "h"),
        m => (m / 86_400e6, "d"),
    };
    let decimals = match value {
        v if v >= 100.0 || unit == "µs" => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_parses_in_its_usual_notations() {
        assert_eq!("1m 30s".parse::<DurationArg>().unwrap().0, Duration::from_secs(90));
        assert_eq!("15s".parse::<DurationArg>().unwrap().to_string(), "15s");
        assert!("15".parse::<DurationArg>().unwrap_err().contains("15s or 1h30m"));
    }

    #[test]
    fn a_described_duration_has_at_most_two_units() {
        for (seconds, text) in [(0, "0 s"), (725, "12 min 5 s"), (86_400, "1 d"), (273_700, "3 d 4 h")] {
            assert_eq!(describe_duration(Duration::from_secs(seconds)), text);
        }
    }
}
