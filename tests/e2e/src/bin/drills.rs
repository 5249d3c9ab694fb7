//! Prints the table of all tested faults from the rows written by the fault tests. `--forget`
//! deletes the rows.

use std::{env, fs};

use picket_e2e::fault_test::{ReportLine, account_cells, build_table, report_lines_dir};

#[expect(clippy::print_stdout, reason = "the table is for a person")]
fn main() {
    let forget = env::args().any(|argument| argument == "--forget");
    let mut lines: Vec<ReportLine> = fs::read_dir(report_lines_dir())
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
    lines.sort_by_key(|line| (fault_number(&line.fault), line.fault.clone()));
    if lines.is_empty() {
        return;
    }
    let mut table = build_table(&["FAULT", "DESCRIPTION"], 0);
    for ReportLine { fault, description, account, .. } in lines {
        table.add_row([vec![fault, description], account_cells(&account)].concat());
    }
    println!("{table}");
}

/// Number in the id of a fault, for sorting.
fn fault_number(fault: &str) -> u32 {
    fault.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(u32::MAX)
}
