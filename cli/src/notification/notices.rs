//! `picket notification notices`: what each channel was or is to be told.

use clap::{ArgMatches, Args};
use picket_runtime::{clock, options::DurationArg};
use picket_store::notifications::{self, ListedNotice, NoticeFilter};

use super::{number::shorten_number, require_channel};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, status_cell, text_cell},
    site::format_timestamp,
};

/// Options of `picket notification notices`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListNoticesOptions {
    /// Only of this channel
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only in this state: waiting, delivered, suppressed or failed
    #[arg(long, value_name = "STATE", value_parser = NoticeFilter::STATES)]
    state: Option<String>,
    /// Only with this reason, as the ledger names it, such as brief or silenced
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only of this step: event, reminder, escalation or calm
    #[arg(long, value_name = "STEP", value_parser = NoticeFilter::STEPS)]
    step: Option<String>,
    /// Only of this incident
    #[arg(long, value_name = "ID")]
    incident: Option<i64>,
    /// Only of events recorded within this time, such as 24h
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    since: DurationArg,
    /// Maximum number of notices, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn list_notices(options: ListNoticesOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let filter = NoticeFilter {
        incident: options.incident,
        channel: options.channel.as_deref(),
        state: options.state.as_deref(),
        reason: options.reason.as_deref(),
        step: options.step.as_deref(),
        from: Some(clock::wall_clock_now().saturating_sub(options.since.0)),
        newest_first: true,
        limit: options.limit,
        ..NoticeFilter::default()
    };
    let notices = notifications::list_selected_notices(&store, &filter).await?;
    if notices.is_empty() {
        require_channel(&store, options.channel.as_deref()).await?;
    }
    options.output.print_rows(&notices, |notices| {
        notice_table(notices, NoticeColumns::All, "no notices in that time; further back: --since 7d")
    })
}

/// Which columns a table of notices needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeColumns {
    /// Of any notices.
    All,
    /// Of those of an incident, which are about one site.
    OfIncident,
    /// Of those of a notification, which goes to one channel.
    OfNotification,
}

/// What channels were or are to be told.
pub(crate) fn notice_table(
    notices: &[ListedNotice],
    columns: NoticeColumns,
    empty: &'static str,
) -> TextTable {
    let has_site = columns != NoticeColumns::OfIncident;
    let has_channel = columns != NoticeColumns::OfNotification;
    let names = [
        ("RECORDED", true),
        ("EVENT", true),
        ("SITE", has_site),
        ("CHANNEL", has_channel),
        ("STATE", true),
        ("ENDED", true),
        ("NOTIFICATION", has_channel),
    ];
    let names = names.into_iter().filter(|(_, is_needed)| *is_needed).map(|(name, _)| name.to_owned());
    let names: Vec<String> = names.collect();
    let number = names.iter().position(|name| name == "NOTIFICATION").unwrap_or(usize::MAX);
    let mut listing = TextTable::with_columns(names.into_iter(), empty).keep_whole([number]);
    for notice in notices {
        let event = match (notice.step.as_str(), notice.number) {
            ("event", _) => notice.event.clone(),
            (step, number) => format!("{step} {number} of {}", notice.event),
        };
        let state = match &notice.reason {
            Some(reason) => format!("{}, {reason}", notice.state),
            None => notice.state.clone(),
        };
        let cells = [
            (text_cell(format_timestamp(Some(notice.recorded_at.into()))), true),
            (text_cell(event), true),
            (text_cell(notice.site.clone()), has_site),
            (text_cell(&notice.channel), has_channel),
            (status_cell(&state), true),
            (text_cell(format_timestamp(notice.ended_at.map(Into::into))), true),
            (text_cell(notice.notification_id.as_deref().map(shorten_number)), has_channel),
        ];
        listing.add_cells(cells.into_iter().filter(|(_, is_needed)| *is_needed).map(|(cell, _)| cell));
    }
    listing
}
