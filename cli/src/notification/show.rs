//! `picket notification show`: a message with its attempts and what it tells.

use picket_store::{
    Store,
    notifications::{self, ListedAttempt, ListedNotice, ListedNotification, NoticesOf, NotificationFilter},
};
use serde::Serialize;
use uuid::Uuid;

use super::{NoticeColumns, notice_table, unknown_notification};
use crate::{
    error::Error,
    output::{
        OutputFormat, OutputOptions, TextTable, print_coloured, print_data, status_cell, text_cell,
        to_pretty_json,
    },
    site::format_timestamp,
};

/// Maximum number of shown notices; JSON has as many.
const MAX_NOTICES: i64 = 1_000;

/// A notification as JSON.
#[derive(Serialize)]
struct NotificationDetails {
    #[serde(flatten)]
    notification: ListedNotification,
    deliveries: Vec<ListedAttempt>,
    notices: Vec<ListedNotice>,
}

pub(super) async fn show_notification(store: &Store, id: Uuid, output: OutputOptions) -> Result<(), Error> {
    let filter = NotificationFilter { id: Some(id), ..NotificationFilter::default() };
    let notification = notifications::list_notifications(store, filter)
        .await?
        .pop()
        .ok_or_else(|| unknown_notification(id))?;
    let details = NotificationDetails {
        notification,
        deliveries: notifications::list_attempts(store, id).await?,
        notices: notifications::list_notices(store, NoticesOf::Notification(id), MAX_NOTICES).await?,
    };
    if output.output == OutputFormat::Json {
        return print_data(&to_pretty_json(&[details]));
    }
    let row = &details.notification;
    let mut lines = TextTable::new(["NOTIFICATION", &row.notification_id], "");
    lines.add_row([text_cell("state"), status_cell(&row.state)]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.add_row([text_cell(name), text_cell(value)]);
        }
    };
    add("channel", Some(row.channel.clone()));
    add("purpose", Some(row.purpose.clone()));
    add("reason", row.reason.clone());
    add("title", row.title.clone());
    add("created", format_timestamp(Some(row.created_at.into())));
    add("ended", format_timestamp(row.ended_at.map(Into::into)));
    add("next attempt", format_timestamp(row.next_attempt_at.map(Into::into)));
    let notices = match row.purpose.as_str() {
        "test" => String::new(),
        _ => format!(
            "\n{}",
            notice_table(&details.notices, NoticeColumns::OfNotification, "it tells of nothing any more")
        ),
    };
    print_coloured(&format!("{lines}\n{}{notices}", attempt_table(&details.deliveries)))
}

fn attempt_table(attempts: &[ListedAttempt]) -> TextTable {
    let columns = ["ATTEMPT", "STARTED", "ENDED", "OUTCOME", "STATUS", "ANSWER", "NOTIFIER"];
    let mut listing = TextTable::new(columns, "no attempt yet").align_right([0, 4]);
    for attempt in attempts {
        listing.add_row([
            text_cell(i64::from(attempt.number)),
            text_cell(format_timestamp(Some(attempt.started_at.into()))),
            text_cell(format_timestamp(attempt.ended_at.map(Into::into))),
            status_cell(&attempt.outcome),
            text_cell(attempt.status.map(i64::from)),
            text_cell(attempt.message.clone()),
            text_cell(&attempt.notifier),
        ]);
    }
    listing
}
