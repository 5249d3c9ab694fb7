//! Daily values as a row of bars: the last 30 days, today at the end, a blank for an unknown day.

const BAR_CHARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const MAX_DAYS: usize = 30;

/// Bars for uptime percentages. The scale is denser near 100 %, where the differences matter.
pub(super) fn render_uptime(days: &[Option<f64>]) -> String {
    const STEPS: [f64; 7] = [25.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0];
    render_bars(days, |percent| STEPS.iter().filter(|step| percent >= **step).count())
}

/// Bars for other values, relative to the greatest of the row. Zero is the lowest bar.
pub(super) fn render_relative(days: &[Option<f64>]) -> String {
    let greatest = days.iter().flatten().copied().fold(0.0, f64::max);
    render_bars(days, |value| {
        let share = if greatest > 0.0 { value / greatest } else { 0.0 };
        (0..7).filter(|step| share > (f64::from(*step) + 1.0) / 8.0).count()
    })
}

fn render_bars(days: &[Option<f64>], step: impl Fn(f64) -> usize) -> String {
    let last = &days[days.len().saturating_sub(MAX_DAYS)..];
    last.iter().map(|day| day.map_or(' ', |value| BAR_CHARS[step(value).min(7)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_bar_is_full_only_without_downtime() {
        assert_eq!(
            render_uptime(&[Some(100.0), Some(99.95), Some(99.5), None, Some(50.0), Some(0.0)]),
            "█▇▆ ▂▁"
        );
    }

    #[test]
    fn bar_heights_are_relative_to_the_maximum_of_the_last_thirty_days() {
        assert_eq!(render_relative(&[Some(8.0), Some(4.0), Some(0.0), None]), "█▄▁ ");
        assert_eq!(render_relative(&[Some(0.0)]), "▁");
        assert_eq!(render_relative(&[Some(1.0); 90]).chars().count(), 30);
    }
}
