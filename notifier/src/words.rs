//! Words for quantities.

use std::time::Duration;

/// A duration in the two largest units, such as `12 min 4 s`.
pub(crate) fn describe_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")];
    let Some(first) = parts.iter().position(|(number, _)| *number > 0) else { return "0 s".to_owned() };
    let shown = parts[first..].iter().take(2).filter(|(number, _)| *number > 0);
    shown.map(|(number, unit)| format!("{number} {unit}")).collect::<Vec<_>>().join(" ")
}

/// A number with a noun, such as `1 site` or `3 sites`.
pub(crate) fn describe_count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}
