//! Times as arguments of commands.

use picket_proto::Timestamp;
use picket_runtime::options::DurationArg;

/// A time, or a span from now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TimeArg {
    At(Timestamp),
    FromNow(DurationArg),
}

impl TimeArg {
    /// The time, relative to `now` if it is a span.
    pub(crate) fn to_timestamp(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::FromNow(span) => now.saturating_add(span.0),
        }
    }
}

/// Parses a time argument.
pub(crate) fn parse_time_arg(text: &str) -> Result<TimeArg, String> {
    const ALLOWED: &str = "a time such as 2026-12-01T22:00:00Z, 'now', or a span from now such as '+2h'";
    if text == "now" {
        return Ok(TimeArg::FromNow(DurationArg(std::time::Duration::ZERO)));
    }
    let read = match text.strip_prefix('+') {
        Some(span) => span.parse().ok().map(TimeArg::FromNow),
        None => text.parse().ok().map(TimeArg::At),
    };
    read.ok_or_else(|| format!("'{text}' is not a time; allowed: {ALLOWED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_calendar_date_or_an_offset_from_now() {
        let now = Timestamp::from_millis(1_795_176_000_000);

        assert_eq!(parse_time_arg("now").unwrap().to_timestamp(now), now);
        assert_eq!(
            parse_time_arg("+2h").unwrap().to_timestamp(now).saturating_duration_since(now).as_secs(),
            7_200
        );
        assert_eq!(
            parse_time_arg("2026-12-01T22:00:00Z").unwrap().to_timestamp(now).to_string(),
            "2026-12-01T22:00:00.000000Z"
        );
        assert_eq!(
            parse_time_arg("2026-12-01T23:00:00+01:00").unwrap(),
            parse_time_arg("2026-12-01T22:00:00Z").unwrap()
        );
        for bad in ["", "2h", "tomorrow", "+", "2026-12-01"] {
            assert!(parse_time_arg(bad).unwrap_err().contains("allowed"), "{bad}");
        }
    }
}
