//! Tables of what channels were or are to be told.

use picket_store::notifications::ListedNotice;

use super::list_page::{Cell, TableView};

/// Which notices a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoticeTable {
    /// Those of a notification, which goes to one channel.
    OfNotification,
    /// Those of an incident; whether the reader may open the pages of channels.
    OfIncident { sees_all: bool },
}

/// What channels were told of.
pub(super) fn tabulate_notices(title: &str, notices: &[ListedNotice], of: NoticeTable) -> TableView {
    let mut columns =
        vec!["State", "Event", "Recorded (UTC)", "Site", "Route", "Ended (UTC)", "Why, or what for"];
    if of != NoticeTable::OfNotification {
        columns.insert(1, "Channel");
    }
    TableView::new("notices", title, &columns).with_rows(notices.iter().map(|notice| {
        let event = match (notice.step.as_str(), notice.number) {
            ("event", _) => notice.event.clone(),
            (step, number) => format!("{step} {number} of {}", notice.event),
        };
        let event = match notice.incident_id {
            Some(id) if of == NoticeTable::OfNotification => Cell::Link(event, format!("/incidents/{id}")),
            _ => Cell::text(event),
        };
        let state = match &notice.notification_id {
            Some(id) if of != NoticeTable::OfNotification => {
                Cell::Link(notice.state.clone(), format!("/notifications/{id}"))
            }
            _ => Cell::text(&notice.state),
        };
        let mut row = vec![
            state,
            event,
            Cell::time(Some(notice.recorded_at.0)),
            Cell::text(notice.site.as_deref().unwrap_or("–")),
            Cell::text(notice.route.as_deref().unwrap_or("–")),
            Cell::time(notice.ended_at.map(|at| at.0)),
            Cell::text(notice.reason.as_deref().unwrap_or("–")),
        ];
        if let NoticeTable::OfIncident { sees_all } = of {
            row.insert(1, link_channel(&notice.channel, sees_all));
        }
        row
    }))
}

/// A channel, as a link for readers who may open its page. One that was removed has none to open.
pub(super) fn link_channel(name: &str, sees_all: bool) -> Cell {
    match sees_all {
        true => Cell::Link(name.to_owned(), format!("/channels/{name}")),
        false => Cell::text(name),
    }
}
