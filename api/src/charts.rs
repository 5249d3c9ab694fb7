//! Charts as SVG text: pure functions of numbers.
//!
//! A chart has classes and no colours, so that one stylesheet decides about light, dark and print. Times that nobody
//! watched are hatched everywhere: a reader can tell "was not checked" from "was up" and from "was down" without
//! colours. Each chart comes with a sentence that says its numbers and with a table of its data.

mod chart_frame;
mod data_table;
mod heat_map;
mod percentiles;
mod phases;
mod scale;
mod sparkline;
mod strip;
mod svg_writer;
mod waterfall;

#[cfg(test)]
mod tests;

use picket_proto::Timestamp;

pub(crate) use self::{
    data_table::DataTable,
    heat_map::{HISTOGRAM_BUCKETS, HistogramColumn, bucket_start_us, draw_heat_map},
    percentiles::{PercentileColumn, draw_percentiles},
    phases::{Phase, PhaseColumn, draw_phases},
    scale::{format_day, format_duration, format_minute},
    sparkline::draw_sparkline,
    strip::{CellState, StripCell, draw_strip},
    waterfall::{WaterfallCheck, draw_waterfall},
};

/// A drawing and what stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chart {
    /// The `svg` element.
    pub(crate) svg: String,
    /// The drawing in one sentence.
    pub(crate) summary: String,
    pub(crate) table: DataTable,
}

/// Span of a time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Span {
    fn micros(self) -> i64 {
        self.to.as_micros().saturating_sub(self.from.as_micros()).max(1)
    }

    fn describe(self) -> String {
        format!("from {} to {} UTC", format_minute(self.from), format_minute(self.to))
    }
}

/// A moment at which something was changed that a chart over time may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EditMark {
    pub(crate) at: Timestamp,
    /// Number in the list of edits beside the chart.
    pub(crate) number: usize,
}

/// A value of a column of a chart over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Observed<T> {
    Known(T),
    /// No check of the column was performed: all were missed, or lie in a gap.
    Missed,
    /// No check was due, or none was up, so there is no time to show.
    Absent,
}

impl<T> Observed<T> {
    fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Missed | Self::Absent => None,
        }
    }

    fn is_missed(&self) -> bool {
        matches!(self, Self::Missed)
    }
}

/// A number that can be drawn: finite, not negative and not larger than a year in microseconds.
fn clamp_number(value: f64) -> f64 {
    const MAX: f64 = 3.2e13;
    if value.is_finite() { value.clamp(0.0, MAX) } else { 0.0 }
}

/// The patterns that charts refer to; a page has them once, before its first chart.
pub(crate) const PATTERNS: &str = concat!(
    r##"<svg class="patterns" width="0" height="0" aria-hidden="true" focusable="false"><defs>"##,
    r##"<pattern id="hatch-missed" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">"##,
    r##"<rect class="hatch-ground" width="5" height="5"/><rect class="hatch-line" width="2" height="5"/></pattern>"##,
    r##"<pattern id="hatch-maintenance" width="4" height="4" patternUnits="userSpaceOnUse">"##,
    r##"<rect class="maintenance-ground" width="4" height="4"/><rect class="maintenance-dot" width="2" height="2"/></pattern>"##,
    r##"</defs></svg>"##,
);
