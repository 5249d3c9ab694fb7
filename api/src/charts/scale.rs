//! Scales of axes: round values in readable units, and times in UTC.

use picket_proto::{Timestamp, duration::describe_micros};

use super::{Span, clamp_number};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A duration in the unit that needs the fewest digits: `850 µs`, `4.2 ms`, `1.25 s`, `3 min`.
pub(crate) fn format_duration(micros: f64) -> String {
    describe_micros(clamp_number(micros))
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `3 Aug 2026`.
pub(crate) fn format_day(at: Timestamp) -> String {
    let date = at.to_offset_datetime().date();
    format!("{} {} {}", date.day(), MONTHS[usize::from(u8::from(date.month())) - 1], date.year())
}

/// `2026-08-03 14:05`, in UTC.
pub(crate) fn format_minute(at: Timestamp) -> String {
    let moment = at.to_offset_datetime();
    let (date, hour, minute) = (moment.date(), moment.hour(), moment.minute());
    format!("{:04}-{:02}-{:02} {hour:02}:{minute:02}", date.year(), u8::from(date.month()), date.day())
}

/// A mark on an axis: its place from 0 to 1, and its text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AxisMark {
    pub(super) place: f64,
    pub(super) text: String,
}

/// A linear scale of durations from 0 to a round value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LinearScale {
    step: f64,
    steps: u32,
}

impl LinearScale {
    /// A scale that reaches `max` with at most five steps of 1, 2 or 5 times a power of ten.
    pub(super) fn reaching(max: f64) -> Self {
        // Steps of less than a microsecond would all be called 0 µs.
        let max = clamp_number(max).max(5.0);
        let power = 10_f64.powf((max / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| step * 5.0 >= max * (1.0 - 1e-9)).unwrap_or(power * 10.0);
        let steps = (max / step - 1e-9).ceil().clamp(1.0, 5.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 5")]
        Self { step, steps: steps as u32 }
    }

    fn end(self) -> f64 {
        self.step * f64::from(self.steps)
    }

    /// Place of a value, from 0 to 1.
    pub(super) fn place(self, value: f64) -> f64 {
        (clamp_number(value) / self.end()).clamp(0.0, 1.0)
    }

    pub(super) fn marks(self) -> Vec<AxisMark> {
        let mark = |n: u32| {
            let value = self.step * f64::from(n);
            let text = if n == 0 { "0".to_owned() } else { format_duration(value) };
            AxisMark { place: self.place(value), text }
        };
        (0..=self.steps).map(mark).collect()
    }
}

impl Span {
    /// Place of a time, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a pixel")]
    pub(super) fn place(self, at: Timestamp) -> f64 {
        let passed = at.as_micros().saturating_sub(self.from.as_micros());
        (passed as f64 / self.micros() as f64).clamp(0.0, 1.0)
    }

    /// Marks at round times, at most ten.
    pub(super) fn marks(self) -> Vec<AxisMark> {
        const STEPS: [i64; 17] = [
            SECOND,
            5 * SECOND,
            15 * SECOND,
            MINUTE,
            5 * MINUTE,
            15 * MINUTE,
            30 * MINUTE,
            HOUR,
            3 * HOUR,
            6 * HOUR,
            12 * HOUR,
            DAY,
            2 * DAY,
            7 * DAY,
            14 * DAY,
            28 * DAY,
            56 * DAY,
        ];
        let step = STEPS.into_iter().find(|step| self.micros() / step <= 9);
        let step = step.unwrap_or((self.micros() / (9 * DAY) + 1) * DAY);
        let first = self.from.as_micros().div_euclid(step).saturating_add(1).saturating_mul(step);
        (0..10)
            .map(|n| first.saturating_add(step.saturating_mul(n)))
            .take_while(|micros| *micros <= self.to.as_micros())
            .map(|micros| {
                let at = Timestamp::from_micros(micros);
                AxisMark { place: self.place(at), text: format_mark(at, step) }
            })
            .collect()
    }
}

/// The part of a time that differs between marks at this distance; midnight is written as the day.
fn format_mark(at: Timestamp, step: i64) -> String {
    let moment = at.to_offset_datetime();
    if step >= DAY || moment.time() == time::Time::MIDNIGHT {
        let month = MONTHS[usize::from(u8::from(moment.month())) - 1];
        format!("{} {month}", moment.day())
    } else if step < MINUTE {
        format!("{:02}:{:02}:{:02}", moment.hour(), moment.minute(), moment.second())
    } else {
        format!("{:02}:{:02}", moment.hour(), moment.minute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn texts(marks: Vec<AxisMark>) -> Vec<String> {
        marks.into_iter().map(|mark| mark.text).collect()
    }

    #[test]
    fn durations_have_a_unit_and_at_most_three_digits() {
        let cases = [
            (0.0, "0 µs"),
            (850.4, "850 µs"),
            (999.7, "1 ms"),
            (4_200.0, "4.2 ms"),
            (12_345.0, "12.3 ms"),
            (100_000.0, "100 ms"),
            (1_250_000.0, "1.25 s"),
            (60_000_000.0, "60 s"),
            (180_000_000.0, "3 min"),
            (f64::NAN, "0 µs"),
            (-5.0, "0 µs"),
        ];
        for (micros, text) in cases {
            assert_eq!(format_duration(micros), text, "{micros}");
        }
    }

    #[test]
    fn linear_scale_ends_at_a_round_value() {
        assert_eq!(
            texts(LinearScale::reaching(183_000.0).marks()),
            ["0", "50 ms", "100 ms", "150 ms", "200 ms"]
        );
        assert_eq!(texts(LinearScale::reaching(0.0).marks()), ["0", "1 µs", "2 µs", "3 µs", "4 µs", "5 µs"]);
        assert_eq!(texts(LinearScale::reaching(1_000_000.0).marks()).last().unwrap(), "1 s");
    }

    #[test]
    fn time_marks_are_round_times_and_midnight_is_a_day() {
        let day = Span { from: at("2026-11-20T05:10:00Z"), to: at("2026-11-21T05:10:00Z") };
        let expected = ["06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "21 Nov", "03:00"];
        assert_eq!(texts(day.marks()), expected);
        let minute = Span { from: at("2026-11-20T05:10:00Z"), to: at("2026-11-20T05:10:40Z") };
        assert_eq!(texts(minute.marks())[0], "05:10:05");
        let year = Span { from: at("2025-11-20T00:00:00Z"), to: at("2026-11-20T00:00:00Z") };
        assert!((3..=10).contains(&year.marks().len()));
    }
}
