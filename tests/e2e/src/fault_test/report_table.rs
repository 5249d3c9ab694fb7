//! Printable table of faults.

use comfy_table::{CellAlignment, Table, presets};

use super::TickAccount;

const COUNT_COLUMNS: [&str; 10] = [
    "TICKS",
    "UP",
    "DOWN",
    "MISSED",
    "GAP",
    "UNACCOUNTED",
    "DOUBLED",
    "FALSE INCIDENTS",
    "RECOVERY",
    "CAUSES",
];

/// Builds a table that begins with these columns, of which the last `numbers` are numeric.
pub fn build_table(columns: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().chain(&COUNT_COLUMNS));
    let last_count = columns.len() + COUNT_COLUMNS.len() - 1;
    for column in columns.len() - numbers..last_count {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Cells of the count columns.
pub fn account_cells(account: &TickAccount) -> Vec<String> {
    let TickAccount { ticks, up, down, missed, gap, unaccounted, doubled, false_incidents, .. } = account;
    let causes: Vec<String> =
        account.causes.iter().map(|(cause, ticks)| format!("{ticks} {cause}")).collect();
    [ticks, up, down, missed, gap, unaccounted, doubled, false_incidents]
        .iter()
        .map(ToString::to_string)
        .chain([format!("{:.1} s", account.recovery_s), causes.join(", ")])
        .collect()
}
