//! The data of a chart as a table, for readers who cannot or do not want to see the drawing.

use std::fmt::Write;

use super::svg_writer::write_escaped;

/// Maximum rows of a table; more columns than this are not legible in a drawing either.
const MAX_ROWS: usize = 500;

/// A table with a head; the first cell of a row is its heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DataTable {
    pub(crate) caption: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl DataTable {
    /// The table as HTML, folded until a reader opens it.
    pub(crate) fn to_html(&self) -> String {
        let mut html = String::from("<details class=\"data\"><summary>The numbers as a table</summary>");
        html.push_str("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"");
        write_escaped(&mut html, &self.caption);
        html.push_str("\"><table><caption>");
        write_escaped(&mut html, &self.caption);
        html.push_str("</caption><thead><tr>");
        for column in &self.columns {
            html.push_str("<th scope=\"col\">");
            write_escaped(&mut html, column);
            html.push_str("</th>");
        }
        html.push_str("</tr></thead><tbody>");
        for row in self.rows.iter().take(MAX_ROWS) {
            html.push_str("<tr>");
            for (n, cell) in row.iter().enumerate() {
                let (open, close) = if n == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
                html.push_str(open);
                write_escaped(&mut html, cell);
                html.push_str(close);
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
        if self.rows.len() > MAX_ROWS {
            let _ = write!(html, "<p>{} further rows are not shown.</p>", self.rows.len() - MAX_ROWS);
        }
        html.push_str("</details>");
        html
    }
}
