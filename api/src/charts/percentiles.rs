//! Percentiles of durations over time: three lines, interrupted where nothing is known.

use picket_proto::Timestamp;

use super::{
    Chart, DataTable, EditMark, Observed, Span,
    chart_frame::{ChartFrame, ColumnPlace, MAX_COLUMNS},
    clamp_number,
    scale::{LinearScale, format_duration, format_minute},
    svg_writer::{PathData, Px},
};

const NAMES: [&str; 3] = ["p50", "p95", "p99"];

/// p50, p95 and p99 of a span of time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PercentileColumn {
    pub(crate) at: Timestamp,
    pub(crate) percentiles: Observed<[f64; 3]>,
}

/// Draws percentiles as lines.
pub(crate) fn draw_percentiles(span: Span, columns: &[PercentileColumn], edits: &[EditMark]) -> Chart {
    let columns = &columns[columns.len().saturating_sub(MAX_COLUMNS)..];
    let known = || columns.iter().filter_map(|column| column.percentiles.known());
    let highest = known().flatten().copied().map(clamp_number).fold(0.0, f64::max);
    let summary = describe_percentiles(span, columns);

    let scale = LinearScale::reaching(highest);
    let mut frame = ChartFrame::start("percentiles", &summary, span, &scale.marks());
    let starts: Vec<Timestamp> = columns.iter().map(|column| column.at).collect();
    let places = frame.place_columns(&starts);
    frame.hatch_missed(
        places
            .iter()
            .zip(columns)
            .filter(|(_, column)| column.percentiles.is_missed())
            .map(|(place, _)| *place),
    );
    for (n, name) in NAMES.into_iter().enumerate().rev() {
        let values = columns.iter().map(|column| column.percentiles.known().map(|values| values[n]));
        draw_line(&mut frame, name, scale, &places, values);
    }
    let titles =
        columns.iter().map(|column| format!("{} UTC: {}", format_minute(column.at), describe_column(column)));
    frame.mark_edits(edits);
    let svg = frame.finish(places.iter().copied().zip(titles));
    Chart { svg, table: tabulate_percentiles(&summary, columns), summary }
}

/// A line through the centres of columns that follow each other; a column without known neighbours is a point.
fn draw_line(
    frame: &mut ChartFrame,
    class: &str,
    scale: LinearScale,
    places: &[ColumnPlace],
    values: impl Iterator<Item = Option<f64>>,
) {
    let points: Vec<Option<(f64, f64)>> = places
        .iter()
        .zip(values)
        .map(|(place, value)| Some((place.centre(), ChartFrame::y(scale.place(value?)))))
        .collect();
    let mut path = PathData::default();
    for run in points.split(Option::is_none) {
        match *run {
            [] => {}
            [Some((x, y))] => frame.writer.add_element(
                "circle",
                &[("class", &format!("point {class}")), ("cx", &Px(x)), ("cy", &Px(y)), ("r", &Px(2.0))],
            ),
            _ => {
                for (n, (x, y)) in run.iter().flatten().enumerate() {
                    if n == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
                }
            }
        }
    }
    if !path.is_empty() {
        frame.writer.add_element("path", &[("class", &format!("line {class}")), ("d", &path)]);
    }
}

fn describe_column(column: &PercentileColumn) -> String {
    match &column.percentiles {
        Observed::Missed => "not watched".to_owned(),
        Observed::Absent => "no data".to_owned(),
        Observed::Known(values) => {
            let parts: Vec<String> = NAMES
                .iter()
                .zip(values)
                .map(|(name, value)| format!("{name} {}", format_duration(*value)))
                .collect();
            parts.join(", ")
        }
    }
}

fn describe_percentiles(span: Span, columns: &[PercentileColumn]) -> String {
    let known: Vec<&[f64; 3]> = columns.iter().filter_map(|column| column.percentiles.known()).collect();
    let missed = columns.iter().filter(|column| column.percentiles.is_missed()).count();
    let mut text = format!("Response times {}: ", span.describe());
    match known.last() {
        None => text.push_str("no times"),
        Some(last) => {
            let ranges: Vec<String> = NAMES
                .iter()
                .enumerate()
                .map(|(n, name)| {
                    let values = || known.iter().map(|values| clamp_number(values[n]));
                    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
                    if low == high {
                        return format!("{name} {}", format_duration(low));
                    }
                    format!(
                        "{name} between {} and {}, the newest {}",
                        format_duration(low),
                        format_duration(high),
                        format_duration(last[n])
                    )
                })
                .collect();
            text.push_str(&ranges.join("; "));
        }
    }
    if missed > 0 {
        text.push_str(&format!("; not watched in {missed} of {} columns", columns.len()));
    }
    text
}

fn tabulate_percentiles(summary: &str, columns: &[PercentileColumn]) -> DataTable {
    let row = |column: &PercentileColumn| {
        let mut row = vec![format_minute(column.at)];
        match &column.percentiles {
            Observed::Known(values) => row.extend(values.iter().map(|value| format_duration(*value))),
            Observed::Missed => row.extend(NAMES.map(|_| "not watched".to_owned())),
            Observed::Absent => row.extend(NAMES.map(|_| "–".to_owned())),
        }
        row
    };
    DataTable {
        caption: summary.to_owned(),
        columns: std::iter::once("Time (UTC)").chain(NAMES).collect(),
        rows: columns.iter().rev().map(row).collect(),
    }
}
