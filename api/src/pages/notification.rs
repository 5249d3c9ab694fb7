//! One message to a channel: its attempts, what it tells, and another try.

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_store::{
    DbTimestamp,
    notifications::{ListedAttempt, ListedNotification},
};
use uuid::Uuid;

use super::{
    PageError, Visitor,
    channels::describe_absence,
    frame::Section,
    input::PagePath,
    list_page::{Cell, FormView, ListPage, Tab, TableView},
    notices::{NoticeTable, link_channel, tabulate_notices},
    parts::Behind,
    render_page,
};
use crate::{
    access::Scope,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{find_notification, read_parts, retry},
};

/// Shows a message with its attempts and with its notices.
pub(super) async fn show_notification(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<String>,
) -> Result<Response, PageError> {
    let id = parse_number(&visitor, &id)?;
    let fail = |problem| visitor.fail(problem);
    let found = find_notification(&api, &visitor.access, id).await.map_err(fail)?;
    let (attempts, notices) = read_parts(&api, &visitor.access, id).await.map_err(fail)?;
    let title = found.title.clone().unwrap_or_else(|| format!("A message to {}", found.channel));
    let reason = found.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    let subline = format!("{} to {}: {}{reason}", found.purpose, found.channel, found.state);
    let mut page = ListPage::new(visitor.frame(title.clone(), Section::Notifications), title, subline);
    page.tabs = Tab::list("/notifications");
    page.warning = describe_absence(&visitor, &api).await?;
    if found.state == "failed" && found.purpose != "test" && visitor.access.allows(Scope::Write) {
        page.forms.push(FormView {
            name: "Try again",
            prefix: "retry",
            action: format!("/notifications/{id}/retry"),
            is_post: true,
            button: "Try again now",
            ..FormView::default()
        });
    }
    let sees_all = visitor.access.tag_limit().is_none();
    page.tables.push(tabulate_facts(&found, sees_all));
    page.tables.push(tabulate_attempts(&attempts).with_behind(Behind {
        sql: format!(
            "SELECT * FROM picket.delivery_attempts WHERE notification_id = '{id}' ORDER BY number;"
        ),
        command: format!("picket notification show {id}"),
        curl: format!("curl {}/api/v1/notifications/{id}", api.public_url()),
    }));
    let told = tabulate_notices("What it tells", &notices, NoticeTable::OfNotification)
        .with_empty("Nothing any more: what it was to tell was told otherwise, or is suppressed.", "");
    page.tables.push(told.with_behind(Behind {
        sql: format!("SELECT * FROM picket.notices WHERE notification_id = '{id}';"),
        ..Behind::default()
    }));
    Ok(render_page(&page))
}

/// Has a failed message tried once more.
pub(super) async fn retry_notification(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<String>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let id = parse_number(&visitor, &id)?;
    retry(&api, &visitor.access, id).await.map_err(|problem| visitor.fail(problem))?;
    Ok(Redirect::to(&format!("/notifications/{id}")).into_response())
}

fn parse_number(visitor: &Visitor, id: &str) -> Result<Uuid, PageError> {
    let missing = || Problem::new(ProblemKind::NotFound, "There is no notification with this number.");
    Uuid::parse_str(id).map_err(|_| visitor.fail(missing()))
}

fn tabulate_attempts(attempts: &[ListedAttempt]) -> TableView {
    let columns = ["#Attempt", "Outcome", "Began (UTC)", "Ended (UTC)", "#Status", "Answer", "Notifier"];
    let mut unknown = false;
    let rows: Vec<Vec<Cell>> = attempts
        .iter()
        .map(|attempt| {
            let is_again = unknown;
            unknown |= attempt.outcome == "unknown";
            let outcome =
                if is_again { format!("{}, sent again", attempt.outcome) } else { attempt.outcome.clone() };
            let unknown_end = "the receiver may have the message";
            let answer = match (attempt.outcome.as_str(), &attempt.message) {
                ("unknown", None) => unknown_end,
                (_, message) => message.as_deref().unwrap_or("–"),
            };
            vec![
                Cell::text(attempt.number),
                Cell::text(outcome),
                Cell::time(Some(attempt.started_at.0)),
                Cell::time(attempt.ended_at.map(|at| at.0)),
                Cell::text(attempt.status.map_or_else(|| "–".to_owned(), |status| status.to_string())),
                Cell::text(answer),
                Cell::text(&attempt.notifier),
            ]
        })
        .collect();
    TableView::new("attempts", "Attempts", &columns)
        .with_empty("Nothing was sent yet.", "")
        .with_rows(rows.into_iter())
}

/// What the message is and where it goes.
fn tabulate_facts(found: &ListedNotification, sees_all: bool) -> TableView {
    let time = |at: Option<DbTimestamp>| Cell::time(at.map(|at| at.0));
    let rows = [
        ("Channel", link_channel(&found.channel, sees_all)),
        ("Purpose", Cell::text(&found.purpose)),
        ("Made (UTC)", time(Some(found.created_at))),
        ("Ended (UTC)", time(found.ended_at)),
        ("Next attempt (UTC)", time(found.next_attempt_at)),
        (
            "Others of this channel",
            Cell::Link("Delivery log".to_owned(), format!("/notifications?channel={}", found.channel)),
        ),
    ];
    TableView::new("facts", "About this message", &["What", "Value"])
        .with_rows(rows.into_iter().map(|(name, value)| vec![Cell::text(name), value]))
}

#[cfg(test)]
mod tests {
    use askama::Template;

    use super::*;

    fn attempt(number: i32, outcome: &str) -> ListedAttempt {
        let at = DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap());
        ListedAttempt {
            number,
            started_at: at,
            ended_at: (outcome != "unknown").then_some(at),
            outcome: outcome.to_owned(),
            status: None,
            message: None,
            retry_after_ms: None,
            notifier: "n".to_owned(),
        }
    }

    #[test]
    fn an_attempt_after_an_unknown_end_is_marked_as_sent_again() {
        let table = tabulate_attempts(&[attempt(1, "retry"), attempt(2, "unknown"), attempt(3, "delivered")]);

        let html = table.render().unwrap();

        assert_eq!(html.matches("sent again").count(), 1, "{html}");
        assert!(
            html.contains("delivered, sent again") && html.contains("the receiver may have the message"),
            "{html}"
        );
    }
}
