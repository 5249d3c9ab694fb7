//! docs/reference/configuration.md: options and variables of the processes, and the variables of `picket`.

use std::collections::BTreeMap;

use clap::{Arg, Command};
use picket_store::settings::SETTINGS;

use super::{
    markdown::{code_span, default_and_help, format_table, option_usage, options_by_heading, variable_name},
    programs,
};

const HEADS: [&str; 4] = ["Variable", "Option", "Default", "Description"];

/// Sections of all processes; options that several processes share have one section of their own.
pub(super) fn generate() -> String {
    let [picket, processes @ ..] = programs();
    let mut own = String::new();
    // The same table of the same heading in several processes is printed once.
    let mut shared: Vec<(String, String, Vec<String>)> = Vec::new();
    for process in &processes {
        let name = process.get_name();
        for (heading, args) in options_by_heading(process) {
            let text = format_table(&HEADS, &args.into_iter().map(option_row).collect::<Vec<_>>());
            match shared.iter_mut().find(|(other, same, _)| other == heading && *same == text) {
                Some((_, _, names)) => names.push(code_span(name)),
                None => shared.push((heading.to_owned(), text, vec![code_span(name)])),
            }
        }
    }
    let mut common = String::new();
    for (heading, text, names) in shared {
        match names.as_slice() {
            [name] if heading.is_empty() => own += &format!("## {name}\n\n{text}\n"),
            [name] => own += &format!("### {name}: {heading}\n\n{text}\n"),
            names => common += &format!("## {heading}\n\nFor {}.\n\n{text}\n", names.join(", ")),
        }
    }
    format!(
        "{own}{common}## Cluster settings\n\n{}\n## Variables of `picket`\n\nCommands that read a variable take its \
         option too.\n\n{}",
        cluster_settings(),
        operator_variables(picket)
    )
}

fn option_row(arg: &Arg) -> Vec<String> {
    let (default, help) = default_and_help(arg);
    vec![
        variable_name(arg).map(|name| code_span(&name)).unwrap_or_default(),
        code_span(&option_usage(arg)),
        default,
        help,
    ]
}

/// The settings that all processes read from the database.
fn cluster_settings() -> String {
    let rows: Vec<_> = SETTINGS
        .iter()
        .map(|setting| {
            let default = setting.default.as_ref().map(ToString::to_string).filter(|text| !text.is_empty());
            vec![
                code_span(setting.name),
                default.map(|text| code_span(&text)).unwrap_or_default(),
                setting.kind.allowed(),
                format!("{}.", setting.meaning),
            ]
        })
        .collect();
    format_table(&["Setting", "Default", "Allowed", "Meaning"], &rows)
}

/// Each variable that a command of `picket` reads, and these commands.
fn operator_variables(mut picket: Command) -> String {
    fn collect_variables(command: &Command, variables: &mut BTreeMap<String, (String, Vec<String>)>) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(variable) = variable_name(arg) {
                let (_, commands) =
                    variables.entry(variable).or_insert_with(|| (code_span(&option_usage(arg)), Vec::new()));
                commands.push(code_span(command.get_bin_name().unwrap_or(command.get_name())));
            }
        }
        let subcommands =
            command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        subcommands.for_each(|sub| collect_variables(sub, variables));
    }

    picket.build();
    let mut variables = BTreeMap::new();
    collect_variables(&picket, &mut variables);
    let rows: Vec<_> = variables
        .into_iter()
        .map(|(variable, (option, commands))| vec![code_span(&variable), option, commands.join(", ")])
        .collect();
    format_table(&["Variable", "Option", "Commands"], &rows)
}
