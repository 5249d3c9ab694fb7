//! Lines for the user of the command `picket`, on standard output and standard error.

use std::io::{IsTerminal, Write};

use picket_proto::safe_text;

/// Writes one line of progress to standard output. A closed terminal is no reason to stop.
pub fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{}", safe_text::sanitize_lines(&line.to_string()));
}

/// Writes an error message as one line to standard error.
pub fn print_error(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "picket: {}", safe_text::sanitize_lines(&line.to_string()));
}

/// Returns true if standard output should have colours: it is a terminal, and the user has not set
/// `NO_COLOR` (<https://no-color.org>).
pub fn should_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}
