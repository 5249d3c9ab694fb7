//! A page of forms and tables, as most pages are.

use askama::Template;
use picket_proto::Timestamp;

use super::{
    frame::Frame,
    parts::{Behind, Pager, StatusMark, TimeMark},
};

/// Maximum rows of a table on a page.
pub(super) const MAX_ROWS: usize = 200;

/// Value of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Text(String),
    /// Text and address.
    Link(String, String),
    Status(StatusMark),
    Time(TimeMark),
    /// An `svg` element of [`crate::charts`].
    Drawing(String),
    /// Name of a button, and the address to which it posts.
    Button(&'static str, String),
}

impl Cell {
    pub(crate) fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    /// A time, or `–`.
    pub(crate) fn time(at: Option<Timestamp>) -> Self {
        at.map_or_else(|| Self::text("–"), |at| Self::Time(TimeMark(at)))
    }

    /// A site by its name.
    pub(crate) fn site(id: i64, name: impl Into<String>) -> Self {
        Self::Link(name.into(), format!("/sites/{id}"))
    }
}

/// Heading of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) is_number: bool,
}

/// A table with a title and the statements behind it.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "parts/table.html")]
pub(crate) struct TableView {
    pub(crate) id: &'static str,
    pub(crate) title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    has_hidden_rows: bool,
    /// Sentence in place of an empty table, and the command that would fill it.
    pub(crate) empty: String,
    pub(crate) empty_command: String,
    pub(crate) behind: Behind,
}

impl TableView {
    /// A table. Names of columns of numbers begin with `#`.
    pub(crate) fn new(id: &'static str, title: impl Into<String>, columns: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('#') {
            Some(name) => Column { name, is_number: true },
            None => Column { name, is_number: false },
        };
        Self { id, title: title.into(), columns: columns.iter().map(column).collect(), ..Self::default() }
    }

    /// Adds the rows that fit on a page.
    pub(crate) fn with_rows(mut self, rows: impl ExactSizeIterator<Item = Vec<Cell>>) -> Self {
        self.has_hidden_rows = rows.len() > MAX_ROWS;
        self.rows = rows.take(MAX_ROWS).collect();
        self
    }

    pub(crate) fn with_empty(mut self, empty: impl Into<String>, command: impl Into<String>) -> Self {
        (self.empty, self.empty_command) = (empty.into(), command.into());
        self
    }

    pub(crate) fn with_behind(mut self, behind: Behind) -> Self {
        self.behind = behind;
        self
    }
}

/// Field of a form: an input, or a choice if it has options (value and name).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FormField {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) value: String,
    pub(crate) placeholder: &'static str,
    pub(crate) options: Vec<(String, String)>,
}

/// A form of a single line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "parts/form.html")]
pub(crate) struct FormView {
    /// Name for screen readers.
    pub(crate) name: &'static str,
    /// Beginning of the ids of the fields.
    pub(crate) prefix: &'static str,
    pub(crate) action: String,
    pub(crate) is_post: bool,
    pub(crate) is_panel: bool,
    pub(crate) fields: Vec<FormField>,
    pub(crate) button: &'static str,
}

/// A link among the pages of notifications.
pub(crate) struct Tab {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
    pub(crate) is_current: bool,
}

impl Tab {
    /// The links, of which that to `current` is marked.
    pub(crate) fn list(current: &str) -> Vec<Self> {
        const TABS: [(&str, &str); 4] = [
            ("/notifications", "Delivery log"),
            ("/channels", "Channels"),
            ("/routes", "Routes"),
            ("/silences", "Silences"),
        ];
        TABS.map(|(path, name)| Self { path, name, is_current: path == current }).into()
    }
}

/// See the module documentation.
#[derive(Template)]
#[template(path = "list.html")]
pub(crate) struct ListPage {
    pub(crate) frame: Frame,
    pub(crate) headline: String,
    pub(crate) subline: String,
    /// Links to pages of the same kind.
    pub(crate) tabs: Vec<Tab>,
    pub(crate) notice: Option<String>,
    pub(crate) forms: Vec<FormView>,
    pub(crate) tables: Vec<TableView>,
    /// Links to the neighbouring pages of the last table.
    pub(crate) pager: Option<Pager>,
}

impl ListPage {
    pub(crate) fn new(frame: Frame, headline: impl Into<String>, subline: impl Into<String>) -> Self {
        Self {
            frame,
            headline: headline.into(),
            subline: subline.into(),
            tabs: Vec::new(),
            notice: None,
            forms: Vec::new(),
            tables: Vec::new(),
            pager: None,
        }
    }
}
