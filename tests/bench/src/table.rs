//! Markdown tables and statistics.

use std::fmt::{self, Display};

use picket_harness::percentiles::Samples;
use serde::Serialize;

/// Markdown table.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: impl IntoIterator<Item = impl Display>) -> Self {
        Self { head: head.into_iter().map(|cell| cell.to_string()).collect(), rows: Vec::new() }
    }

    pub(crate) fn add_row(&mut self, cells: impl IntoIterator<Item = impl Display>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.head.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Distribution of a sample.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// Percentiles of samples in any order. All zero without samples.
    pub(crate) fn from_samples(samples: Vec<f64>) -> Self {
        let samples = Samples::new(samples);
        let at = |share| samples.quantile(share).unwrap_or_default();
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max } = self;
        write!(f, "{} / {} / {}", ShortNumber(*p50), ShortNumber(*p99), ShortNumber(*max))
    }
}

/// Number with a meaningful count of decimals.
pub(crate) struct ShortNumber(pub(crate) f64);

impl Display for ShortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.abs() {
            size if size.is_nan() => f.write_str("–"),
            size if size < 10.0 => write!(f, "{:.1}", self.0),
            _ => write!(f, "{:.0}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_head_and_a_line_under_it() {
        let mut table = Table::new(["a", "b"]);
        table.add_row([ShortNumber(1.25), ShortNumber(123.4)]);

        assert_eq!(table.to_string(), "| a | b |\n| --- | --- |\n| 1.2 | 123 |\n");
    }
}
