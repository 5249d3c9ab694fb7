//! `picket channel kinds`: the kinds, and the settings of each.

use clap::Args;
use picket_proto::{
    Audience, ChannelKind,
    channel_setting::{ChannelSetting, SettingDefault},
};
use serde::Serialize;

use super::parse_kind;
use crate::{
    error::Error,
    output::{OutputOptions, TextTable, text_cell},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct KindsOptions {
    /// List the settings of this kind
    #[arg(value_parser = parse_kind)]
    kind: Option<ChannelKind>,
    #[command(flatten)]
    output: OutputOptions,
}

/// A row of `picket channel kinds`.
#[derive(Serialize)]
struct KindRecord {
    kind: ChannelKind,
    /// Readers of the messages.
    told: &'static str,
    /// Names of the required settings.
    required: Vec<&'static str>,
    description: &'static str,
}

/// A row of `picket channel kinds KIND`.
#[derive(Serialize)]
struct SettingRecord {
    setting: &'static str,
    allowed: String,
    /// `required`, the default in words, or nothing.
    default: String,
    meaning: &'static str,
}

impl From<&ChannelSetting> for SettingRecord {
    fn from(setting: &ChannelSetting) -> Self {
        Self {
            setting: setting.name,
            allowed: setting.form.to_string(),
            default: match setting.default {
                SettingDefault::Required => "required".to_owned(),
                SettingDefault::Absent => String::new(),
                SettingDefault::Value(text) => text.to_owned(),
                SettingDefault::Described(words) => words.replace('`', ""),
            },
            meaning: setting.meaning,
        }
    }
}

/// Readers of a kind in words.
fn describe_audience(kind: ChannelKind) -> &'static str {
    match kind.audience() {
        Audience::People => "people: the present state, several sites in one message",
        Audience::Programs => "programs: each event, once and in order",
        Audience::Nobody => "nobody of incidents",
    }
}

/// Lists the kinds, or the settings of a kind.
pub(super) fn list_kinds(options: KindsOptions) -> Result<(), Error> {
    let KindsOptions { kind, output } = options;
    let Some(kind) = kind else {
        let records: Vec<KindRecord> = ChannelKind::ALL_KINDS.iter().copied().map(describe_kind).collect();
        return output.print_rows(&records, |records| {
            let mut listing = TextTable::new(["KIND", "TELLS", "NEEDS", "DESCRIPTION"], "");
            for record in records {
                listing.add_row([
                    text_cell(record.kind.as_str()),
                    text_cell(record.told.split(':').next().unwrap_or_default()),
                    text_cell(record.required.join(", ")),
                    text_cell(record.description),
                ]);
            }
            listing
        });
    };
    let records: Vec<SettingRecord> = kind.settings().map(SettingRecord::from).collect();
    output.print_rows(&records, |records| {
        let mut listing = TextTable::new(["SETTING", "DEFAULT", "ALLOWED", "MEANING"], "");
        for record in records {
            listing.add_row([
                text_cell(record.setting),
                text_cell(&record.default),
                text_cell(&record.allowed),
                text_cell(record.meaning),
            ]);
        }
        listing
    })
}

fn describe_kind(kind: ChannelKind) -> KindRecord {
    let required = kind.settings().filter(|setting| setting.default == SettingDefault::Required);
    KindRecord {
        kind,
        told: describe_audience(kind),
        required: required.map(|setting| setting.name).collect(),
        description: kind.description(),
    }
}
