//! `picket notification`: messages to channels, their attempts, and another try.

mod notices;
mod number;
mod show;

use clap::{ArgGroup, ArgMatches, Args, Subcommand};
use picket_runtime::{clock, options::DurationArg};
use picket_store::{
    Store,
    notifications::{self, ListedNotification, NotificationFilter, RetrySelection},
};
use uuid::Uuid;

pub(crate) use self::notices::{NoticeColumns, notice_table};
use self::{
    notices::ListNoticesOptions,
    number::{NumberArg, shorten_number},
};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
    site::format_timestamp,
};

/// Options of `picket notification`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NotificationCommand {
    /// List notifications, newest first
    #[command(after_help = "\
Examples:
  picket notification list --channel ops
  picket notification list --state failed --since 7d")]
    List(ListNotificationsOptions),
    /// Show a notification with its attempts and with what it tells
    #[command(after_help = "\
Example:
  picket notification show 6c7d8e9fa0b1")]
    Show(ShowNotificationOptions),
    /// List what channels were or are to be told, also what was suppressed: the rows behind the ledger
    #[command(after_help = "\
A notice is what one channel is to be told of one event; STATE is waiting, delivered, suppressed or failed, with the \
reason. With the same --since as 'picket ledger --notifications', these are the rows behind its numbers.

Examples:
  picket notification notices --since 24h --channel ops --state suppressed
  picket notification notices --since 24h --channel ops --reason brief
  picket notification notices --since 7d --step escalation")]
    Notices(ListNoticesOptions),
    /// Have failed notifications tried once more, now
    #[command(after_help = "\
What is said is composed anew from what is true now.

Examples:
  picket notification retry 6c7d8e9fa0b1
  picket notification retry --channel ops --since 3h")]
    Retry(RetryOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListNotificationsOptions {
    /// Only of this channel
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only in this state: waiting, delivered, failed or superseded
    #[arg(long, value_name = "STATE", value_parser = ["waiting", "delivered", "failed", "superseded"])]
    state: Option<String>,
    /// Only those made within this time, such as 7d
    #[arg(long, value_name = "DURATION")]
    since: Option<DurationArg>,
    /// Maximum number of notifications, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowNotificationOptions {
    /// Number of the notification, or its last digits as listed
    id: NumberArg,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("scope").required(true).args(["id", "channel"])))]
pub(crate) struct RetryOptions {
    /// Number of the notification, or its last digits as listed
    id: Option<NumberArg>,
    /// Channel whose failed notifications are tried
    #[arg(long, value_name = "CHANNEL", requires = "since")]
    channel: Option<String>,
    /// Only those that failed within this time, such as 3h
    #[arg(long, value_name = "DURATION", requires = "channel")]
    since: Option<DurationArg>,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(command: NotificationCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        NotificationCommand::List(options) => list_notifications(options, matches).await,
        NotificationCommand::Show(options) => {
            let store = options.database.connect(matches).await?;
            let id = options.id.find_number(&store).await?;
            show::show_notification(&store, id, options.output).await
        }
        NotificationCommand::Notices(options) => notices::list_notices(options, matches).await,
        NotificationCommand::Retry(options) => retry(options, matches).await,
    }
}

async fn list_notifications(options: ListNotificationsOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let filter = NotificationFilter {
        channel: options.channel.as_deref(),
        state: options.state.as_deref(),
        from: options.since.map(|since| clock::wall_clock_now().saturating_sub(since.0)),
        limit: Some(options.limit),
        ..NotificationFilter::default()
    };
    let rows = notifications::list_notifications(&store, filter).await?;
    if rows.is_empty() {
        require_channel(&store, options.channel.as_deref()).await?;
    }
    options.output.print_rows(&rows, |rows| {
        let columns = ["ID", "CREATED", "CHANNEL", "STATE", "ANSWER", "TITLE"];
        let empty = "no notifications; what no message was sent about: picket notification notices";
        let mut listing = TextTable::new(columns, empty).keep_whole([0]);
        for row in rows {
            listing.add_row([
                text_cell(shorten_number(&row.notification_id)),
                text_cell(format_timestamp(Some(row.created_at.into()))),
                text_cell(&row.channel),
                status_cell(&describe_state(row)),
                text_cell(describe_answer(row)),
                text_cell(row.title.as_ref().unwrap_or(&row.purpose)),
            ]);
        }
        listing
    })
}

/// The state, and the number of attempts unless a single one was enough.
fn describe_state(row: &ListedNotification) -> String {
    match (row.state.as_str(), row.attempts) {
        (state, 0) | (state @ "delivered", 1) => state.to_owned(),
        (state, 1) => format!("{state}, 1 attempt"),
        (state, attempts) => format!("{state}, {attempts} attempts"),
    }
}

/// The receiver's last answer, or why there was none.
fn describe_answer(row: &ListedNotification) -> Option<String> {
    let status = row.last_status.map(|status| status.to_string());
    let words = row.last_message.clone().filter(|words| !words.is_empty());
    let answer: Vec<String> = status.into_iter().chain(words).collect();
    if answer.is_empty() { row.reason.clone() } else { Some(answer.join(" ")) }
}

async fn retry(options: RetryOptions, matches: &ArgMatches) -> Result<(), Error> {
    let RetryOptions { id, channel, since, database } = options;
    let store = database.connect(matches).await?;
    let since =
        clock::wall_clock_now().saturating_sub(since.map_or(std::time::Duration::ZERO, |since| since.0));
    let id = match id {
        Some(id) => Some(id.find_number(&store).await?),
        None => None,
    };
    let retried = match (id, &channel) {
        (Some(id), _) => notifications::retry_failed(&store, RetrySelection::One(id)).await?,
        (None, Some(channel)) => {
            require_channel(&store, Some(channel)).await?;
            notifications::retry_failed(&store, RetrySelection::Channel(channel, since)).await?
        }
        (None, None) => 0,
    };
    match (id, retried) {
        (Some(id), 0) => Err(refuse_retry(&store, id).await?),
        (None, 0) => print_text("nothing has failed in that time\n"),
        (_, some) => print_text(&format!("notifications that are tried once more, now: {some}\n")),
    }
}

/// Refuses an unknown, perhaps misspelt channel.
async fn require_channel(store: &Store, name: Option<&str>) -> Result<(), Error> {
    match name {
        Some(name) if picket_store::channels::find_channel(store, name).await?.is_none() => {
            Err(crate::channel::unknown_channel(store, name).await)
        }
        _ => Ok(()),
    }
}

/// Why a notification cannot be tried once more.
async fn refuse_retry(store: &Store, id: Uuid) -> Result<Error, Error> {
    let filter = NotificationFilter { id: Some(id), ..NotificationFilter::default() };
    let found = notifications::list_notifications(store, filter).await?;
    Ok(match found.first() {
        None => unknown_notification(id),
        Some(row) if row.purpose == "test" => Error::Usage(format!(
            "{id}: a test is not tried once more; send another one: picket channel test {}",
            row.channel
        )),
        Some(row) if row.state == "failed" => {
            Error::Usage(format!("{id}: its channel '{}' has been removed", row.channel))
        }
        Some(row) => Error::Usage(format!(
            "{id}: only a failed notification can be tried once more, and this one is {}",
            row.state
        )),
    })
}

fn unknown_notification(id: impl std::fmt::Display) -> Error {
    Error::Usage(format!("there is no notification {id}; see: picket notification list"))
}
