//! Examples in the tables and code blocks of a page of `docs`, for the tests that execute them.

use std::path::Path;

/// A page of the documents.
pub struct DocumentedExamples(String);

/// A row of a table.
#[derive(Debug)]
pub struct TableRow {
    /// Heading of the section with the table.
    pub section: String,
    /// Text of each cell.
    pub cells: Vec<String>,
}

impl DocumentedExamples {
    /// Reads the page `file` of `docs`, such as `reference/assertions-and-options.md`.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn read(file: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self(text),
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }

    /// The first code block of this language.
    ///
    /// # Panics
    /// If there is none.
    pub fn code_block(&self, language: &str) -> &str {
        let (_, rest) = self.0.split_once(&format!("\n```{language}\n")).expect("a code block");
        rest.split_once("\n```").expect("the end of the code block").0
    }

    /// All commands of the code blocks for consoles, without comments, each split into words.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let blocks = self.0.split("\n```console\n").skip(1);
        let lines = blocks.flat_map(|block| block.split("\n```").next().unwrap_or_default().lines());
        let commands = lines.filter_map(|line| line.strip_prefix("$ "));
        commands.map(|command| split_words(command.split("  #").next().unwrap_or_default())).collect()
    }

    /// All rows of all tables, without the headings of the columns.
    pub fn table_rows(&self) -> Vec<TableRow> {
        let mut section = String::new();
        let mut rows = Vec::new();
        let mut lines = self.0.lines().peekable();
        while let Some(line) = lines.next() {
            if line.starts_with('#') {
                section = line.trim_start_matches('#').trim().to_owned();
            }
            let is_rule = |line: &str| line.starts_with("| --");
            // The line above the rule has the headings.
            if !line.starts_with('|') || is_rule(line) || lines.peek().is_some_and(|next| is_rule(next)) {
                continue;
            }
            let cells = line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            rows.push(TableRow { section: section.clone(), cells });
        }
        rows
    }
}

impl TableRow {
    /// The code spans of a cell.
    pub fn code_spans(&self, cell: usize) -> Vec<&str> {
        self.cells[cell].split('`').skip(1).step_by(2).collect()
    }

    /// The only code span of a cell, split into words.
    pub fn words(&self, cell: usize) -> Vec<String> {
        split_words(&self.code_spans(cell).concat())
    }
}

/// Splits a command into words as a shell does, with single quotes alone.
pub fn split_words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for letter in command.chars() {
        match letter {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_rows_of_cells_under_a_heading() {
        let page = DocumentedExamples(
            "# Page\n\n| A | B |\n| -- | -- |\n| `a b` and `c` | |\n\n## Next\n\n```http\nGET\n\nx\n```\n\n| C |\n| -- |\n| d |\n"
                .to_owned(),
        );

        let rows = page.table_rows();

        assert_eq!((rows.len(), rows[0].section.as_str(), rows[1].section.as_str()), (2, "Page", "Next"));
        assert_eq!((rows[0].code_spans(0), rows[0].cells[1].as_str()), (vec!["a b", "c"], ""));
        assert_eq!(page.code_block("http"), "GET\n\nx");
        let console = DocumentedExamples("\n```console\n$ a 'b c'   # d\ne\n$ f\n```\n\n$ g\n".to_owned());
        assert_eq!(console.commands(), [vec!["a", "b c"], vec!["f"]]);
        assert_eq!(split_words("--a 'b  \"c\"' --d='' e"), ["--a", "b  \"c\"", "--d=", "e"]);
    }
}
