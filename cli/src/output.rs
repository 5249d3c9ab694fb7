//! What a command prints: tables for people, JSON for programs, colours on a terminal only.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use picket_proto::plain;
use serde::Serialize;

use crate::error::Error;

/// How a listing is printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputOptions {
    /// How to print: a table for people, or JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// See [`OutputOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// An array of objects; one object a line where the output does not end.
    Json,
}

impl OutputOptions {
    /// Prints `rows` as JSON, or the table that `table` makes of them.
    pub(crate) fn print<T: Serialize>(
        self,
        rows: &[T],
        table: impl FnOnce(&[T]) -> Listing,
    ) -> Result<(), Error> {
        match self.output {
            Format::Json => print_data(&json(rows)),
            Format::Table => print_coloured(&table(rows).to_string()),
        }
    }
}

/// `value` as JSON for people to read, with a line feed.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // Our own rows have text keys and finite numbers, which is all that can fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|why| format!("{{\"error\":\"{why}\"}}"));
    plain::json(&text).into_owned() + "\n"
}

/// Writes text for people to standard output: no character of it does more than be seen.
///
/// # Errors
/// [`Error::NotRead`] when the reader has gone.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    write(&plain::lines(text))
}

/// As [`print()`], with the colours in it: for text whose parts of strangers are cells, or went through `shorten`.
pub(crate) fn print_coloured(text: &str) -> Result<(), Error> {
    write(&plain::coloured_lines(text))
}

/// Writes text for programs: as it is, unless a person looks at it on a terminal.
pub(crate) fn print_data(text: &str) -> Result<(), Error> {
    match std::io::stdout().is_terminal() {
        true => print(text),
        false => write(text),
    }
}

fn write(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes one line for the person who watches; a terminal that has gone is no reason to stop.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{}", plain::lines(&line.to_string()));
}

/// Writes one line to standard error, as every complaint is.
pub(crate) fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "picket: {}", plain::lines(&line.to_string()));
}

/// Progress on one line of a terminal that is overwritten; nothing elsewhere.
pub(crate) struct Progress {
    shown: bool,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: false, on_terminal: std::io::stderr().is_terminal() }
    }

    pub(crate) fn show(&mut self, text: impl std::fmt::Display) {
        if self.on_terminal {
            self.shown = true;
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", plain::lines(&text.to_string()));
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether standard output takes colours: a terminal whose user has not said no (<https://no-color.org>).
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// A table without borders, whose columns align.
pub(crate) struct Listing {
    table: Table,
    empty: &'static str,
}

impl Listing {
    /// A table with these columns; `empty` is what stands there instead of one without rows.
    pub(crate) fn new<const N: usize>(columns: [&str; N], empty: &'static str) -> Self {
        Self::styled(columns, empty, colours(), std::io::stdout().is_terminal())
    }

    /// A table whose columns are known only when it is made.
    pub(crate) fn of(columns: impl Iterator<Item = String>, empty: &'static str) -> Self {
        Self::styled(columns, empty, colours(), std::io::stdout().is_terminal())
    }

    fn styled(
        columns: impl IntoIterator<Item: ToString>,
        empty: &'static str,
        colours: bool,
        on_terminal: bool,
    ) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // A pipe has no width, and what reads it wants a row to be a line.
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
        Self { table, empty }
    }

    /// Aligns these columns to the right, as numbers are.
    pub(crate) fn numbers<const N: usize>(self, columns: [usize; N]) -> Self {
        self.numbers_at(&columns)
    }

    /// As [`numbers`](Self::numbers).
    pub(crate) fn numbers_at(mut self, columns: &[usize]) -> Self {
        for index in columns {
            if let Some(column) = self.table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.row_of(cells);
    }

    pub(crate) fn row_of(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.table.add_row(cells);
    }
}

impl std::fmt::Display for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.table.is_empty() {
            return writeln!(f, "{}", self.empty);
        }
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A plain cell; what is absent is a dash. Control characters, which terminals obey, do not get through.
pub(crate) fn cell(value: impl Shown) -> Cell {
    Cell::new(picket_proto::invalid::shorten(&value.shown(), 2_000))
}

/// A cell coloured by the word in it.
pub(crate) fn word(text: &str) -> Cell {
    let cell = cell(text);
    match colour_of(text) {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

/// `text` in the colour of its word, where colours are wanted.
pub(crate) fn coloured(text: &str, padded: String) -> String {
    let code = match colour_of(text) {
        Some(Color::Green) => "32",
        Some(Color::Red) => "31",
        Some(Color::Yellow) => "33",
        _ => return padded,
    };
    match colours() {
        true => format!("\x1b[{code}m{padded}\x1b[0m"),
        false => padded,
    }
}

fn colour_of(text: &str) -> Option<Color> {
    match text {
        "up" => Some(Color::Green),
        "down" => Some(Color::Red),
        "missed" | "unknown" | "problem" | "paused" | "no answer" => Some(Color::Yellow),
        _ => None,
    }
}

/// What can stand in a cell.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($type:ty),*) => {$(
        impl Shown for $type {
            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
shown!(&str, String, &String, i16, u16, i64, u64, usize, picket_proto::SiteId, picket_proto::Outcome);

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "-".to_owned(), Shown::shown)
    }
}

/// Microseconds as milliseconds with one decimal, as phases are shown.
pub(crate) fn ms(micros: Option<u32>) -> Option<String> {
    micros.map(|micros| format!("{:.1}", f64::from(micros) / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(colours: bool) -> String {
        let mut listing = Listing::styled(["ID", "STATUS", "URL"], "none yet", colours, false).numbers([0]);
        listing.row([cell(7_i64), word("down"), cell("https://example.com/")]);
        listing.row([cell(1_234_i64), word("up"), cell(None::<&str>)]);
        listing.to_string()
    }

    #[test]
    fn columns_align_and_no_line_ends_in_blanks() {
        assert_eq!(
            listing(false),
            "  ID  STATUS  URL\n   7  down    https://example.com/\n1234  up      -\n"
        );
    }

    #[test]
    fn colours_are_there_only_where_they_are_wanted() {
        assert!(listing(true).contains("\x1b["));
        assert!(!listing(false).contains('\x1b'));
    }

    #[test]
    fn a_table_without_rows_says_so() {
        let listing = Listing::styled(["ID"], "none yet", false, false);

        assert_eq!(listing.to_string(), "none yet\n");
    }

    #[test]
    fn json_of_a_hostile_text_is_plain_and_says_the_same() {
        let hostile = "\u{202e}\u{9b}31m\x1b[2J\u{7f}";

        let text = json(&[hostile]);

        assert!(text.is_ascii() && !text.contains('\x1b') && !text.contains('\x7f'), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [hostile]);
    }

    #[test]
    fn an_escape_sequence_in_a_value_does_not_reach_the_terminal() {
        let mut listing = Listing::styled(["URL"], "", false, false);
        listing.row([cell("http://x/\x1b[2J\u{9b}2J\u{202e}\u{2028}")]);

        assert!(!listing.to_string().contains(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}']));
    }
}
