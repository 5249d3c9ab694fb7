//! The charts of a site: their span, and columns made of its history.

use std::time::Duration;

use picket_proto::{Timestamp, ValidationError};
use picket_store::site_history::{self, HistoryColumn};

use super::parts::Figure;
use crate::charts::{
    Chart, EditMark, HISTOGRAM_BUCKETS, HistogramColumn, Observed, PercentileColumn, Phase, PhaseColumn,
    Span, bucket_start_us, draw_heat_map, draw_percentiles, draw_phases,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest span of a chart.
pub(super) const MAX_SPAN: Duration = Duration::from_secs(site_history::Span::MAX_DAYS * 86_400);
/// Spans to choose from: value, length and name.
pub(super) const SPANS: [(&str, Duration, &str); 4] = [
    ("24h", Duration::from_secs(86_400), "24 hours"),
    ("7d", Duration::from_secs(7 * 86_400), "7 days"),
    ("30d", Duration::from_secs(30 * 86_400), "30 days"),
    ("90d", Duration::from_secs(90 * 86_400), "90 days"),
];

/// Span of the charts and length of their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChartSpan {
    pub(super) span: Span,
    pub(super) step: Duration,
}

impl ChartSpan {
    /// The span between two times, or else the one of this name up to now, or else the last day.
    ///
    /// # Errors
    /// If a time is malformed, or the span is empty or too long.
    pub(super) fn parse(name: &str, from: &str, to: &str, now: Timestamp) -> Result<Self, ValidationError> {
        if from.is_empty() {
            let (_, length, _) = SPANS.into_iter().find(|(word, ..)| *word == name).unwrap_or(SPANS[0]);
            return Ok(Self::covering(now.saturating_sub(length), now));
        }
        let start: Timestamp = from.parse().map_err(|_| refuse_time("from", from))?;
        let end = if to.is_empty() { now } else { to.parse().map_err(|_| refuse_time("to", to))? };
        let length = end.saturating_duration_since(start);
        if length.is_zero() || length > MAX_SPAN {
            return Err(ValidationError::new(
                "to",
                end,
                format!("a time after {start}, at most 400 days later"),
            ));
        }
        Ok(Self::covering(start, end))
    }

    /// Widened to whole columns: an hour is the least that rollups know.
    fn covering(from: Timestamp, to: Timestamp) -> Self {
        let step = match to.saturating_duration_since(from) {
            length if length <= 8 * DAY => HOUR,
            length if length <= 40 * DAY => 6 * HOUR,
            _ => DAY,
        };
        let size = i64::try_from(step.as_micros()).unwrap_or(i64::MAX);
        let start = from.as_micros().div_euclid(size).saturating_mul(size);
        let end = to.as_micros().saturating_add(size - 1).div_euclid(size).saturating_mul(size);
        Self { span: Span { from: Timestamp::from_micros(start), to: Timestamp::from_micros(end) }, step }
    }

    /// Starts of all columns.
    fn starts(self) -> impl Iterator<Item = Timestamp> {
        let (mut at, end, step) = (self.span.from, self.span.to, self.step);
        std::iter::from_fn(move || {
            let start = (at < end).then_some(at);
            at = at.saturating_add(step);
            start
        })
    }
}

fn refuse_time(field: &'static str, value: &str) -> ValidationError {
    ValidationError::new(field, value, "RFC 3339, such as 2026-11-20T12:00:00Z")
}

/// A column of a chart: known if a check was up, missed if checks were due and none was performed.
fn observe<T>(row: Option<&HistoryColumn>, known: impl FnOnce(&HistoryColumn) -> Option<T>) -> Observed<T> {
    match row {
        Some(row) if row.up > 0 => known(row).map_or(Observed::Absent, Observed::Known),
        Some(row) if row.down == 0 && row.missed + row.gap > 0 => Observed::Missed,
        _ => Observed::Absent,
    }
}

/// Draws phases, percentiles and the heat map of a history, whose rows are in the order of time.
pub(super) fn draw_history(chart_span: ChartSpan, rows: &[HistoryColumn], edits: &[EditMark]) -> Vec<Figure> {
    let mut phases = Vec::new();
    let mut percentiles = Vec::new();
    let mut histograms = Vec::new();
    for at in chart_span.starts() {
        let row = rows.binary_search_by_key(&at, |row| row.at).ok().map(|n| &rows[n]);
        phases.push(PhaseColumn { at, means: observe(row, |row| Some(mean_phases(row))) });
        percentiles.push(PercentileColumn { at, percentiles: observe(row, find_percentiles) });
        histograms.push(HistogramColumn { at, counts: observe(row, |row| Some(row.histogram.clone())) });
    }
    let span = chart_span.span;
    let missed = ("missed".to_owned(), "not watched");
    let edited = (!edits.is_empty()).then(|| ("edit".to_owned(), "edit"));
    let phase_names = Phase::ALL_PHASES.into_iter().filter(|phase| *phase != Phase::Transfer);
    let phase_legend = phase_names.map(|phase| (format!("phase {}", phase.class()), phase.name()));
    let line = |name: &'static str| (format!("point {name}"), name);
    let figure = |title, chart: Chart, legend: Vec<_>| Figure {
        title,
        chart,
        legend,
        zoom: Some((span.from, span.to)),
    };
    vec![
        figure(
            "Phases, means of checks that were up",
            draw_phases(span, &phases, edits),
            phase_legend.chain([missed.clone()]).chain(edited.clone()).collect(),
        ),
        figure(
            "Percentiles",
            draw_percentiles(span, &percentiles, edits),
            [line("p50"), line("p95"), line("p99"), missed.clone()]
                .into_iter()
                .chain(edited.clone())
                .collect(),
        ),
        figure(
            "Distribution",
            draw_heat_map(span, &histograms, edits),
            [missed].into_iter().chain(edited).collect(),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a mean")]
fn mean_phases(row: &HistoryColumn) -> [f64; 5] {
    let [dns, connect, tls, first_byte] = row.phase_sums_us.map(|sum| sum / row.up.max(1) as f64);
    // Rollups have no transfer times.
    [dns, connect, tls, first_byte, 0.0]
}

/// p50, p95 and p99 by nearest rank, as the geometric middles of their buckets; none if the histogram is incomplete.
fn find_percentiles(row: &HistoryColumn) -> Option<[f64; 3]> {
    let total: u64 = row.histogram.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    let find = |percent: u64| {
        let rank = (total * percent).div_ceil(100).max(1);
        let mut passed = 0;
        let bucket = row.histogram.iter().find(|(_, count)| {
            passed += count;
            passed >= rank
        });
        let (bucket, _) = bucket.or(row.histogram.last())?;
        let bucket = (*bucket).min(HISTOGRAM_BUCKETS - 1);
        Some((bucket_start_us(bucket) * bucket_start_us(bucket + 1)).sqrt())
    };
    Some([find(50)?, find(95)?, find(99)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn row(time: &str, up: i64, down: i64, missed: i64) -> HistoryColumn {
        HistoryColumn {
            at: at(time),
            up,
            down,
            missed,
            gap: 0,
            phase_sums_us: [10.0, 20.0, 30.0, 40.0],
            histogram: vec![(8, u64::try_from(up).unwrap())],
        }
    }

    #[test]
    fn span_is_widened_to_whole_columns_of_an_hour_at_least() {
        let now = at("2026-11-20T12:20:00Z");
        let day = ChartSpan::parse("24h", "", "", now).unwrap();
        assert_eq!((day.span.from, day.span.to), (at("2026-11-19T12:00:00Z"), at("2026-11-20T13:00:00Z")));
        assert_eq!(day.starts().count(), 25);
        assert_eq!(ChartSpan::parse("90d", "", "", now).unwrap().starts().count(), 91);
        let hour = ChartSpan::parse("", "2026-11-20T10:05:00Z", "2026-11-20T10:06:00Z", now).unwrap();
        assert_eq!(hour.starts().count(), 1);
        for (from, to) in [
            ("x", ""),
            ("2026-11-20T12:00:00Z", "y"),
            ("2026-11-21T00:00:00Z", ""),
            ("2020-01-01T00:00:00Z", ""),
        ] {
            assert!(ChartSpan::parse("", from, to, now).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn an_hour_without_checks_is_missed_and_an_hour_without_ticks_is_absent() {
        let known = |row: Option<&HistoryColumn>| observe(row, |row| Some(row.up));
        assert_eq!(known(Some(&row("2026-11-20T10:00:00Z", 5, 0, 3))), Observed::Known(5));
        assert_eq!(known(Some(&row("2026-11-20T10:00:00Z", 0, 0, 3))), Observed::Missed);
        assert_eq!(known(Some(&row("2026-11-20T10:00:00Z", 0, 2, 3))), Observed::Absent);
        assert_eq!(known(None), Observed::Absent);
    }

    #[test]
    fn percentiles_are_those_of_the_database() {
        let mut hour = row("2026-11-20T10:00:00Z", 100, 0, 0);
        hour.histogram = vec![(8, 50), (16, 45), (24, 5)];
        let [p50, p95, p99] = find_percentiles(&hour).unwrap();
        // picket.bucket_ms gives 0.267, 0.535 and 1.069 for these buckets.
        assert_eq!([p50.round(), p95.round(), p99.round()], [267.0, 535.0, 1069.0]);
        hour.histogram.clear();
        assert_eq!(find_percentiles(&hour), None);
    }

    #[test]
    fn history_becomes_three_charts() {
        let now = at("2026-11-20T12:20:00Z");
        let span = ChartSpan::parse("24h", "", "", now).unwrap();
        let rows = [row("2026-11-20T09:00:00Z", 5, 0, 0), row("2026-11-20T10:00:00Z", 0, 0, 9)];
        let figures = draw_history(span, &rows, &[]);
        assert_eq!(figures.len(), 3);
        for figure in figures {
            assert!(figure.chart.svg.contains("hatch-missed"), "{}", figure.title);
            assert_eq!(figure.chart.table.rows.len(), 25);
        }
    }
}
