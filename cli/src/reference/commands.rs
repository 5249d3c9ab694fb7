//! docs/reference/cli.md: every command of `picket` with its arguments and options.

use std::collections::BTreeMap;

use clap::{Arg, Command};

use super::markdown::{
    code_span, default_and_help, end_sentence, format_table, option_usage, options_by_heading, variable_name,
};
use super::programs;

/// A heading and its table, as several commands have it.
type Group = (String, String);

/// A section for each command; a group of options that several commands take has one section of its own.
pub(super) fn generate() -> String {
    let [mut picket, ..] = programs();
    picket.build();
    let mut commands = Vec::new();
    collect_commands(&picket, &mut commands);

    let shared = shared_groups(&commands);
    let overview: Vec<_> = commands
        .iter()
        .map(|command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            vec![
                format!("[{}](#{})", code_span(command_name(command)), heading_anchor(command_name(command))),
                end_sentence(&about),
            ]
        })
        .collect();
    let mut text = format_table(&["Command", "Purpose"], &overview) + "\n";
    for command in &commands {
        text += &command_section(command, &shared);
    }
    for (heading, table) in shared {
        text += &format!("## Options: {heading}\n\n{table}\n");
    }
    text
}

/// For each heading the table that most commands have, if at least two have it.
fn shared_groups(commands: &[&Command]) -> BTreeMap<String, String> {
    let mut uses: BTreeMap<Group, usize> = BTreeMap::new();
    for group in commands.iter().flat_map(|command| named_groups(command)) {
        *uses.entry(group).or_default() += 1;
    }
    let mut by_use: Vec<_> = uses.into_iter().filter(|(_, count)| *count > 1).collect();
    by_use.sort_by_key(|(_, count)| *count);
    // The last one of a heading stays.
    by_use.into_iter().map(|(group, _)| group).collect()
}

/// Commands that do something themselves, in the order of `--help`.
fn collect_commands<'a>(command: &'a Command, commands: &mut Vec<&'a Command>) {
    let visible = |sub: &&Command| !sub.is_hide_set() && sub.get_name() != "help";
    if !command.has_subcommands() {
        commands.push(command);
    }
    command.get_subcommands().filter(visible).for_each(|sub| collect_commands(sub, commands));
}

fn command_name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

fn named_groups(command: &Command) -> Vec<Group> {
    options_by_heading(command)
        .into_iter()
        .filter(|(heading, _)| !heading.is_empty())
        .map(|(heading, args)| (heading.to_owned(), options_table(args)))
        .collect()
}

fn options_table(args: Vec<&Arg>) -> String {
    let rows: Vec<_> = args
        .into_iter()
        .map(|arg| {
            let (default, mut help) = default_and_help(arg);
            if let Some(variable) = variable_name(arg) {
                help = format!("{help} Variable {}.", code_span(&variable));
            }
            vec![code_span(&option_usage(arg)), default, help]
        })
        .collect();
    format_table(&["Option", "Default", "Description"], &rows)
}

fn command_section(command: &Command, shared: &BTreeMap<String, String>) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about: Vec<_> = about.split("\n\n").map(end_sentence).collect();
    let usage = command.clone().render_usage().to_string();
    let mut text = format!(
        "## {}\n\n{}\n\n```text\n{}\n```\n\n",
        code_span(command_name(command)),
        about.join("\n\n"),
        usage.trim_start_matches("Usage:").trim()
    );
    let mut links = Vec::new();
    for (heading, args) in options_by_heading(command) {
        let table = options_table(args);
        match shared.get(heading) {
            Some(same) if *same == table => {
                links.push(format!("[{heading}](#options-{})", heading_anchor(heading)))
            }
            _ if heading.is_empty() => text += &format!("{table}\n"),
            _ => text += &format!("{heading}:\n\n{table}\n"),
        }
    }
    if !links.is_empty() {
        text += &format!("Also the options of these groups: {}.\n\n", links.join("; "));
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        text += &format!("```text\n{}\n```\n\n", after.to_string().trim());
    }
    text
}

/// The fragment that a heading gets: small letters, digits and dashes.
fn heading_anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|&c| c.is_alphanumeric() || "- ".contains(c))
        .collect::<String>();
    kept.replace(' ', "-")
}
