//! A page of forms and tables, as most pages are.

use std::collections::BTreeMap;

use askama::Template;
use picket_proto::{Timestamp, ValidationError, nested_object::HIDDEN_VALUE};

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
    /// Refusal of the typed value.
    pub(crate) error: Option<String>,
}

/// A form.
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
    /// Refusal of a value that has no field here.
    pub(crate) error: Option<String>,
}

impl FormView {
    /// Returns true if a value of the form was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.error.is_some() || self.fields.iter().any(|field| field.error.is_some())
    }

    /// The form with what was typed, and the refusal beside its field. A value that the refusal hides
    /// may be a credential, and is not repeated.
    pub(crate) fn with_refusal(mut self, typed: &BTreeMap<String, String>, error: &ValidationError) -> Self {
        let path = error.field.strip_prefix("settings.").unwrap_or(&error.field);
        let name = path.split(['.', '[']).next().unwrap_or(path);
        for field in &mut self.fields {
            field.value = typed.get(field.name).cloned().unwrap_or_default();
        }
        match self.fields.iter_mut().find(|field| field.name == name) {
            Some(field) => {
                field.error = Some(error.to_string());
                if error.value == HIDDEN_VALUE {
                    field.value.clear();
                }
            }
            None => self.error = Some(error.to_string()),
        }
        self
    }
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
    /// What is wrong and concerns the whole page.
    pub(crate) warning: Option<String>,
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
            warning: None,
            forms: Vec::new(),
            tables: Vec::new(),
            pager: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(error: &ValidationError) -> FormView {
        let field = |name| FormField { name, label: name, ..FormField::default() };
        let form = FormView {
            prefix: "f",
            fields: vec![field("url"), field("escalate"), field("token")],
            ..FormView::default()
        };
        let typed = [("url", "https://<a>"), ("escalate", "soon"), ("token", "hunter2")];
        let typed = typed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        form.with_refusal(&typed, error)
    }

    #[test]
    fn a_refused_form_keeps_what_was_typed_and_names_the_error_by_its_field() {
        let form = refuse(&ValidationError::new("escalate[0].after", "soon", "such as 15m"));

        let html = form.render().unwrap();

        assert!(form.is_refused() && form.fields[1].error.is_some() && form.error.is_none());
        assert!(html.contains("value=\"https://&#60;a&#62;\"") && html.contains("value=\"soon\""), "{html}");
        assert!(html.contains("aria-describedby=\"f-escalate-error\""), "{html}");
        assert!(html.contains("id=\"f-escalate-error\""), "{html}");
        let elsewhere = refuse(&ValidationError::new("body", "x", "y"));
        assert!(elsewhere.render().unwrap().contains("role=\"alert\""), "{elsewhere:?}");
    }

    #[test]
    fn a_value_that_may_be_a_credential_is_not_repeated() {
        let form = refuse(&ValidationError::new("settings.token", HIDDEN_VALUE, "the name of a secret"));

        assert!(form.fields[2].error.is_some() && !form.render().unwrap().contains("hunter2"), "{form:?}");
    }
}
