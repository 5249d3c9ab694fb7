//! Strips of outcomes: one bar for each day or tick. Each state has a shape of its own beside its colour.

use std::collections::BTreeMap;

use super::{
    Chart, DataTable,
    svg_writer::{Attribute, PathData, Px, SvgWriter},
};

/// Maximum bars of a strip: a leap year.
const MAX_CELLS: usize = 366;
const PITCH: f64 = 4.0;
const HEIGHT: f64 = 28.0;
/// Width of a strip with fewer bars, which stand at its right end.
const MIN_CELLS: usize = 40;
/// Maximum bars that are named in the summary.
const MAX_NAMED: usize = 6;

/// State of a day or of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CellState {
    Up,
    /// Up, and not watched for a part of the time.
    UpWithGaps,
    /// Up, and down for a part of the time.
    Partly,
    Down,
    /// Not watched: missed by Picket, or in a gap.
    Missed,
    /// No check was due.
    NoData,
    Paused,
    Maintenance,
}

impl CellState {
    /// State of a letter of `picket.site_summary.days`; letters of newer versions are no data.
    pub(crate) fn from_day_code(letter: char) -> Self {
        match letter {
            'u' => Self::Up,
            'g' => Self::UpWithGaps,
            'p' => Self::Partly,
            'd' => Self::Down,
            'm' => Self::Maintenance,
            'x' => Self::Missed,
            's' => Self::Paused,
            _ => Self::NoData,
        }
    }

    /// The words of the summary and of tables.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::UpWithGaps => "up while watched",
            Self::Partly => "partly down",
            Self::Down => "down",
            Self::Missed => "not watched",
            Self::NoData => "no data",
            Self::Paused => "paused",
            Self::Maintenance => "in maintenance",
        }
    }

    /// Class and vertical extent of the bar's parts.
    pub(super) fn parts(self) -> &'static [(&'static str, f64, f64)] {
        match self {
            Self::Up => &[("up", 4.0, 20.0)],
            Self::UpWithGaps => &[("up", 4.0, 10.0), ("missed", 14.0, 10.0)],
            Self::Partly => &[("up", 4.0, 10.0), ("partly", 14.0, 14.0)],
            Self::Down => &[("down", 0.0, 28.0)],
            Self::Missed => &[("missed", 4.0, 20.0)],
            Self::NoData => &[("no-data", 22.0, 2.0)],
            Self::Paused => &[("paused", 13.0, 2.0), ("paused", 17.0, 2.0)],
            Self::Maintenance => &[("maintenance", 4.0, 20.0)],
        }
    }

    pub(super) fn pattern(class: &str) -> Option<&'static str> {
        match class {
            "missed" => Some("url(#hatch-missed)"),
            "maintenance" => Some("url(#hatch-maintenance)"),
            _ => None,
        }
    }
}

/// A day or a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StripCell {
    pub(crate) state: CellState,
    /// The day or the time.
    pub(crate) label: String,
    /// Further words, such as `99.31 % up, coverage 99.9 %`.
    pub(crate) detail: String,
}

/// Draws a strip of the newest [`MAX_CELLS`] cells; `noun` is what a cell is, in the plural. A pointer over a bar shows its
/// label, if `with_titles`; strips in lists do without, which makes them small.
pub(crate) fn draw_strip(noun: &str, cells: &[StripCell], with_titles: bool) -> Chart {
    let cells = &cells[cells.len().saturating_sub(MAX_CELLS)..];
    let summary = describe_cells(noun, cells);
    let skipped = MIN_CELLS.saturating_sub(cells.len());
    #[expect(clippy::cast_precision_loss, reason = "at most MAX_CELLS")]
    let x_of = |n: usize| (skipped + n) as f64 * PITCH;
    let mut writer = SvgWriter::start_stretched_image("strip", x_of(cells.len()), HEIGHT, &summary);

    let mut shapes: BTreeMap<&'static str, PathData> = BTreeMap::new();
    for (n, cell) in cells.iter().enumerate() {
        for (class, y, height) in cell.state.parts() {
            shapes.entry(class).or_default().add_rect(x_of(n), *y, PITCH - 1.0, *height);
        }
    }
    for (class, shape) in &shapes {
        let fill = CellState::pattern(class);
        let mut attributes: Vec<Attribute<'_>> = vec![("class", class)];
        if let Some(fill) = &fill {
            attributes.push(("fill", fill));
        }
        attributes.push(("d", shape));
        writer.add_element("path", &attributes);
    }
    if with_titles {
        writer.open_element("g", &[("class", &"hits")]);
        for (n, cell) in cells.iter().enumerate() {
            let place: [Attribute<'_>; 4] =
                [("x", &Px(x_of(n))), ("y", &0), ("width", &Px(PITCH)), ("height", &Px(HEIGHT))];
            writer.add_titled_rect(&place, &format_cell(cell));
        }
    }
    let rows = cells
        .iter()
        .rev()
        .map(|cell| vec![cell.label.clone(), cell.state.describe().to_owned(), cell.detail.clone()])
        .collect();
    let table = DataTable { caption: summary.clone(), columns: vec!["Time", "State", "Detail"], rows };
    Chart { svg: writer.finish(), summary, table }
}

fn format_cell(cell: &StripCell) -> String {
    let mut text = format!("{}: {}", cell.label, cell.state.describe());
    if !cell.detail.is_empty() {
        text.push_str(", ");
        text.push_str(&cell.detail);
    }
    text
}

/// Counts by state, then the newest bars with trouble by name.
fn describe_cells(noun: &str, cells: &[StripCell]) -> String {
    let mut counts: BTreeMap<CellState, usize> = BTreeMap::new();
    for cell in cells {
        *counts.entry(cell.state).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {}", state.describe())).collect();
    if counts.is_empty() {
        return format!("no {noun} yet");
    }
    let mut text = format!("{} {noun}: {}", cells.len(), counts.join(", "));
    let has_trouble = |cell: &&StripCell| matches!(cell.state, CellState::Down | CellState::Partly);
    let named: Vec<&str> =
        cells.iter().rev().filter(has_trouble).take(MAX_NAMED).map(|cell| cell.label.as_str()).collect();
    if !named.is_empty() {
        text.push_str("; trouble on ");
        text.push_str(&named.join(", "));
        let all = cells.iter().filter(has_trouble).count();
        if all > named.len() {
            text.push_str(&format!(" and {} more", all - named.len()));
        }
    }
    text
}
