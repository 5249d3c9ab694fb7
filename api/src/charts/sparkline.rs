//! A line without axes, for cells of tables.

use super::{
    clamp_number,
    scale::format_duration,
    svg_writer::{PathData, SvgWriter},
};

const WIDTH: f64 = 100.0;
const HEIGHT: f64 = 20.0;
const MAX_POINTS: usize = 120;

/// Draws durations in microseconds; the line is interrupted where a value is absent.
pub(crate) fn draw_sparkline(name: &str, values: &[Option<f64>]) -> String {
    let values = &values[values.len().saturating_sub(MAX_POINTS)..];
    let known = || values.iter().flatten().copied().map(clamp_number);
    let highest = known().fold(0.0, f64::max);
    let summary = match known().next_back() {
        None => format!("{name}: no times"),
        Some(last) => {
            format!("{name}: lately {}, at most {}", format_duration(last), format_duration(highest))
        }
    };
    let mut writer = SvgWriter::start_image("sparkline", WIDTH, HEIGHT, &summary);
    let mut path = PathData::default();
    let mut is_drawing = false;
    #[expect(clippy::cast_precision_loss, reason = "at most MAX_POINTS")]
    let step = WIDTH / values.len().max(1) as f64;
    for (n, value) in values.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "at most MAX_POINTS")]
        let x = (n as f64 + 0.5) * step;
        match value {
            Some(value) => {
                let y = HEIGHT - 1.0 - clamp_number(*value) / highest.max(1.0) * (HEIGHT - 3.0);
                if is_drawing {
                    path.line_to(x, y);
                } else {
                    // A line of no length is a point, since its ends are round.
                    path.move_to(x, y);
                    path.line_to(x, y);
                }
                is_drawing = true;
            }
            None => is_drawing = false,
        }
    }
    if !path.is_empty() {
        writer.add_element("path", &[("class", &"line"), ("d", &path)]);
    }
    writer.finish()
}
