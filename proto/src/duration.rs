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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_parses_in_its_usual_notations() {
        assert_eq!("1m 30s".parse::<DurationArg>().unwrap().0, Duration::from_secs(90));
        assert_eq!("15s".parse::<DurationArg>().unwrap().to_string(), "15s");
        assert!("15".parse::<DurationArg>().unwrap_err().contains("15s or 1h30m"));
    }
}
