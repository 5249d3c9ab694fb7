//! The hours of a week in which a route tells.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ValidationError;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Spans of a week in a time zone: the column `active` of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveHours {
    /// Name of the time zone, such as `Europe/Berlin`.
    pub time_zone: String,
    /// The spans.
    pub hours: Vec<DailySpan>,
}

/// A span on some days of the week.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DailySpan {
    /// Days of its start, from 1 for Monday to 7.
    pub days: BTreeSet<u8>,
    /// Start, such as `08:00`.
    pub from: String,
    /// End, such as `18:00` or `24:00`; before the start for a span over midnight.
    pub to: String,
}

/// [`ActiveHours`] in their serialized form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with time_zone and hours")]
pub struct HoursFields {
    /// Name of the time zone, such as `Europe/Berlin`.
    pub time_zone: String,
    /// Spans of the week.
    pub hours: Vec<SpanFields>,
}

/// A span of [`HoursFields`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, as {\"days\": [\"mon-fri\"], \"from\": \"08:00\", \"to\": \"18:00\"}"
)]
pub struct SpanFields {
    /// Days, such as `mon` or `mon-fri`; every day if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// Start, such as `08:00`.
    pub from: String,
    /// End, such as `18:00` or `24:00`; before the start for a span over midnight.
    pub to: String,
}

impl HoursFields {
    /// The hours of these fields. Whether the time zone exists is for the database to say.
    ///
    /// # Errors
    /// If a day is unknown; the error names it.
    pub fn into_hours(self) -> Result<ActiveHours, ValidationError> {
        let span = |(index, span): (usize, SpanFields)| {
            let field = format!("active.hours[{index}].days");
            let mut days = BTreeSet::new();
            for text in &span.days {
                days.extend(parse_days(&field, text)?);
            }
            if span.days.is_empty() {
                days.extend(1..=7);
            }
            Ok(DailySpan { days, from: span.from, to: span.to })
        };
        let hours = self.hours.into_iter().enumerate().map(span).collect::<Result<_, _>>()?;
        Ok(ActiveHours { time_zone: self.time_zone, hours })
    }
}

impl ActiveHours {
    const MAX_SPANS: usize = 50;

    /// The serialized form.
    pub fn to_fields(&self) -> HoursFields {
        let span = |span: &DailySpan| SpanFields {
            days: format_days(&span.days),
            from: span.from.clone(),
            to: span.to.clone(),
        };
        HoursFields { time_zone: self.time_zone.clone(), hours: self.hours.iter().map(span).collect() }
    }

    /// Validates all but the existence of the time zone.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self) -> Result<(), ValidationError> {
        let zone = self.time_zone.as_str();
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "/_+-".contains(letter);
        if zone.is_empty() || zone.len() > 64 || !zone.chars().all(is_letter) {
            return Err(ValidationError::new(
                "active.time_zone",
                zone,
                "a name such as Europe/Berlin or UTC",
            ));
        }
        if self.hours.is_empty() || self.hours.len() > Self::MAX_SPANS {
            let (count, allowed) = (self.hours.len(), format!("1 to {} spans", Self::MAX_SPANS));
            return Err(ValidationError::new("active.hours", format_args!("{count} spans"), allowed));
        }
        for (index, span) in self.hours.iter().enumerate() {
            let field = |name: &str| format!("active.hours[{index}].{name}");
            if span.days.is_empty() || span.days.iter().any(|day| !(1..=7).contains(day)) {
                return Err(ValidationError::new(field("days"), "", allowed_days()));
            }
            let from = parse_minutes(&span.from).filter(|minutes| *minutes < 24 * 60);
            if from.is_none() {
                return Err(ValidationError::new(field("from"), &span.from, "a time from 00:00 to 23:59"));
            }
            if parse_minutes(&span.to).is_none_or(|to| Some(to) == from) {
                let allowed = "a time from 00:00 to 24:00 other than the start";
                return Err(ValidationError::new(field("to"), &span.to, allowed));
            }
        }
        Ok(())
    }
}

/// Minutes since midnight of `HH:MM`, up to `24:00`.
fn parse_minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(hours) || !is_number(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

fn allowed_days() -> String {
    format!("{}, or a range such as mon-fri", DAYS.join(", "))
}

/// The days of `mon` or `mon-fri`; a range may pass the end of the week.
fn parse_days(field: &str, text: &str) -> Result<Vec<u8>, ValidationError> {
    let number = |name: &str| (1_u8..).zip(DAYS).find(|(_, day)| *day == name).map(|(number, _)| number);
    let lower = text.trim().to_ascii_lowercase();
    let (first, last) = lower.split_once('-').unwrap_or((&lower, &lower));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first..=last).collect()),
        (Some(first), Some(last)) => Ok((first..=7).chain(1..=last).collect()),
        _ => Err(ValidationError::new(field, text, allowed_days())),
    }
}

/// Days as names and, from three in a row, as ranges. Empty for every day.
fn format_days(days: &BTreeSet<u8>) -> Vec<String> {
    if days.len() == 7 {
        return Vec::new();
    }
    let name = |day: u8| DAYS.get(usize::from(day).wrapping_sub(1)).copied().unwrap_or_default();
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for day in days.iter().copied() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == day => *last = day,
            _ => runs.push((day, day)),
        }
    }
    let format_run = |(first, last): (u8, u8)| match last - first {
        0 | 1 => (first..=last).map(|day| name(day).to_owned()).collect(),
        _ => vec![format!("{}-{}", name(first), name(last))],
    };
    runs.into_iter().flat_map(format_run).collect::<Vec<String>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(days: &[&str], from: &str, to: &str) -> Result<ActiveHours, ValidationError> {
        let days = days.iter().map(|day| (*day).to_owned()).collect();
        let span = SpanFields { days, from: from.into(), to: to.into() };
        let hours = HoursFields { time_zone: "Europe/Berlin".into(), hours: vec![span] }.into_hours()?;
        hours.validate()?;
        Ok(hours)
    }

    #[test]
    fn days_are_names_and_ranges_and_every_day_by_default() {
        for (given, numbers, written) in [
            (&["mon-fri"][..], &[1, 2, 3, 4, 5][..], &["mon-fri"][..]),
            (&["Sat", "sun"], &[6, 7], &["sat", "sun"]),
            (&["sat-mon"], &[1, 6, 7], &["mon", "sat", "sun"]),
            (&[], &[1, 2, 3, 4, 5, 6, 7], &[]),
        ] {
            let hours = hours(given, "08:00", "18:00").unwrap();
            assert_eq!(hours.hours[0].days.iter().copied().collect::<Vec<_>>(), numbers);
            assert_eq!(hours.to_fields().hours[0].days, written);
        }
        assert_eq!(hours(&["monday"], "08:00", "18:00").unwrap_err().field, "active.hours[0].days");
    }

    #[test]
    fn a_span_may_pass_midnight_and_has_a_length() {
        for (from, to) in [("22:00", "06:00"), ("00:00", "24:00"), ("08:30", "09:00")] {
            hours(&[], from, to).unwrap();
        }
        for (from, to, field) in [
            ("24:00", "06:00", "from"),
            ("8:00", "18:00", "from"),
            ("08:00", "08:00", "to"),
            ("08:00", "24:01", "to"),
            ("08:00", "+1:00", "to"),
        ] {
            assert_eq!(hours(&[], from, to).unwrap_err().field, format!("active.hours[0].{field}"));
        }
        let zone = ActiveHours { time_zone: "Berlin; DROP".into(), hours: Vec::new() };
        assert_eq!(zone.validate().unwrap_err().field, "active.time_zone");
    }
}
