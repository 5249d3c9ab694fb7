//! Waterfall of one check from the time at which it was due: lateness, then the phases, on one axis. A check that failed
//! shows where it stopped.

use picket_proto::{Cause, Outcome, Timing};

use super::{
    Chart, DataTable,
    phases::Phase,
    scale::{LinearScale, format_duration},
    svg_writer::{Px, SvgWriter},
};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 84.0;
const ROW: f64 = 26.0;
const TOP: f64 = 24.0;

/// What is drawn of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaterfallCheck {
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<Cause>,
    /// From the due time to the start; absent if the check never started.
    pub(crate) lateness_us: Option<u32>,
    pub(crate) timing: Timing,
}

/// A bar: where it begins and how long it is, in microseconds.
struct WaterfallBar {
    name: &'static str,
    class: &'static str,
    start: f64,
    length: f64,
    /// Whether a failed check ended in this bar.
    is_stop: bool,
}

/// Draws a waterfall.
pub(crate) fn draw_waterfall(check: &WaterfallCheck) -> Chart {
    let bars = list_bars(check);
    let end = bars.iter().map(|bar| bar.start + bar.length).fold(0.0, f64::max);
    let summary = describe_check(check, &bars, end);
    let scale = LinearScale::reaching(end);
    #[expect(clippy::cast_precision_loss, reason = "at most seven bars")]
    let height = TOP + ROW * (bars.len().max(1) as f64) + 6.0;
    let mut writer = SvgWriter::start_image("waterfall", WIDTH, height, &summary);
    let x_of = |place: f64| LEFT + place * (WIDTH - LEFT - RIGHT);

    if bars.is_empty() {
        // Nothing was measured: the whole row is hatched, as missed checks are everywhere.
        writer.add_element(
            "rect",
            &[
                ("class", &"missed"),
                ("fill", &"url(#hatch-missed)"),
                ("x", &Px(LEFT)),
                ("y", &Px(TOP)),
                ("width", &Px(WIDTH - LEFT - RIGHT)),
                ("height", &Px(ROW - 6.0)),
            ],
        );
        writer.add_text(
            "text",
            &[("class", &"axis end"), ("x", &Px(LEFT - 8.0)), ("y", &Px(TOP + 14.0))],
            "Not started",
        );
    } else {
        for mark in scale.marks() {
            let x = x_of(mark.place);
            let line = format!("M{} {}V{}", Px(x), Px(TOP - 6.0), Px(height - 4.0));
            writer.add_element("path", &[("class", &"grid"), ("d", &line)]);
            let text = if mark.place == 0.0 { "due" } else { &mark.text };
            writer.add_text("text", &[("class", &"axis middle"), ("x", &Px(x)), ("y", &Px(12.0))], text);
        }
    }
    let mut y = TOP;
    for bar in &bars {
        let (x, x_end) = (x_of(scale.place(bar.start)), x_of(scale.place(bar.start + bar.length)));
        let (middle, width) = (y + 14.0, (x_end - x).max(1.5));
        writer.add_text(
            "text",
            &[("class", &"axis end"), ("x", &Px(LEFT - 8.0)), ("y", &Px(middle))],
            bar.name,
        );
        let class = format!("phase {}", bar.class);
        writer.add_element(
            "rect",
            &[
                ("class", &class),
                ("x", &Px(x)),
                ("y", &Px(y)),
                ("width", &Px(width)),
                ("height", &Px(ROW - 6.0)),
                ("rx", &2),
            ],
        );
        let (x_mark, mut text) = (x + width, format_duration(bar.length));
        if bar.is_stop {
            let cross = format!("M{} {}l8 8m0 -8l-8 8", Px(x_mark + 4.0), Px(y + 6.0));
            writer.add_element("path", &[("class", &"stopped"), ("d", &cross)]);
            if let Some(cause) = check.cause {
                text = format!("{text}, {cause}");
            }
        }
        // Beside the bar where there is room, before it otherwise.
        let is_crowded = x_mark > WIDTH - RIGHT * 2.0 && x > LEFT + 150.0;
        let (class, x_text) = if is_crowded { ("value end", x - 6.0) } else { ("value", x_mark + 16.0) };
        writer.add_text("text", &[("class", &class), ("x", &Px(x_text)), ("y", &Px(middle))], &text);
        y += ROW;
    }
    let row = |bar: &WaterfallBar| {
        vec![bar.name.to_owned(), format_duration(bar.start), format_duration(bar.length)]
    };
    let table = DataTable {
        caption: summary.clone(),
        columns: vec!["Phase", "Begins after the due time", "Takes"],
        rows: bars.iter().map(row).collect(),
    };
    Chart { svg: writer.finish(), summary, table }
}

/// The bars in order. Time of the check in no phase, such as the match of a regex, comes last.
fn list_bars(check: &WaterfallCheck) -> Vec<WaterfallBar> {
    let mut bars = Vec::new();
    let mut at = 0.0;
    let mut add = |name, class, micros: Option<u32>| {
        if let Some(micros) = micros {
            let length = f64::from(micros);
            bars.push(WaterfallBar { name, class, start: at, length, is_stop: false });
            at += length;
        }
    };
    add("Lateness", "lateness", check.lateness_us);
    for phase in Phase::ALL_PHASES {
        add(phase.name(), phase.class(), phase.of(&check.timing));
    }
    if let Some(last) = bars.last_mut() {
        last.is_stop = check.outcome != Outcome::Up;
    }
    let measured =
        Phase::ALL_PHASES.iter().filter_map(|phase| phase.of(&check.timing)).fold(0, u32::saturating_add);
    let rest = check.timing.total_us.map_or(0, |total| total.saturating_sub(measured));
    if rest >= 1_000 && !bars.is_empty() {
        let (start, length) = (bars.iter().map(|bar| bar.length).sum(), f64::from(rest));
        bars.push(WaterfallBar { name: "In the prober", class: "rest", start, length, is_stop: false });
    }
    bars
}

fn describe_check(check: &WaterfallCheck, bars: &[WaterfallBar], end: f64) -> String {
    let verdict = match check.cause {
        Some(cause) => format!("{}, {cause}", check.outcome),
        None => check.outcome.to_string(),
    };
    if bars.is_empty() {
        return format!("The check was not started: {verdict}");
    }
    let parts: Vec<String> =
        bars.iter().map(|bar| format!("{} {}", bar.name, format_duration(bar.length))).collect();
    format!("{}; {verdict} {} after the due time", parts.join(", "), format_duration(end))
}
