//! A site as of a past moment: its state, its figures and its days, which the summary has for the present only.

use picket_proto::Timestamp;

use super::{
    overview::FigureItem,
    parts::{StatusMark, format_percent},
    site_data::SiteData,
    site_sums::{PastSums, WINDOWS},
};
use crate::charts::format_minute;

/// Figures of the sums.
pub(super) fn list_past_uptimes(sums: &PastSums) -> Vec<FigureItem> {
    let figures = WINDOWS.iter().zip(sums).map(|((_, name), (uptime, coverage))| FigureItem {
        name,
        value: format_percent(*uptime),
        note: format!("coverage {}", format_percent(*coverage)),
        href: None,
    });
    figures.collect()
}

/// The state at the moment of the page: down with an open incident, else as the newest checks of its regions were.
pub(super) fn describe_past_state(data: &SiteData) -> (StatusMark, String) {
    if let Some(open) = data.incidents.iter().find(|incident| incident.closed_at.is_none()) {
        return (StatusMark::Down, format!("since {} UTC", format_minute(open.opened_at.0)));
    }
    if data.now < data.summary.created_at.0 {
        return (StatusMark::Unknown, "before the site was added".to_owned());
    }
    if data.schedules.is_empty() {
        return (StatusMark::Paused, "no region checked it".to_owned());
    }
    let mut newest = data.schedules.iter().filter_map(|schedule| {
        data.recent.iter().find(|check| check.region == schedule.region && check.outcome != "missed")
    });
    match newest.next() {
        None => (StatusMark::Unknown, "no region had a result".to_owned()),
        Some(_) if data.warnings.is_empty() => (StatusMark::Up, "no incident was open".to_owned()),
        Some(_) => (StatusMark::Warning, "up, with a warning".to_owned()),
    }
}

/// The letters of days up to that of a moment, and that day.
pub(super) fn cut_days<'a>(
    letters: &'a str,
    through: Option<&str>,
    at: Timestamp,
) -> (&'a str, Option<String>) {
    const DAY_US: i64 = 86_400_000_000;
    let last: Option<Timestamp> = through.and_then(|day| format!("{day}T00:00:00Z").parse().ok());
    let Some(last) = last else { return (letters, None) };
    let later = (last.as_micros() - at.as_micros().div_euclid(DAY_US) * DAY_US).div_euclid(DAY_US);
    let kept = letters.len().saturating_sub(usize::try_from(later).unwrap_or(0));
    let day = last.as_micros() - later.max(0) * DAY_US;
    let day = Timestamp::from_micros(day).to_string().get(..10).map(ToOwned::to_owned);
    (letters.get(..kept).unwrap_or_default(), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_end_with_that_of_the_moment() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let cut = |text: &str| cut_days("uudp", Some("2026-11-20"), at(text));
        assert_eq!(cut("2026-11-20T14:00:00Z"), ("uudp", Some("2026-11-20".to_owned())));
        assert_eq!(cut("2026-11-18T00:00:00Z"), ("uu", Some("2026-11-18".to_owned())));
        assert_eq!(cut("2026-11-21T00:00:00Z"), ("uudp", Some("2026-11-20".to_owned())));
        assert_eq!(cut("2020-01-01T00:00:00Z").0, "");
    }
}
