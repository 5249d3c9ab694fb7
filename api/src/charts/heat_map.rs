//! Heat map of response times: how many checks of each span of time took how long, on a logarithmic axis. Two groups of
//! times, such as hits and misses of a cache, are visible here and in no percentile.

use std::ops::Range;

use picket_proto::Timestamp;

use super::{
    Chart, DataTable, EditMark, Observed, Span,
    chart_frame::{ChartFrame, MAX_COLUMNS},
    scale::{AxisMark, format_duration, format_minute},
    svg_writer::PathData,
};

/// Number of buckets of a stored histogram: eight for each doubling, from 128 µs to 67 s.
pub(crate) const HISTOGRAM_BUCKETS: usize = 152;
/// Maximum rows that are drawn; a wider range has more buckets a row.
const MAX_ROWS: usize = 38;
/// Maximum columns that are drawn; more are merged.
const MAX_DRAWN: usize = 170;
/// Shades, from the fewest checks of a column to the most.
const SHADES: [&str; 5] = ["heat-1", "heat-2", "heat-3", "heat-4", "heat-5"];

/// Lower bound of a bucket, in microseconds.
#[expect(clippy::cast_precision_loss, reason = "at most HISTOGRAM_BUCKETS")]
pub(crate) fn bucket_start_us(bucket: usize) -> f64 {
    (7.0 + bucket.min(HISTOGRAM_BUCKETS) as f64 / 8.0).exp2()
}

/// Histogram of a span of time: pairs of bucket and count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistogramColumn {
    pub(crate) at: Timestamp,
    pub(crate) counts: Observed<Vec<(usize, u64)>>,
}

/// A column that is drawn.
struct HeatColumn {
    at: Timestamp,
    is_missed: bool,
    counts: [u64; HISTOGRAM_BUCKETS],
}

impl HeatColumn {
    fn sum(&self, buckets: Range<usize>) -> u64 {
        self.counts[buckets].iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Rows of a drawing: the buckets from `first` on, `size` of them each.
struct HeatRows {
    first: usize,
    size: usize,
    count: usize,
}

impl HeatRows {
    /// Rows from the fastest to the slowest check, with one on either side and at least six.
    fn covering(columns: &[HeatColumn]) -> Self {
        let used = |bucket: &usize| columns.iter().any(|column| column.counts[*bucket] > 0);
        let first = (0..HISTOGRAM_BUCKETS).find(used).unwrap_or(24);
        let last = (0..HISTOGRAM_BUCKETS).rev().find(used).unwrap_or(80);
        let size = [1, 2, 4].into_iter().find(|size| (last - first) / size + 3 <= MAX_ROWS).unwrap_or(5);
        let first = (first / size * size).saturating_sub(size);
        let count = ((last - first) / size + 2).max(6).min((HISTOGRAM_BUCKETS - first).div_ceil(size));
        Self { first, size, count }
    }

    /// Buckets of a row.
    fn buckets(&self, row: usize) -> Range<usize> {
        let start = (self.first + row * self.size).min(HISTOGRAM_BUCKETS);
        start..(start + self.size).min(HISTOGRAM_BUCKETS)
    }

    #[expect(clippy::cast_precision_loss, reason = "at most MAX_ROWS")]
    fn place(&self, row: usize) -> f64 {
        row as f64 / self.count.max(1) as f64
    }

    /// Marks at powers of ten, and at their doubles and fivefolds where the range is small.
    #[expect(clippy::cast_precision_loss, reason = "at most HISTOGRAM_BUCKETS")]
    fn marks(&self) -> Vec<AxisMark> {
        let factors: &[f64] = if self.size * self.count < 64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let buckets = (self.size * self.count).max(1) as f64;
        let place = |micros: f64| ((micros.log2() - 7.0) * 8.0 - self.first as f64) / buckets;
        (2..8)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
            .map(|micros| AxisMark { place: place(micros), text: format_duration(micros) })
            .filter(|mark| (0.0..=1.0).contains(&mark.place))
            .collect()
    }
}

/// Draws a heat map.
pub(crate) fn draw_heat_map(span: Span, columns: &[HistogramColumn], edits: &[EditMark]) -> Chart {
    let columns = merge_columns(&columns[columns.len().saturating_sub(MAX_COLUMNS)..]);
    let rows = HeatRows::covering(&columns);
    let summary = describe_heat(span, &columns);

    let mut frame = ChartFrame::start("heat", &summary, span, &rows.marks());
    let starts: Vec<Timestamp> = columns.iter().map(|column| column.at).collect();
    let places = frame.place_columns(&starts);
    frame.hatch_missed(
        places.iter().zip(&columns).filter(|(_, column)| column.is_missed).map(|(place, _)| *place),
    );
    let mut shapes: [PathData; SHADES.len()] = Default::default();
    for (place, column) in places.iter().zip(&columns) {
        let counts: Vec<u64> = (0..rows.count).map(|row| column.sum(rows.buckets(row))).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        for (row, count) in counts.into_iter().enumerate() {
            if let Some(shade) = choose_shade(count, most) {
                let (top, bottom) = (ChartFrame::y(rows.place(row + 1)), ChartFrame::y(rows.place(row)));
                shapes[shade].add_rect(place.x, top, place.width.max(0.5), bottom - top);
            }
        }
    }
    for (class, shape) in SHADES.iter().zip(&shapes).filter(|(_, shape)| !shape.is_empty()) {
        frame.writer.add_element("path", &[("class", class), ("d", shape)]);
    }
    let titles =
        columns.iter().map(|column| format!("{} UTC: {}", format_minute(column.at), describe_column(column)));
    frame.mark_edits(edits);
    let svg = frame.finish(places.iter().copied().zip(titles));
    Chart { svg, table: tabulate_heat(&summary, &columns), summary }
}

/// At most [`MAX_DRAWN`] columns. A merged column is hatched if all of its parts are.
fn merge_columns(columns: &[HistogramColumn]) -> Vec<HeatColumn> {
    let size = columns.len().div_ceil(MAX_DRAWN).max(1);
    let merge = |chunk: &[HistogramColumn]| {
        let mut counts = [0_u64; HISTOGRAM_BUCKETS];
        for (bucket, count) in chunk.iter().filter_map(|column| column.counts.known()).flatten() {
            let sum = &mut counts[(*bucket).min(HISTOGRAM_BUCKETS - 1)];
            *sum = sum.saturating_add(*count);
        }
        HeatColumn {
            at: chunk[0].at,
            is_missed: chunk.iter().all(|column| column.counts.is_missed()),
            counts,
        }
    };
    columns.chunks(size).map(merge).collect()
}

/// Shade of a cell, relative to the fullest cell of its column.
#[expect(clippy::cast_precision_loss, reason = "a shade of five")]
fn choose_shade(count: u64, most: u64) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let share = count as f64 / most.max(1) as f64;
    Some([0.08, 0.2, 0.4, 0.7].iter().filter(|bound| share > **bound).count())
}

fn describe_column(column: &HeatColumn) -> String {
    if column.is_missed {
        return "not watched".to_owned();
    }
    let used = || (0..HISTOGRAM_BUCKETS).filter(|bucket| column.counts[*bucket] > 0);
    let (Some(first), Some(last)) = (used().next(), used().next_back()) else {
        return "no data".to_owned();
    };
    let most = used().max_by_key(|bucket| column.counts[*bucket]).unwrap_or(first);
    let checks = column.sum(0..HISTOGRAM_BUCKETS);
    let checks = if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") };
    format!("{checks}, {}, most {}", format_range(first, last), format_range(most, most))
}

fn format_range(first: usize, last: usize) -> String {
    let start = |bucket: usize| format_duration(bucket_start_us(bucket));
    format!("{} to {}", start(first), start(last + 1))
}

fn describe_heat(span: Span, columns: &[HeatColumn]) -> String {
    let mut sum = HeatColumn { at: span.from, is_missed: false, counts: [0; HISTOGRAM_BUCKETS] };
    for column in columns {
        for (sum, count) in sum.counts.iter_mut().zip(column.counts) {
            *sum = sum.saturating_add(count);
        }
    }
    format!("Distribution of response times {}: {}", span.describe(), describe_column(&sum))
}

fn tabulate_heat(summary: &str, columns: &[HeatColumn]) -> DataTable {
    let row = |column: &HeatColumn| vec![format_minute(column.at), describe_column(column)];
    DataTable {
        caption: summary.to_owned(),
        columns: vec!["Time (UTC)", "Response times"],
        rows: columns.iter().rev().map(row).collect(),
    }
}
