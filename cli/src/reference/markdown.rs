//! Tables of options in Markdown, in the form that the formatter of the documents leaves as it is.

use std::collections::BTreeMap;

use clap::{Arg, Command};

/// A table with these heads, or nothing without rows.
pub(super) fn format_table(heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: Vec<String>| {
        // An empty cell keeps two spaces, as the formatter writes it.
        format!("|{}\n", cells.iter().map(|cell| format!(" {cell} |")).collect::<String>())
    };
    let mut text = line(heads.iter().map(|&head| head.to_owned()).collect());
    text += &line(heads.iter().map(|_| "--".to_owned()).collect());
    text.extend(rows.iter().map(|row| line(row.iter().map(|cell| escape_cell(cell)).collect())));
    text
}

/// Text of a table cell: a single line, with `|` escaped.
fn escape_cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

pub(super) fn code_span(text: &str) -> String {
    format!("`{text}`")
}

/// Options of a command by their heading; those without one are under "".
pub(super) fn options_by_heading(command: &Command) -> BTreeMap<&str, Vec<&Arg>> {
    let mut groups: BTreeMap<&str, Vec<&Arg>> = BTreeMap::new();
    for arg in command.get_arguments() {
        if !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version") {
            groups.entry(arg.get_help_heading().unwrap_or_default()).or_default().push(arg);
        }
    }
    groups
}

/// An option or argument as it is typed, with the names of its values.
pub(super) fn option_usage(arg: &Arg) -> String {
    let values = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => {
            names.iter().map(|name| format!(" <{name}>")).collect()
        }
        None if arg.get_action().takes_values() => format!(" <{}>", arg.get_id()),
        _ => String::new(),
    };
    let long = arg.get_long().map(|long| format!("--{long}"));
    match (arg.get_short(), long) {
        (_, None) if arg.is_positional() => values.trim_start().to_owned(),
        (Some(short), Some(long)) => format!("-{short}, {long}{values}"),
        (Some(short), None) => format!("-{short}{values}"),
        (None, long) => format!("{}{values}", long.unwrap_or_default()),
    }
}

/// The variable that sets an option, if there is one.
pub(super) fn variable_name(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// Default and description. A default that is computed stands at the end of the help as `[default: …]`.
pub(super) fn default_and_help(arg: &Arg) -> (String, String) {
    const MARK: &str = "[default: ";
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut help = help.split("\n\n").map(end_sentence).collect::<Vec<_>>().join(" ");
    let mut default = String::new();
    if let Some(at) = help.find(MARK)
        && let Some(length) = help[at..].find(']')
    {
        default = help[at + MARK.len()..at + length].to_owned();
        help.replace_range(at..=at + length, "");
        help = help.replace(" .", ".");
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| code_span(&value.to_string_lossy())).collect();
    // A flag's default is `false`, which says nothing.
    if !defaults.is_empty() && arg.get_action().takes_values() {
        default = defaults.join(", ");
    }
    if arg.is_required_set() {
        default = "required".to_owned();
    }
    let values: Vec<_> = match arg.get_action().takes_values() {
        true => arg.get_possible_values(),
        false => Vec::new(),
    };
    let values: Vec<_> =
        values.iter().filter(|value| !value.is_hide_set()).map(|value| code_span(value.get_name())).collect();
    if !values.is_empty() {
        help = format!("{help} One of {}.", values.join(", "));
    }
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    if !aliases.is_empty() {
        let aliases: Vec<_> = aliases.iter().map(|alias| code_span(&format!("--{alias}"))).collect();
        help = format!("{help} Also {}.", aliases.join(", "));
    }
    (default, help)
}

/// The text as a single line that ends with a punctuation mark.
pub(super) fn end_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.chars().next_back() {
        Some('.' | ':' | ';' | '!' | '?') | None => text,
        Some(_) => format!("{text}."),
    }
}
