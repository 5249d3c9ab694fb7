//! docs/reference/channels.md: kinds of channels, their settings, templates and retries.

use std::time::Duration;

use picket_notifier::{
    channel::{default_pace, exec::EXEC_VARIABLES},
    retry_waits,
    template::reference::{
        COUNT_VARIABLES, EVENT_VARIABLES, ITEM_VARIABLES, MESSAGE_VARIABLES, TEMPLATE_EXAMPLES,
        TemplateVariable,
    },
};
use picket_proto::{
    Audience, ChannelKind,
    channel_setting::{ChannelSetting, SettingDefault},
    duration::{DurationArg, describe_duration},
};

use super::markdown::{code_span, end_sentence, format_table};

/// An overview, a section for each kind, and the variables of templates and programs.
pub(super) fn generate() -> String {
    let overview: Vec<_> = ChannelKind::ALL_KINDS.iter().map(|kind| kind_row(*kind)).collect();
    let mut text = format_table(&["Kind", "Tells", "Pace", "Purpose"], &overview);
    for kind in ChannelKind::ALL_KINDS {
        let rows: Vec<_> = kind.settings().map(setting_row).collect();
        text += &format!(
            "\n## {}\n\n{}\n\n{}",
            code_span(kind.as_str()),
            end_sentence(kind.description()),
            format_table(&["Setting", "Default", "Allowed", "Meaning"], &rows)
        );
    }
    text += "\n## Template variables\n\n";
    for (title, variables) in [
        ("", MESSAGE_VARIABLES),
        ("Fields of each of `items`:", ITEM_VARIABLES),
        ("Fields of `event`:", EVENT_VARIABLES),
        ("Fields of `counts`:", COUNT_VARIABLES),
    ] {
        if !title.is_empty() {
            text += &format!("\n{title}\n\n");
        }
        let rows: Vec<_> = variables.iter().map(variable_row).collect();
        text += &format_table(&["Variable", "Type", "Meaning"], &rows);
    }
    let examples = TEMPLATE_EXAMPLES.iter().map(|example| {
        let place = if example.is_json { "body of a webhook" } else { "others" };
        vec![code_span(example.source), place.to_owned(), code_span(example.printed)]
    });
    text += &format!(
        "\n## Template examples\n\n{}",
        format_table(&["Template", "In", "Prints"], &examples.collect::<Vec<_>>())
    );
    let variables = EXEC_VARIABLES.iter().map(|(name, meaning)| vec![code_span(name), to_sentence(meaning)]);
    text += &format!(
        "\n## Variables of a program\n\n{}",
        format_table(&["Variable", "Value"], &variables.collect::<Vec<_>>())
    );
    let waits = [("people", Audience::People), ("programs", Audience::Programs)].map(|(words, audience)| {
        let waits: Vec<_> = retry_waits(audience).iter().map(|wait| describe_duration(*wait)).collect();
        vec![words.to_owned(), waits.join(", ")]
    });
    text += &format!("\n## Waits between attempts\n\n{}", format_table(&["Kinds for", "Waits"], &waits));
    text
}

fn kind_row(kind: ChannelKind) -> Vec<String> {
    let name = code_span(kind.as_str());
    let told = match kind.audience() {
        Audience::People => "people",
        Audience::Programs => "programs",
        Audience::Nobody => "nobody",
    };
    let pace = match default_pace(kind) {
        Duration::ZERO => "none".to_owned(),
        pace => DurationArg(pace).to_string(),
    };
    vec![format!("[{name}](#{kind})"), told.to_owned(), pace, end_sentence(kind.description())]
}

fn setting_row(setting: &ChannelSetting) -> Vec<String> {
    let default = match setting.default {
        SettingDefault::Required => "required".to_owned(),
        SettingDefault::Absent => String::new(),
        SettingDefault::Value(text) => code_span(text),
        SettingDefault::Described(words) => words.to_owned(),
    };
    let allowed = setting.form.to_string().replace("{\"secret\": NAME}", "`{\"secret\": NAME}`");
    vec![code_span(setting.name), default, allowed, to_sentence(setting.meaning)]
}

fn variable_row(variable: &TemplateVariable) -> Vec<String> {
    let form = match variable.is_optional {
        true => format!("{}, or none", variable.form.as_str()),
        false => variable.form.as_str().to_owned(),
    };
    vec![code_span(variable.name), form, to_sentence(variable.meaning)]
}

/// A part of a sentence as a whole one.
fn to_sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    end_sentence(&format!("{first}{}", letters.as_str()))
}
