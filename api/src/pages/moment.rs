//! A past moment as of which a page shows the state, in `?at=`.

use std::time::Duration;

use askama::Template;
use picket_proto::{Timestamp, ValidationError};
use picket_store::incident_pages::{ListedIncident, ListedWarning};

use super::parts::TimeMark;

const HOUR: Duration = Duration::from_secs(3_600);

/// The choice of a moment, and the one that the page shows.
#[derive(Clone, Debug, PartialEq, Eq, Template)]
#[template(path = "parts/moment.html")]
pub(crate) struct MomentBar {
    /// Address of the page without a moment.
    pub(crate) path: String,
    /// The past moment; absent for the present.
    pub(crate) at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl MomentBar {
    /// Permanent address of the page as of a moment.
    fn address(&self, at: Timestamp) -> String {
        format!("{}?at={}", self.path, format_second(at))
    }

    /// Exact, so that it shows what the page does.
    fn permalink(&self) -> String {
        format!("{}?at={}", self.path, self.at.unwrap_or(self.now))
    }

    fn earlier(&self) -> Option<String> {
        self.at.map(|at| self.address(at.saturating_sub(HOUR)))
    }

    fn later(&self) -> Option<String> {
        let later = self.at?.saturating_add(HOUR);
        (later < self.now).then(|| self.address(later))
    }

    fn mark(&self) -> Option<TimeMark> {
        self.at.map(TimeMark)
    }

    /// Value of the field, to the minute.
    fn field_value(&self) -> String {
        format_second(self.at.unwrap_or(self.now)).chars().take(16).collect()
    }
}

/// `2026-11-20T14:03:00Z`.
fn format_second(at: Timestamp) -> String {
    let exact = at.to_string();
    format!("{}Z", exact.get(..19).unwrap_or(&exact))
}

/// The moment of a query; `None` for the present. Times without a zone, as forms give them, are in UTC.
///
/// # Errors
/// If it is malformed or in the future.
pub(super) fn parse_moment(text: &str, now: Timestamp) -> Result<Option<Timestamp>, ValidationError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = [text.to_owned(), format!("{text}Z"), format!("{text}:00Z")]
        .iter()
        .find_map(|text| text.parse::<Timestamp>().ok());
    let refuse = || {
        let allowed = format!("a time in UTC such as 2026-11-20T14:03:00Z, not after {}", format_second(now));
        ValidationError::new("at", picket_proto::validation::sanitize_text(text, 64), allowed)
    };
    parsed.filter(|at| *at <= now).map(Some).ok_or_else(refuse)
}

/// Seconds from a time to another.
fn count_seconds(from: Timestamp, to: Timestamp) -> i64 {
    i64::try_from(to.saturating_duration_since(from).as_secs()).unwrap_or(i64::MAX)
}

/// An incident as it was at a moment: open, if it closed later.
pub(super) fn view_incident_at(incident: ListedIncident, at: Timestamp) -> ListedIncident {
    let closed_at = incident.closed_at.filter(|closed| closed.0 <= at);
    let seconds = count_seconds(incident.opened_at.0, closed_at.map_or(at, |closed| closed.0));
    ListedIncident { closed_at, seconds, ..incident }
}

/// A warning as it was at a moment; `None` if it was closed.
pub(super) fn view_warning_at(warning: ListedWarning, at: Timestamp) -> Option<ListedWarning> {
    if warning.closed_at.is_some_and(|closed| closed.0 <= at) {
        return None;
    }
    let days_left = warning.expires_at.map(|end| {
        let micros = end.0.as_micros().saturating_sub(at.as_micros());
        i32::try_from(micros.div_euclid(86_400_000_000)).unwrap_or(i32::MAX)
    });
    Some(ListedWarning { closed_at: None, days_left, ..warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_moment_is_a_time_in_utc_that_has_passed() {
        let now = at("2026-11-20T12:00:00Z");
        assert_eq!(parse_moment(" ", now).unwrap(), None);
        for text in
            ["2026-11-19T14:03:00Z", "2026-11-19T14:03:00", "2026-11-19T14:03", "2026-11-19T15:03:00+01:00"]
        {
            assert_eq!(parse_moment(text, now).unwrap(), Some(at("2026-11-19T14:03:00Z")), "{text}");
        }
        for text in ["yesterday", "2026-11-20T12:00:01Z", "2026-11-19"] {
            let refusal = parse_moment(text, now).unwrap_err().to_string();
            assert!(
                refusal.contains(text) && refusal.contains("not after 2026-11-20T12:00:00Z"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn the_bar_leads_an_hour_on_but_not_beyond_now() {
        let bar = MomentBar {
            path: "/sites/7".to_owned(),
            at: Some(at("2026-11-20T10:30:00Z")),
            now: at("2026-11-20T12:00:00Z"),
        };
        assert_eq!(bar.earlier().as_deref(), Some("/sites/7?at=2026-11-20T09:30:00Z"));
        assert_eq!(bar.later().as_deref(), Some("/sites/7?at=2026-11-20T11:30:00Z"));
        assert_eq!(bar.field_value(), "2026-11-20T10:30");
        let later = MomentBar { at: Some(at("2026-11-20T11:30:00Z")), ..bar.clone() };
        assert_eq!(later.later(), None);
        let present = MomentBar { at: None, ..bar };
        assert_eq!(
            (present.earlier(), present.permalink().as_str()),
            (None, "/sites/7?at=2026-11-20T12:00:00.000000Z")
        );
    }
}
