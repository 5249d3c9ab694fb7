//! Phases of checks over time, stacked in the order in which they happen.

use picket_proto::{Timestamp, Timing};

use super::{
    Chart, DataTable, EditMark, Observed, Span,
    chart_frame::{ChartFrame, MAX_COLUMNS},
    clamp_number,
    scale::{LinearScale, format_duration, format_minute},
    svg_writer::PathData,
};

/// Part of a check that is timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Dns,
    Connect,
    Tls,
    FirstByte,
    Transfer,
}

impl Phase {
    /// In the order in which they happen.
    pub(crate) const ALL_PHASES: [Self; 5] =
        [Self::Dns, Self::Connect, Self::Tls, Self::FirstByte, Self::Transfer];

    /// Name on pages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Connect => "Connect",
            Self::Tls => "TLS",
            Self::FirstByte => "First byte",
            Self::Transfer => "Transfer",
        }
    }

    /// Class in drawings.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first-byte",
            Self::Transfer => "transfer",
        }
    }

    /// Time of the phase in a check.
    pub(crate) fn of(self, timing: &Timing) -> Option<u32> {
        match self {
            Self::Dns => timing.dns_us,
            Self::Connect => timing.connect_us,
            Self::Tls => timing.tls_us,
            Self::FirstByte => timing.first_byte_us,
            Self::Transfer => timing.transfer_us,
        }
    }
}

/// Means of a span of time, in microseconds, in the order of [`Phase::ALL_PHASES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PhaseColumn {
    pub(crate) at: Timestamp,
    pub(crate) means: Observed<[f64; 5]>,
}

/// Draws stacked phases.
pub(crate) fn draw_phases(span: Span, columns: &[PhaseColumn], edits: &[EditMark]) -> Chart {
    let columns = &columns[columns.len().saturating_sub(MAX_COLUMNS)..];
    let total = |means: &[f64; 5]| means.iter().copied().map(clamp_number).sum::<f64>();
    let known = || columns.iter().filter_map(|column| column.means.known());
    let highest = known().map(total).fold(0.0, f64::max);
    let summary = describe_phases(span, columns);

    let scale = LinearScale::reaching(highest);
    let mut frame = ChartFrame::start("phases", &summary, span, &scale.marks());
    let starts: Vec<Timestamp> = columns.iter().map(|column| column.at).collect();
    let places = frame.place_columns(&starts);
    frame.hatch_missed(
        places.iter().zip(columns).filter(|(_, column)| column.means.is_missed()).map(|(place, _)| *place),
    );
    for (n, phase) in Phase::ALL_PHASES.into_iter().enumerate() {
        let mut path = PathData::default();
        for (place, column) in places.iter().zip(columns) {
            let Some(means) = column.means.known() else { continue };
            let below = means[..n].iter().copied().map(clamp_number).sum::<f64>();
            let (lower, upper) = (scale.place(below), scale.place(below + clamp_number(means[n])));
            let (top, bottom) = (ChartFrame::y(upper), ChartFrame::y(lower));
            if bottom - top >= 0.05 {
                // A line of background between columns, where there is room for it.
                let width = if place.width > 4.0 { place.width - 1.0 } else { place.width };
                path.add_rect(place.x, top, width.max(0.5), bottom - top);
            }
        }
        if !path.is_empty() {
            let class = format!("phase {}", phase.class());
            frame.writer.add_element("path", &[("class", &class), ("d", &path)]);
        }
    }
    let titles =
        columns.iter().map(|column| format!("{} UTC: {}", format_minute(column.at), describe_means(column)));
    frame.mark_edits(edits);
    let svg = frame.finish(places.iter().copied().zip(titles));
    Chart { svg, table: tabulate_phases(&summary, columns), summary }
}

/// What a table has in place of an absent value.
const NO_VALUE: &str = "–";

/// The phases of a column in words.
fn describe_means(column: &PhaseColumn) -> String {
    match &column.means {
        Observed::Missed => "not watched".to_owned(),
        Observed::Absent => "no data".to_owned(),
        Observed::Known(means) => {
            let parts = Phase::ALL_PHASES.iter().zip(means).filter(|(_, mean)| clamp_number(**mean) > 0.0);
            let parts: Vec<String> =
                parts.map(|(phase, mean)| format!("{} {}", phase.name(), format_duration(*mean))).collect();
            if parts.is_empty() { NO_VALUE.to_owned() } else { parts.join(", ") }
        }
    }
}

fn describe_phases(span: Span, columns: &[PhaseColumn]) -> String {
    let known: Vec<&[f64; 5]> = columns.iter().filter_map(|column| column.means.known()).collect();
    if known.is_empty() {
        return format!("Phases {}: no times", span.describe());
    }
    #[expect(clippy::cast_precision_loss, reason = "at most MAX_COLUMNS")]
    let count = known.len() as f64;
    let mean = |n: usize| known.iter().map(|means| clamp_number(means[n])).sum::<f64>() / count;
    let parts: Vec<String> = Phase::ALL_PHASES
        .iter()
        .enumerate()
        .filter(|(n, _)| mean(*n) > 0.0)
        .map(|(n, phase)| format!("{} {}", phase.name(), format_duration(mean(n))))
        .collect();
    format!("Phases {}, on average: {}", span.describe(), parts.join(", "))
}

/// A mean in words. The mean of a phase that did not happen, as TLS of plain HTTP, is 0.
fn describe_mean(mean: f64) -> String {
    if clamp_number(mean) > 0.0 { format_duration(mean) } else { NO_VALUE.to_owned() }
}

fn tabulate_phases(summary: &str, columns: &[PhaseColumn]) -> DataTable {
    let row = |column: &PhaseColumn| {
        let mut row = vec![format_minute(column.at)];
        match &column.means {
            Observed::Known(means) => row.extend(means.iter().map(|mean| describe_mean(*mean))),
            Observed::Missed => row.extend(Phase::ALL_PHASES.map(|_| "not watched".to_owned())),
            Observed::Absent => row.extend(Phase::ALL_PHASES.map(|_| NO_VALUE.to_owned())),
        }
        row
    };
    let names = Phase::ALL_PHASES.iter().map(|phase| phase.name());
    DataTable {
        caption: summary.to_owned(),
        columns: std::iter::once("Time (UTC)").chain(names).collect(),
        rows: columns.iter().rev().map(row).collect(),
    }
}
