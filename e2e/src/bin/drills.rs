//! Prints the table of the faults that were tried, from the lines that the tests wrote; `--forget` removes them.

use std::{env, fs};

use picket_e2e::drill::{Line, cells, lines_dir, table};

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
    let mut table = table(&["FAULT", "INJURY"], 0);
    for Line { fault, injury, account, .. } in lines {
        table.add_row([vec![fault, injury], cells(&account)].concat());
    }
    println!("{table}");
}

/// The number in the name of a fault, by which they are sorted.
fn number(fault: &str) -> u32 {
    fault.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(u32::MAX)
}
