//! Output of the commands: tables for people, JSON for programs, colours on a terminal only.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets,
};
use picket_proto::safe_text;
pub(crate) use picket_runtime::console::{print_error, should_colour};
use serde::Serialize;

use crate::error::Error;

/// Output option of commands with rows.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputOptions {
    /// Output format: a table for people, or JSON for programs
    #[arg(long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
}

/// Formats of [`OutputOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns.
    Table,
    /// An array of objects; for endless output one object per line.
    Json,
}

impl OutputOptions {
    /// Prints `rows` as JSON or as the table that `table` builds.
    pub(crate) fn print_rows<T: Serialize>(
        self,
        rows: &[T],
        table: impl FnOnce(&[T]) -> TextTable,
    ) -> Result<(), Error> {
        match self.output {
            OutputFormat::Json => print_data(&to_pretty_json(rows)),
            OutputFormat::Table => print_coloured(&table(rows).to_string()),
        }
    }
}

/// `value` as indented JSON with a final line feed.
pub(crate) fn to_pretty_json<T: Serialize + ?Sized>(value: &T) -> String {
    // Only non-text keys and non-finite numbers can fail, and Picket's rows have neither.
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|why| format!("{{\"error\":\"{why}\"}}"));
    safe_text::sanitize_json(&text).into_owned() + "\n"
}

/// Writes text for people to standard output, with control characters replaced.
///
/// # Errors
/// [`Error::BrokenPipe`] if the reader has closed the pipe.
pub(crate) fn print_text(text: &str) -> Result<(), Error> {
    write_stdout(&safe_text::sanitize_lines(text))
}

/// Same as [`print_text()`], but colour sequences pass. Foreign text must be in cells or must have
/// been sanitized.
pub(crate) fn print_coloured(text: &str) -> Result<(), Error> {
    write_stdout(&safe_text::sanitize_coloured(text))
}

/// Writes text for programs unchanged, or sanitized if standard output is a terminal.
pub(crate) fn print_data(text: &str) -> Result<(), Error> {
    match std::io::stdout().is_terminal() {
        true => print_text(text),
        false => write_stdout(text),
    }
}

fn write_stdout(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Progress text on one line of a terminal, overwritten at each change. Prints nothing elsewhere.
pub(crate) struct ProgressLine {
    is_shown: bool,
    on_terminal: bool,
}

impl ProgressLine {
    pub(crate) fn new() -> Self {
        Self { is_shown: false, on_terminal: std::io::stderr().is_terminal() }
    }

    pub(crate) fn show_text(&mut self, text: impl std::fmt::Display) {
        if self.on_terminal {
            self.is_shown = true;
            let _ =
                write!(std::io::stderr().lock(), "\r\x1b[K{}", safe_text::sanitize_lines(&text.to_string()));
        }
    }

    pub(crate) fn clear_line(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear_line();
    }
}

/// A table without borders and with aligned columns.
pub(crate) struct TextTable {
    table: Table,
    empty_text: &'static str,
}

impl TextTable {
    /// A table with the given columns. `empty` is printed instead of a table without rows.
    pub(crate) fn new<const N: usize>(columns: [&str; N], empty: &'static str) -> Self {
        Self::with_style(columns, empty, should_colour(), std::io::stdout().is_terminal())
    }

    /// Same as [`new`](Self::new), for columns known only at run time.
    pub(crate) fn with_columns(columns: impl Iterator<Item = String>, empty: &'static str) -> Self {
        Self::with_style(columns, empty, should_colour(), std::io::stdout().is_terminal())
    }

    fn with_style(
        columns: impl IntoIterator<Item: ToString>,
        empty_text: &'static str,
        colours: bool,
        on_terminal: bool,
    ) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // A pipe has no width, and its reader expects one line per row.
        table.set_content_arrangement(match on_terminal {
            true => ContentArrangement::Dynamic,
            false => ContentArrangement::Disabled,
        });
        match colours {
            true => table.enforce_styling(),
            false => table.force_no_tty(),
        };
        table.set_header(columns.into_iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, empty_text }
    }

    /// Right-aligns the columns at these positions, for numbers.
    pub(crate) fn align_right<const N: usize>(self, columns: [usize; N]) -> Self {
        self.align_right_at(&columns)
    }

    /// Same as [`align_right`](Self::align_right), for columns known only at run time.
    pub(crate) fn align_right_at(mut self, columns: &[usize]) -> Self {
        for index in columns {
            if let Some(column) = self.table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Never wraps the columns at these positions, whose values are copied.
    pub(crate) fn keep_whole<const N: usize>(mut self, columns: [usize; N]) -> Self {
        for index in columns {
            if let Some(column) = self.table.column_mut(index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        self
    }

    pub(crate) fn add_row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.add_cells(cells);
    }

    pub(crate) fn add_cells(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.table.add_row(cells);
    }
}

impl std::fmt::Display for TextTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.table.is_empty() {
            return writeln!(f, "{}", self.empty_text);
        }
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A plain cell, with a dash for an absent value. Control characters are replaced, because
/// terminals act on them.
pub(crate) fn text_cell(value: impl ToCell) -> Cell {
    Cell::new(picket_proto::validation::sanitize_text(&value.to_cell_text(), 2_000))
}

/// A cell coloured by its status word.
pub(crate) fn status_cell(text: &str) -> Cell {
    let cell = text_cell(text);
    // The word may be followed by a reason.
    match status_colour(text.split(',').next().unwrap_or(text)) {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// `padded` in the colour of the status word `text`, if colours are wanted.
pub(crate) fn colour_by_status(text: &str, padded: String) -> String {
    let code = match status_colour(text) {
        Some(Color::Green) => "32",
        Some(Color::Red) => "31",
        Some(Color::Yellow) => "33",
        _ => return padded,
    };
    match should_colour() {
        true => format!("\x1b[{code}m{padded}\x1b[0m"),
        false => padded,
    }
}

fn status_colour(text: &str) -> Option<Color> {
    match text {
        "up" | "passed" | "delivered" | "delivers" => Some(Color::Green),
        "down" | "failed" | "failing" | "refused" | "gone" | "NOBODY" => Some(Color::Red),
        "missed" | "unknown" | "problem" | "paused" | "warning" | "no answer" | "undecided" | "waiting"
        | "retry" | "retrying" => Some(Color::Yellow),
        _ => None,
    }
}

/// A value that can be shown in a cell.
pub(crate) trait ToCell {
    fn to_cell_text(&self) -> String;
}

macro_rules! impl_to_cell {
    ($($type:ty),*) => {$(
        impl ToCell for $type {
            fn to_cell_text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
impl_to_cell!(&str, String, &String, i16, u16, i64, u64, usize, picket_proto::SiteId, picket_proto::Outcome);

impl<T: ToCell> ToCell for Option<T> {
    fn to_cell_text(&self) -> String {
        self.as_ref().map_or_else(|| "-".to_owned(), ToCell::to_cell_text)
    }
}

/// Microseconds as milliseconds with one decimal.
pub(crate) fn format_ms(micros: Option<u32>) -> Option<String> {
    micros.map(|micros| format!("{:.1}", f64::from(micros) / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(colours: bool) -> String {
        let mut listing =
            TextTable::with_style(["ID", "STATUS", "URL"], "none yet", colours, false).align_right([0]);
        listing.add_row([text_cell(7_i64), status_cell("down"), text_cell("https://example.com/")]);
        listing.add_row([text_cell(1_234_i64), status_cell("up"), text_cell(None::<&str>)]);
        listing.to_string()
    }

    #[test]
    fn columns_align_without_trailing_spaces() {
        assert_eq!(
            listing(false),
            "  ID  STATUS  URL\n   7  down    https://example.com/\n1234  up      -\n"
        );
    }

    #[test]
    fn colours_appear_only_where_enabled() {
        assert!(listing(true).contains("\x1b["));
        assert!(!listing(false).contains('\x1b'));
    }

    #[test]
    fn an_empty_table_prints_a_notice() {
        let listing = TextTable::with_style(["ID"], "none yet", false, false);

        assert_eq!(listing.to_string(), "none yet\n");
    }

    #[test]
    fn json_of_hostile_text_is_printable_and_decodes_to_the_same_value() {
        let hostile = "\u{202e}\u{9b}31m\x1b[2J\u{7f}";

        let text = to_pretty_json(&[hostile]);

        assert!(text.is_ascii() && !text.contains('\x1b') && !text.contains('\x7f'), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [hostile]);
    }

    #[test]
    fn an_escape_sequence_in_a_value_does_not_reach_the_terminal() {
        let mut listing = TextTable::with_style(["URL"], "", false, false);
        listing.add_row([text_cell("http://x/\x1b[2J\u{9b}2J\u{202e}\u{2028}")]);

        assert!(!listing.to_string().contains(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}']));
    }
}
