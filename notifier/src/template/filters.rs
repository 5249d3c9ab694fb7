//! Filters of templates, beside those of minijinja.

use std::time::Duration;

use minijinja::{Environment, Error, ErrorKind, Value};
use picket_proto::{Timestamp, duration::describe_duration};

use crate::text::format_time;

/// Forms of a time, and what each is for.
const TIME_FORMS: &str = "utc, date, clock, iso or unix";

pub(super) fn add_filters(environment: &mut Environment<'_>) {
    environment.add_filter("duration", describe_millis);
    environment.add_filter("time", describe_time);
}

/// Milliseconds in words, such as `12 min 4 s`. Nothing of nothing.
fn describe_millis(millis: &Value) -> Result<String, Error> {
    if millis.is_none() {
        return Ok(String::new());
    }
    let number = u64::try_from(millis.clone()).map_err(|_| {
        let given = millis.kind();
        let why = format!("filter duration takes milliseconds, such as duration_ms, not a {given}");
        Error::new(ErrorKind::InvalidOperation, why)
    })?;
    Ok(describe_duration(Duration::from_millis(number)))
}

/// A time in one of the [`TIME_FORMS`]. Nothing of nothing.
fn describe_time(time: &Value, form: Option<&str>) -> Result<Value, Error> {
    if time.is_none() {
        return Ok(Value::from(""));
    }
    let wrong = |why: String| Error::new(ErrorKind::InvalidOperation, why);
    let parsed = time.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let at = parsed.ok_or_else(|| {
        let given = time.as_str().map_or_else(|| format!("a {}", time.kind()), |text| format!("'{text}'"));
        wrong(format!("filter time takes a time of the message, such as opened_at, not {given}"))
    })?;
    let utc = format_time(at);
    let part = |range: std::ops::Range<usize>| Value::from(utc.get(range).unwrap_or_default());
    match form.unwrap_or("utc") {
        "utc" => Ok(Value::from(utc.as_str())),
        "date" => Ok(part(0..10)),
        "clock" => Ok(part(11..16)),
        "iso" => Ok(Value::from(at.to_string())),
        "unix" => Ok(Value::from(at.as_millis().div_euclid(1_000))),
        other => Err(wrong(format!("filter time knows no form '{other}'; allowed: {TIME_FORMS}"))),
    }
}
