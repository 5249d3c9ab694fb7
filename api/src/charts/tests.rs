//! Snapshots of all charts, and properties that hold for any numbers.

use picket_harness::markup::{Element, parse_markup};
use picket_proto::{Cause, Outcome, Timestamp, Timing};
use proptest::prelude::*;

use super::*;

const START: i64 = 1_790_000_000_000_000;
const HOUR: i64 = 3_600_000_000;
/// A chart of the most columns that the API gives is not larger than this.
const MAX_BYTES: usize = 250_000;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_micros(START / HOUR * HOUR + hours * HOUR)
}

fn span(hours: i64) -> Span {
    Span { from: at(0), to: at(hours) }
}

fn hours(count: usize) -> impl Iterator<Item = Timestamp> {
    (0..).map(at).take(count)
}

/// Parses a chart, and checks what holds for each.
fn check_svg(svg: &str) -> Vec<Element> {
    let elements = parse_markup(svg).unwrap_or_else(|error| panic!("{error} in {svg}"));
    assert!(svg.len() <= MAX_BYTES, "{} bytes", svg.len());
    let image = &elements[0];
    assert_eq!((image.name.as_str(), image.attribute("role")), ("svg", Some("img")));
    assert!(image.attribute("aria-label").is_some_and(|label| !label.is_empty()));
    for element in &elements {
        for (name, value) in &element.attributes {
            assert!(!matches!(name.as_str(), "style" | "onclick" | "onload"), "{name} in {svg}");
            assert!(!value.contains("NaN") && !value.contains("inf"), "{name}=\"{value}\"");
            if matches!(name.as_str(), "width" | "height" | "r") {
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{name}=\"{value}\"");
            }
        }
    }
    elements
}

fn check_chart(chart: &Chart) {
    check_svg(&chart.svg);
    parse_markup(&chart.table.to_html()).unwrap();
    for row in &chart.table.rows {
        assert_eq!(row.len(), chart.table.columns.len());
    }
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(f64::MAX),
        0.0..10_000.0,
        0.0..60_000_000.0
    ]
}

fn observed<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Observed<T>> {
    prop_oneof![
        3 => value.prop_map(Observed::Known),
        1 => Just(Observed::Missed),
        1 => Just(Observed::Absent)
    ]
}

fn any_state() -> impl Strategy<Value = CellState> {
    use CellState::{Down, Maintenance, Missed, NoData, Partly, Paused, Up, UpWithGaps};
    prop::sample::select(vec![Up, UpWithGaps, Partly, Down, Missed, NoData, Paused, Maintenance])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn strip_is_valid_for_any_cells(
        cells in prop::collection::vec((any_state(), any::<String>(), any::<String>()), 0..800),
        with_titles: bool,
    ) {
        let cells: Vec<StripCell> =
            cells.into_iter().map(|(state, label, detail)| StripCell { state, label, detail }).collect();
        let texts: usize = cells.iter().map(|cell| 6 * (cell.label.len() + cell.detail.len())).sum();
        let chart = draw_strip("days", &cells, with_titles);
        prop_assert!(chart.svg.len() < MAX_BYTES + texts);
        parse_markup(&chart.svg).unwrap();
        parse_markup(&chart.table.to_html()).unwrap();
    }

    #[test]
    fn phases_are_valid_for_any_numbers(
        means in prop::collection::vec(observed(prop::array::uniform5(any_number())), 0..600),
        hours_shown in 0_i64..10_000,
    ) {
        let columns: Vec<PhaseColumn> =
            means.into_iter().zip(hours(600)).map(|(means, at)| PhaseColumn { at, means }).collect();
        check_chart(&draw_phases(span(hours_shown), &columns, &[]));
    }

    #[test]
    fn percentiles_are_valid_for_any_numbers(
        values in prop::collection::vec(observed(prop::array::uniform3(any_number())), 0..600),
        hours_shown in 0_i64..10_000,
    ) {
        let columns: Vec<PercentileColumn> =
            values.into_iter().zip(hours(600)).map(|(percentiles, at)| PercentileColumn { at, percentiles }).collect();
        check_chart(&draw_percentiles(span(hours_shown), &columns, &[EditMark { at: at(3), number: 1 }]));
    }

    #[test]
    fn heat_map_is_valid_for_any_counts(
        counts in prop::collection::vec(
            observed(prop::collection::vec((0_usize..400, any::<u64>()), 0..30)), 0..600,
        ),
        hours_shown in 0_i64..10_000,
    ) {
        let columns: Vec<HistogramColumn> =
            counts.into_iter().zip(hours(600)).map(|(counts, at)| HistogramColumn { at, counts }).collect();
        check_chart(&draw_heat_map(span(hours_shown), &columns, &[]));
    }

    #[test]
    fn waterfall_is_valid_for_any_check(
        lateness_us: Option<u32>,
        phases in prop::array::uniform6(any::<Option<u32>>()),
        outcome in prop::sample::select(Outcome::ALL_VALUES.to_vec()),
        cause in prop::option::of(prop::sample::select(Cause::ALL_VALUES.to_vec())),
    ) {
        let [dns_us, connect_us, tls_us, first_byte_us, transfer_us, total_us] = phases;
        let timing = Timing { dns_us, connect_us, tls_us, first_byte_us, transfer_us, total_us };
        check_chart(&draw_waterfall(&WaterfallCheck { outcome, cause, lateness_us, timing }));
    }

    #[test]
    fn sparkline_is_valid_for_any_numbers(values in prop::collection::vec(prop::option::of(any_number()), 0..400)) {
        check_svg(&draw_sparkline("p95", &values));
    }
}

fn cell(state: CellState, label: &str) -> StripCell {
    StripCell { state, label: label.to_owned(), detail: String::new() }
}

#[test]
fn strip_names_counts_and_trouble() {
    use CellState::{Down, Missed, Partly, Up};
    let cells = [cell(Up, "1 Aug"), cell(Partly, "2 Aug"), cell(Missed, "3 Aug"), cell(Down, "4 Aug")];
    let chart = draw_strip("days", &cells, true);
    assert_eq!(chart.summary, "4 days: 1 up, 1 partly down, 1 down, 1 not watched; trouble on 4 Aug, 2 Aug");
    insta::assert_snapshot!(chart.svg.replace("><", ">\n<"));
}

#[test]
fn strip_in_a_list_of_a_year_is_small() {
    let cells: Vec<StripCell> = (0..366).map(|_| cell(CellState::Up, "a day")).collect();
    assert!(draw_strip("days", &cells[..90], false).svg.len() < 2_500);
    assert!(draw_strip("days", &cells, false).svg.len() < 10_000);
}

#[test]
fn every_state_of_a_strip_has_a_shape_of_its_own() {
    use CellState::{Down, Maintenance, Missed, NoData, Partly, Paused, Up, UpWithGaps};
    let states = [Up, UpWithGaps, Partly, Down, Missed, NoData, Paused, Maintenance];
    let shapes: std::collections::HashSet<_> = states
        .map(|state| {
            let parts: Vec<String> = state
                .parts()
                .iter()
                .map(|(class, y, height)| format!("{y} {height} {:?}", CellState::pattern(class)))
                .collect();
            parts.join("; ")
        })
        .into();
    assert_eq!(shapes.len(), states.len());
}

#[test]
fn phases_are_stacked_and_missed_columns_hatched() {
    let means = [
        Observed::Known([2_000.0, 10_000.0, 15_000.0, 40_000.0, 1_000.0]),
        Observed::Missed,
        Observed::Absent,
        Observed::Known([0.0, 8_000.0, 12_000.0, 90_000.0, 3_000.0]),
    ];
    let columns: Vec<PhaseColumn> =
        means.into_iter().zip(hours(4)).map(|(means, at)| PhaseColumn { at, means }).collect();
    let chart = draw_phases(
        span(4),
        &columns,
        &[EditMark { at: at(1), number: 1 }, EditMark { at: at(9), number: 2 }],
    );
    insta::assert_snapshot!(chart.svg.replace("><", ">\n<"));
    insta::assert_snapshot!("phases_as_a_table", chart.table.to_html().replace("><", ">\n<"));
}

#[test]
fn percentile_lines_are_interrupted_where_nothing_is_known() {
    let values = [
        Observed::Known([20_000.0, 50_000.0, 180_000.0]),
        Observed::Known([22_000.0, 60_000.0, 110_000.0]),
        Observed::Missed,
        Observed::Known([21_000.0, 48_000.0, 90_000.0]),
    ];
    let columns: Vec<PercentileColumn> = values
        .into_iter()
        .zip(hours(4))
        .map(|(percentiles, at)| PercentileColumn { at, percentiles })
        .collect();
    let chart = draw_percentiles(span(4), &columns, &[]);
    assert_eq!(chart.svg.matches("<circle").count(), 3, "the last column is a point in each line");
    insta::assert_snapshot!(chart.svg.replace("><", ">\n<"));
}

#[test]
fn heat_map_shows_two_groups_of_times() {
    let counts = |slow| Observed::Known(vec![(40, 50), (41, 8), (80, slow)]);
    let columns: Vec<HistogramColumn> = [counts(10), Observed::Missed, counts(40)]
        .into_iter()
        .zip(hours(3))
        .map(|(counts, at)| HistogramColumn { at, counts })
        .collect();
    let chart = draw_heat_map(span(3), &columns, &[]);
    insta::assert_snapshot!(chart.svg.replace("><", ">\n<"));
    insta::assert_snapshot!("heat_map_in_words", chart.summary);
}

#[test]
fn buckets_of_the_heat_map_are_those_of_the_database() {
    assert!((bucket_start_us(0) - 128.0).abs() < 1e-9);
    assert!((bucket_start_us(8) - 256.0).abs() < 1e-9);
    assert!((bucket_start_us(HISTOGRAM_BUCKETS) - 67_108_864.0).abs() < 1e-3);
}

#[test]
fn waterfall_of_a_failed_check_shows_where_it_stopped() {
    let timing = Timing {
        dns_us: Some(1_200_000),
        connect_us: Some(14_000),
        tls_us: Some(8_785_000),
        total_us: Some(10_000_000),
        ..Timing::default()
    };
    let check = WaterfallCheck {
        outcome: Outcome::Down,
        cause: Some(Cause::Timeout),
        lateness_us: Some(4_000),
        timing,
    };
    let chart = draw_waterfall(&check);
    assert_eq!(
        chart.summary,
        "Lateness 4 ms, DNS 1.2 s, Connect 14 ms, TLS 8.79 s, In the prober 1 ms; down, timeout 10 s after the due time"
    );
    insta::assert_snapshot!(chart.svg.replace("><", ">\n<"));
}

#[test]
fn waterfall_of_a_check_that_was_not_started_is_hatched() {
    let check = WaterfallCheck {
        outcome: Outcome::Missed,
        cause: Some(Cause::NoProber),
        lateness_us: None,
        timing: Timing::default(),
    };
    let chart = draw_waterfall(&check);
    assert_eq!(chart.summary, "The check was not started: missed, no_prober");
    assert!(chart.svg.contains("url(#hatch-missed)"));
}

#[test]
fn patterns_are_valid() {
    parse_markup(PATTERNS).unwrap();
}
