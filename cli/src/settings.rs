//! `picket settings`: the cluster settings, and their options of `picket migrate` and `picket up`.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use picket_store::{
    Store,
    settings::{
        SETTINGS, SettingDefinition, SettingKind, SettingValue, count_interval_problems,
        given_retired_variables, read_settings, update_settings,
    },
};
use serde::Serialize;

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_error, print_text, text_cell},
};

/// Commands of `picket settings`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SettingsCommand {
    /// List all settings with value, default and meaning
    List(ListSettingsOptions),
    /// Print the value of a setting
    Get(GetSettingOptions),
    /// Change a setting; all processes follow within 2 s
    #[command(after_help = "\
Durations are typed as 30s or 5m, sizes as 8GiB. A change of min_interval or max_interval judges all sites again: a site \
outside of the range gets a problem and is not checked, until the range includes it again.

Examples:
  picket settings set min_interval 1s
  picket settings set stream_replicas 3")]
    Set(SetSettingOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListSettingsOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GetSettingOptions {
    /// Name of the setting, as 'picket settings list' shows it
    name: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetSettingOptions {
    /// Name of the setting, as 'picket settings list' shows it
    name: String,
    /// New value, such as 15, 30s, 8GiB or true
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Serialize)]
struct SettingRecord {
    name: &'static str,
    value: String,
    default: Option<String>,
    allowed: String,
    meaning: &'static str,
}

pub(crate) async fn run(command: SettingsCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        SettingsCommand::List(ListSettingsOptions { output, database }) => {
            let settings = read_settings(&database.connect(matches).await?).await?;
            let record = |definition: &SettingDefinition| SettingRecord {
                name: definition.name,
                value: (definition.read)(&settings).to_string(),
                default: definition.default.as_ref().map(SettingValue::to_string),
                allowed: definition.kind.allowed(),
                meaning: definition.meaning,
            };
            let records: Vec<SettingRecord> = SETTINGS.iter().map(record).collect();
            output.print_rows(&records, |records| {
                let mut listing = TextTable::new(["NAME", "VALUE", "DEFAULT", "MEANING"], "no settings");
                for record in records {
                    listing.add_row([
                        text_cell(record.name),
                        text_cell(&record.value),
                        text_cell(record.default.as_deref().unwrap_or_default()),
                        text_cell(record.meaning),
                    ]);
                }
                listing
            })
        }
        SettingsCommand::Get(GetSettingOptions { name, database }) => {
            let definition = SettingDefinition::find(&name)?;
            let settings = read_settings(&database.connect(matches).await?).await?;
            print_text(&format!("{}\n", (definition.read)(&settings)))
        }
        SettingsCommand::Set(SetSettingOptions { name, value, database }) => {
            let definition = SettingDefinition::find(&name)?;
            let value = definition.parse(&value)?;
            let store = database.connect(matches).await?;
            let changed = change_settings(&store, &[(definition.name, value.clone())]).await?;
            print_text(&match changed.is_empty() {
                true => format!("{name} is '{value}' already; nothing was changed\n"),
                false => format!("{}\nprocesses follow within 2 s\n", changed.join("\n")),
            })
        }
    }
}

/// Changes settings; returns a line of text for each that had another value, and for what follows.
async fn change_settings(
    store: &Store,
    changes: &[(&'static str, SettingValue)],
) -> Result<Vec<String>, Error> {
    let before = read_settings(store).await?;
    let changed = update_settings(store, changes).await?;
    let mut lines = Vec::new();
    for (name, value) in changes {
        if let Some(definition) = changed.iter().find(|definition| definition.name == *name) {
            lines.push(format!("{name}: '{}' → '{value}'", (definition.read)(&before)));
        }
    }
    if changed.iter().any(|definition| matches!(definition.kind, SettingKind::Seconds(..))) {
        let refused = count_interval_problems(store).await?;
        if refused > 0 {
            lines.push(format!("{refused} sites have an interval outside of the range and are not checked"));
        }
    }
    Ok(lines)
}

/// Settings given as options or variables of `picket migrate` and `picket up`.
#[derive(Clone, Debug, Default)]
pub(crate) struct InitialSettings(Vec<(&'static str, SettingValue)>);

impl InitialSettings {
    /// Sets the given settings, also in an existing database; returns a line for each change.
    pub(crate) async fn apply(&self, store: &Store) -> Result<Vec<String>, Error> {
        // A variable that another one has replaced would otherwise be without effect silently.
        for (variable, command) in given_retired_variables() {
            if !SETTINGS.iter().any(|definition| definition.variable == variable) {
                print_error(format_args!("WARNING: {variable} is ignored; run: {command}"));
            }
        }
        match self.0.is_empty() {
            true => Ok(Vec::new()),
            false => change_settings(store, &self.0).await,
        }
    }
}

impl Args for InitialSettings {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, definition| {
            let Some(option) = definition.option else { return command };
            let value_name = match definition.kind {
                SettingKind::Number(..) => "N",
                SettingKind::Duration(..) | SettingKind::Seconds(..) => "DURATION",
                SettingKind::Bytes(..) => "SIZE",
                SettingKind::Flag | SettingKind::Url | SettingKind::Fixed => "TEXT",
            };
            let parse = |text: &str| {
                definition.parse(text).map_err(|refusal| format!("allowed: {}", refusal.expected))
            };
            let default = definition.default.as_ref().map(SettingValue::to_string).unwrap_or_default();
            let default = if default.is_empty() { default } else { format!(" [new database: {default}]") };
            command.arg(
                Arg::new(definition.name)
                    .long(option)
                    .env(definition.variable)
                    .value_name(value_name)
                    .value_parser(parse)
                    .help_heading("Settings of the database (later: picket settings set)")
                    .help(format!("{}{default}", definition.meaning)),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for InitialSettings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |definition: &'static SettingDefinition| {
            let value = matches.try_get_one::<SettingValue>(definition.name).ok().flatten()?;
            Some((definition.name, value.clone()))
        };
        Ok(Self(SETTINGS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
