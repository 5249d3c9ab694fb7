//! The command `picket-prober secrets check`: prints the names and the hosts of the secrets file,
//! and never a value.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use picket_runtime::{
    Secrets, process,
    secrets::{EntryKind, SecretSummary},
};
use serde_json::json;

use crate::options::SecretsOptions;

/// Arguments of `picket-prober secrets`. A parser of its own, since the options of a prober require
/// a region.
#[derive(Parser, Clone, Debug)]
#[command(name = "picket-prober", version, max_term_width = 110)]
pub struct SecretsArgs {
    #[command(subcommand)]
    command: ProberCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum ProberCommand {
    /// Secrets of checks
    #[command(subcommand)]
    Secrets(SecretsCommand),
}

#[derive(Subcommand, Clone, Debug)]
enum SecretsCommand {
    /// Load the secrets file as a prober does, and print names and hosts, without values. Exit
    /// codes: 0 usable, 1 refused, 2 no file
    Check {
        #[command(flatten)]
        options: SecretsOptions,
        /// Format of the output
        #[arg(long, short, value_name = "FORMAT", default_value = "text")]
        output: OutputFormat,
    },
}

/// Formats of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// An array of objects.
    Json,
}

impl SecretsArgs {
    /// The arguments of the process if they are of this command.
    pub fn from_process() -> Option<Self> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let is_command = arguments.get(1).is_some_and(|word| word == "secrets");
        is_command.then(|| Self::parse_from(arguments))
    }

    /// Runs the command.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "the output of a command")]
    pub fn run_command(self) -> ExitCode {
        let ProberCommand::Secrets(SecretsCommand::Check { options, output }) = self.command;
        let secrets = match Secrets::load_or_none(options.secrets_file.as_deref()) {
            Ok(secrets) => secrets,
            Err(why) => {
                eprintln!("picket-prober: {why}");
                return ExitCode::from(process::EXIT_NEGATIVE);
            }
        };
        if !secrets.has_file() {
            eprintln!("picket-prober: no secrets file; name one with --secrets-file or PICKET_SECRETS_FILE");
            return ExitCode::from(process::EXIT_USAGE);
        }
        let entries = secrets.summaries();
        match output {
            OutputFormat::Text => print!("{}", format_text(&entries)),
            OutputFormat::Json => println!("{}", format_json(&entries)),
        }
        ExitCode::SUCCESS
    }
}

fn format_text(entries: &[SecretSummary]) -> String {
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for entry in entries {
        let hosts = match (entry.kind, entry.hosts.is_empty()) {
            (EntryKind::Secret, true) => "no hosts, so no check may use it".to_owned(),
            _ => entry.hosts.join(", "),
        };
        let insecure = if entry.insecure { " (insecure)" } else { "" };
        let line = format!("{:<6}  {:<width$}  {hosts}{insecure}", entry.kind.as_str(), entry.name);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn format_json(entries: &[SecretSummary]) -> String {
    let entries = entries.iter().map(|entry| {
        json!({"kind": entry.kind.as_str(), "name": entry.name, "hosts": entry.hosts, "insecure": entry.insecure})
    });
    serde_json::Value::from_iter(entries).to_string()
}
