//! Prints the table of the faults that were tried, from the lines that the tests wrote; `--forget` removes them.

use std::{env, fs};

use comfy_table::{CellAlignment, Table, presets};
use picket_e2e::drill::{Line, lines_dir};

#[expect(clippy::print_stdout, reason = "it prints")]
fn main() {
    let forget = env::args().any(|argument| argument == "--forget");
    let mut lines: Vec<Line> = fs::read_dir(lines_dir())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            if forget {
                let _ = fs::remove_file(entry.path());
                return None;
            }
            serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()
        })
        .collect();
    lines.sort_by_key(|line| (number(&line.fault), line.fault.clone()));
    if lines.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "FAULT",
        "INJURY",
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
    ]);
    for column in 2..=10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for Line { fault, injury, account, .. } in lines {
        let causes: Vec<String> =
            account.causes.iter().map(|(cause, ticks)| format!("{ticks} {cause}")).collect();
        table.add_row([
            fault,
            injury,
            account.ticks.to_string(),
            account.up.to_string(),
            account.down.to_string(),
            account.missed.to_string(),
            account.gap.to_string(),
            account.unaccounted.to_string(),
            account.doubled.to_string(),
            account.false_incidents.to_string(),
            format!("{:.1} s", account.recovery_s),
            causes.join(", "),
        ]);
    }
    println!("{table}");
}

/// The number in the name of a fault, by which they are sorted.
fn number(fault: &str) -> u32 {
    fault.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(u32::MAX)
}
