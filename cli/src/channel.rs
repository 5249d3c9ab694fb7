//! `picket channel`: destinations of notifications.

mod kinds;
mod record;
mod settings;
mod test;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{ChannelKind, channel_definition::ChannelDefinition};
use picket_runtime::options::DurationArg;
use picket_store::{Store, channels};

use self::{kinds::KindsOptions, record::ChannelRecord, settings::SettingArgs, test::TestChannelOptions};
pub(crate) use self::{record::format_setting, settings::validate_settings};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    notifier::warn_without_notifier,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
    site::format_timestamp,
};

/// Options of `picket channel`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ChannelCommand {
    /// Add a channel
    #[command(after_help = "\
A credential is never given here: 'secret:NAME' names an entry of the file that PICKET_SECRETS_FILE of the notifiers \
names, which also says to which hosts it may be sent. A channel is told of what its routes name: picket route add.
The settings of a kind, with their meanings: picket channel kinds KIND (docs/reference/channels.md).

Examples:
  picket channel add ops --kind slack --url secret:slack-ops
  picket channel add desk --kind email --to desk@example.com --set host=mail.example.com --set from=picket@example.com
  picket channel add bot --kind telegram --set token=secret:telegram-bot --set chat_id=-100123
  picket channel add hook --kind webhook --url https://hooks.example.com/picket --set headers.X-Key=secret:hook-key
  picket channel add chat --kind webhook --url secret:chat --set body='{\"text\": {{ title }}}'")]
    Add(Box<AddChannelOptions>),
    /// List the kinds of channels, or the settings of a kind
    #[command(after_help = "\
Examples:
  picket channel kinds
  picket channel kinds email")]
    Kinds(KindsOptions),
    /// List all channels, with what waits for them and whether they deliver
    #[command(after_help = "\
STATE is new (nothing delivered yet), delivers, retrying, failing (other channels are told), problem (until its \
definition is changed) or paused. WAITING counts events that the channel is still to be told.

Examples:
  picket channel list
  picket channel list --output json")]
    List(ListChannelsOptions),
    /// Show a channel with its settings and its state
    #[command(after_help = "\
Example:
  picket channel show ops")]
    Show(ShowChannelOptions),
    /// Change the given fields of a channel; what waits for it is tried at once
    #[command(after_help = "\
Examples:
  picket channel set ops --url secret:slack-ops-2
  picket channel set desk --set port=465 --set reply_to=       (removes reply_to)")]
    Set(Box<SetChannelOptions>),
    /// Send a message marked TEST, wait, and print the receiver's answer
    #[command(after_help = "\
The message takes the way of every notification, also through a paused channel. Exit code 0 if the receiver has \
accepted it, 1 if not, 3 if no notifier runs or nothing happened in time.

Examples:
  picket channel test ops
  picket channel test ops --timeout 60s --output json")]
    Test(TestChannelOptions),
    /// Pause a channel: it is told of nothing until it is resumed, and then of what is true
    #[command(after_help = "\
Example:
  picket channel pause ops")]
    Pause(ChannelSelector),
    /// Resume a paused channel
    #[command(after_help = "\
Example:
  picket channel resume ops")]
    Resume(ChannelSelector),
    /// Remove a channel that no route names; what waits for it is suppressed
    #[command(after_help = "\
Example:
  picket channel remove ops")]
    Remove(ChannelSelector),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddChannelOptions {
    /// Name of the channel: lower-case letters, digits, dashes, dots and underscores
    name: String,
    /// What the channel speaks, such as slack, email or webhook
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: ChannelKind,
    #[command(flatten)]
    fields: ChannelFieldArgs,
    /// Add the channel paused
    #[arg(long)]
    paused: bool,
    /// Tell the channel once of what is open now and concerns it; refused if no route names the channel
    #[arg(long)]
    catch_up: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetChannelOptions {
    /// Name of the channel
    name: String,
    #[command(flatten)]
    fields: ChannelFieldArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Fields of a channel. A given option replaces the value of its field.
#[derive(Args, Clone, Debug)]
struct ChannelFieldArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Least time between two messages, up to 1h [default: the kind's own]
    #[arg(long, value_name = "DURATION")]
    pace: Option<DurationArg>,
    /// Do not tell the channel of ends
    #[arg(long, overrides_with = "closed")]
    no_closed: bool,
    /// Tell the channel of ends (the default)
    #[arg(long, overrides_with = "no_closed")]
    closed: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListChannelsOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowChannelOptions {
    /// Name of the channel
    name: String,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ChannelSelector {
    /// Name of the channel
    name: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

fn parse_kind(text: &str) -> Result<ChannelKind, String> {
    text.parse().map_err(|why: picket_proto::ValidationError| why.expected)
}

/// Runs the command. The exit code is 1 if a test message was not accepted.
pub(crate) async fn run(command: ChannelCommand, matches: &ArgMatches) -> Result<u8, Error> {
    let done = match command {
        ChannelCommand::Test(options) => return test::test_channel(options, matches).await,
        ChannelCommand::Add(options) => add_channel(*options, matches).await,
        ChannelCommand::Kinds(options) => kinds::list_kinds(options),
        ChannelCommand::List(options) => list_channels(options, matches).await,
        ChannelCommand::Show(options) => {
            let store = options.database.connect(matches).await?;
            let channel = find_channel(&store, &options.name).await?;
            record::show_channel(&channel, options.output)?;
            warn_without_notifier(&store).await
        }
        ChannelCommand::Set(options) => set_channel(*options, matches).await,
        ChannelCommand::Pause(options) => set_enabled(options, false, matches).await,
        ChannelCommand::Resume(options) => set_enabled(options, true, matches).await,
        ChannelCommand::Remove(ChannelSelector { name, database }) => {
            let store = database.connect(matches).await?;
            match channels::remove_channel(&store, &name, None).await? {
                true => print_text(&format!("removed channel {name}\n")),
                false => Err(unknown_channel(&store, &name).await),
            }
        }
    };
    done.map(|()| 0)
}

impl ChannelFieldArgs {
    fn apply_to(&self, channel: &mut ChannelDefinition) -> Result<(), Error> {
        self.settings.apply_to(channel.kind, &mut channel.settings)?;
        if let Some(pace) = self.pace {
            channel.pace_ms = Some(pace.as_saturating_millis());
        }
        if self.no_closed || self.closed {
            channel.send_closed = !self.no_closed;
        }
        channel.validate()?;
        validate_settings(channel)?;
        Ok(())
    }
}

async fn add_channel(options: AddChannelOptions, matches: &ArgMatches) -> Result<(), Error> {
    let AddChannelOptions { name, kind, fields, paused, catch_up, database } = options;
    let mut channel = ChannelDefinition::new(&name, kind);
    channel.enabled = !paused;
    fields.apply_to(&mut channel)?;
    let store = database.connect(matches).await?;
    let routes = picket_store::routes::list_routes(&store).await?;
    let mut definitions = routes.iter().filter_map(|route| route.definition.as_ref().ok());
    let is_named = definitions.any(|route| route.named_channels().any(|named| named == name));
    if catch_up && !is_named {
        // Nothing would concern it, and the option would be forgotten when a route names it.
        return Err(Error::Usage(format!(
            "--catch-up: no route names the channel '{name}' yet, so that nothing concerns it; leave the option out, \
             and then: picket route add --channel {name} --catch-up"
        )));
    }
    let told = match catch_up {
        true => {
            let notices = channels::add_channel_with_catch_up(&store, &channel).await?;
            format!("it is told of what is open now: {notices}\n")
        }
        false => {
            channels::add_channel(&store, &channel).await?;
            String::new()
        }
    };
    let next = match is_named {
        true => format!("picket channel test {name}"),
        false => {
            format!("picket channel test {name}; picket route add --channel {name} (no route names it yet)")
        }
    };
    print_text(&format!("added channel {name} ({kind})\n{told}next: {next}\n"))?;
    warn_without_notifier(&store).await
}

async fn list_channels(options: ListChannelsOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let records: Vec<ChannelRecord> =
        channels::list_channels(&store).await?.iter().map(ChannelRecord::from).collect();
    options.output.print_rows(&records, |records| {
        let columns = ["NAME", "KIND", "STATE", "LAST DELIVERED", "WAITING", "OLDEST", "PROBLEM"];
        let mut listing = TextTable::new(
            columns,
            "no channels yet; add one: picket channel add ops --kind slack --url secret:slack-ops",
        )
        .align_right([4]);
        for record in records {
            let state = &record.state;
            listing.add_row([
                text_cell(&record.name),
                text_cell(&record.kind),
                status_cell(record.state_word),
                text_cell(format_timestamp(state.last_delivered_at.map(Into::into))),
                text_cell(state.waiting),
                text_cell(format_timestamp(state.oldest_waiting_at.map(Into::into))),
                text_cell(record.problem_text()),
            ]);
        }
        listing
    })?;
    warn_without_notifier(&store).await
}

async fn set_channel(options: SetChannelOptions, matches: &ArgMatches) -> Result<(), Error> {
    let SetChannelOptions { name, fields, database } = options;
    let store = database.connect(matches).await?;
    let stored = find_channel(&store, &name).await?;
    let before = stored.definition.clone()?;
    let mut after = before.clone();
    fields.apply_to(&mut after)?;
    if after == before {
        return print_text(&format!("channel {name} already has this definition; nothing was changed\n"));
    }
    write_channel(&store, &stored, &after).await?;
    print_text(&format!("changed channel {name}\nnext: picket channel test {name}\n"))
}

async fn set_enabled(options: ChannelSelector, enabled: bool, matches: &ArgMatches) -> Result<(), Error> {
    let ChannelSelector { name, database } = options;
    let store = database.connect(matches).await?;
    let stored = find_channel(&store, &name).await?;
    let mut channel = stored.definition.clone()?;
    let done = match enabled {
        true => "resumed",
        false => "paused",
    };
    if std::mem::replace(&mut channel.enabled, enabled) == enabled {
        return print_text(&format!("channel {name} was already {done}\n"));
    }
    write_channel(&store, &stored, &channel).await?;
    print_text(&format!("{done} channel {name}\n"))
}

/// Writes a definition in place of the one that was read.
async fn write_channel(
    store: &Store,
    stored: &channels::Channel,
    channel: &ChannelDefinition,
) -> Result<(), Error> {
    match channels::update_channel(store, channel, Some(&stored.version)).await? {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "channel {} was changed or removed by someone else meanwhile; nothing was changed",
            channel.name
        ))),
    }
}

/// Finds the channel with this name.
///
/// # Errors
/// [`Error::Usage`] with the names of all if there is no such channel.
async fn find_channel(store: &Store, name: &str) -> Result<channels::Channel, Error> {
    match channels::find_channel(store, name).await? {
        Some(channel) => Ok(channel),
        None => Err(unknown_channel(store, name).await),
    }
}

/// Refusal of an unknown channel.
pub(crate) async fn unknown_channel(store: &Store, name: &str) -> Error {
    let known = match channels::list_channels(store).await {
        Ok(known) => known,
        Err(error) => return error.into(),
    };
    let names: Vec<&str> = known.iter().map(|channel| channel.name.as_str()).collect();
    Error::Usage(match names.is_empty() {
        true => {
            format!("there is no channel '{name}', and no other; add one: picket channel add {name} --kind …")
        }
        false => format!("there is no channel '{name}'; there are: {}", names.join(", ")),
    })
}
