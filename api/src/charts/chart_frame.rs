//! What charts over time share: axes, grid lines, hatched columns, and one place for a pointer per column.

use picket_proto::Timestamp;

use super::{
    EditMark, Span,
    scale::AxisMark,
    svg_writer::{PathData, Px, SvgWriter},
};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Maximum number of columns, as of the API's buckets.
pub(super) const MAX_COLUMNS: usize = 500;

/// Place of a column on the horizontal axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnPlace {
    pub(super) x: f64,
    pub(super) width: f64,
}

impl ColumnPlace {
    pub(super) fn centre(self) -> f64 {
        self.x + self.width / 2.0
    }
}

/// A chart over time that is being drawn.
pub(super) struct ChartFrame {
    pub(super) writer: SvgWriter,
    span: Span,
}

impl ChartFrame {
    /// Begins a chart. `marks` are those of the vertical axis, from its lower end.
    pub(super) fn start(class: &str, title: &str, span: Span, marks: &[AxisMark]) -> Self {
        let mut writer = SvgWriter::start_image(class, WIDTH, HEIGHT, title);
        for mark in marks {
            let y = Self::y(mark.place);
            writer.add_element(
                "path",
                &[("class", &"grid"), ("d", &format!("M{} {}H{}", Px(LEFT), Px(y), Px(WIDTH - RIGHT)))],
            );
            writer.add_text(
                "text",
                &[("class", &"axis end"), ("x", &Px(LEFT - 6.0)), ("y", &Px(y + 4.0))],
                &mark.text,
            );
        }
        for mark in span.marks() {
            let x = Self::x(mark.place);
            writer.add_element(
                "path",
                &[("class", &"tick"), ("d", &format!("M{} {}v4", Px(x), Px(HEIGHT - BOTTOM)))],
            );
            // A text at the right end would be cut off.
            let class = if mark.place > 0.97 { "axis end" } else { "axis middle" };
            writer.add_text(
                "text",
                &[("class", &class), ("x", &Px(x)), ("y", &Px(HEIGHT - 6.0))],
                &mark.text,
            );
        }
        Self { writer, span }
    }

    pub(super) fn x(place: f64) -> f64 {
        LEFT + place * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y(place: f64) -> f64 {
        HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
    }

    /// Places of columns, of which each ends where the next begins, and the last at the span's end.
    pub(super) fn place_columns(&self, starts: &[Timestamp]) -> Vec<ColumnPlace> {
        let end = Self::x(1.0);
        let xs: Vec<f64> = starts.iter().map(|at| Self::x(self.span.place(*at))).collect();
        // Columns are equally wide as a rule; the least distance keeps a column before a hole from filling it.
        let least =
            xs.windows(2).map(|pair| pair[1] - pair[0]).filter(|w| *w > 0.05).fold(f64::MAX, f64::min);
        let width = |n: usize, x: f64| {
            let next = xs.get(n + 1).copied().unwrap_or(end);
            (next - x).min(least).clamp(0.0, (end - x).max(0.0))
        };
        xs.iter().enumerate().map(|(n, x)| ColumnPlace { x: *x, width: width(n, *x) }).collect()
    }

    /// Hatches the columns in which no check was performed.
    pub(super) fn hatch_missed(&mut self, places: impl Iterator<Item = ColumnPlace>) {
        let mut path = PathData::default();
        for place in places {
            path.add_rect(place.x, TOP, place.width.max(1.0), HEIGHT - TOP - BOTTOM);
        }
        if !path.is_empty() {
            self.writer
                .add_element("path", &[("class", &"missed"), ("fill", &"url(#hatch-missed)"), ("d", &path)]);
        }
    }

    /// Marks edits by lines with the numbers that the list beside the chart explains.
    pub(super) fn mark_edits(&mut self, edits: &[EditMark]) {
        const RADIUS: f64 = 7.0;
        let span = self.span;
        for edit in edits.iter().filter(|edit| edit.at >= span.from && edit.at < span.to) {
            let x = Self::x(span.place(edit.at));
            self.writer.open_element("g", &[("class", &"edit")]);
            let line = format!("M{} {}V{}", Px(x), Px(TOP), Px(HEIGHT - BOTTOM));
            self.writer.add_element("path", &[("d", &line)]);
            self.writer.add_element("circle", &[("cx", &Px(x)), ("cy", &Px(TOP)), ("r", &Px(RADIUS))]);
            let number = edit.number.to_string();
            self.writer.add_text(
                "text",
                &[("class", &"middle"), ("x", &Px(x)), ("y", &Px(TOP + 3.5))],
                &number,
            );
            self.writer.close_element();
        }
    }

    /// Adds what a pointer over a column shows, and ends the chart.
    pub(super) fn finish(mut self, columns: impl Iterator<Item = (ColumnPlace, String)>) -> String {
        self.writer.open_element("g", &[("class", &"hits")]);
        for (place, title) in columns {
            let (x, width) = (Px(place.x), Px(place.width.max(0.5)));
            let height = Px(HEIGHT - TOP - BOTTOM);
            self.writer.add_titled_rect(
                &[("x", &x), ("y", &Px(TOP)), ("width", &width), ("height", &height)],
                &title,
            );
        }
        self.writer.close_element();
        self.writer.finish()
    }
}
