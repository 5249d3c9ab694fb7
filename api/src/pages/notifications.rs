//! The delivery log: messages to channels, their attempts, and their notices.

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::Timestamp;
use picket_store::notifications::{
    self, ListedAttempt, ListedNotice, ListedNotification, NotificationFilter,
};
use serde::Deserialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    PageError, Visitor,
    frame::Section,
    input::{PagePath, PageQuery},
    list_page::{Cell, FormField, FormView, ListPage, Tab, TableView},
    parts::{Behind, Pager, format_count},
    render_page,
};
use crate::{
    access::Scope,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{NOTIFICATION_STATES, find_notification, read_parts, retry},
};

/// Messages on a page of the list.
const PAGE_ROWS: usize = 100;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogQuery {
    channel: String,
    state: String,
    incident: Option<i64>,
    /// Time and number of the last message of the page before.
    after: String,
}

/// Shows the newest messages.
pub(super) async fn show_notifications(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<LogQuery>,
) -> Result<Response, PageError> {
    let filter = NotificationFilter {
        channel: Some(query.channel.as_str()).filter(|channel| !channel.is_empty()),
        state: Some(query.state.as_str()).filter(|state| NOTIFICATION_STATES.contains(state)),
        incident: query.incident,
        tags: visitor.access.tag_limit(),
        after: parse_position(&query.after),
        // One row more shows that there are others.
        limit: i64::try_from(PAGE_ROWS + 1).ok(),
        ..NotificationFilter::default()
    };
    let found = notifications::list_notifications(&api.store, filter).await;
    let mut found = found.map_err(|error| visitor.fail(error))?;
    let has_more = found.len() > PAGE_ROWS;
    found.truncate(PAGE_ROWS);
    let subline = "Each message to a channel, with the receiver's answer. An event that is told, suppressed or failed is \
                   in the ledger of notifications.";
    let mut page =
        ListPage::new(visitor.frame("Notifications", Section::Notifications), "Delivery log", subline);
    page.tabs = Tab::list("/notifications");
    page.forms.push(build_filter(&query));
    page.pager = Some(Pager {
        shown: format!("{} messages", found.len()),
        first: (!query.after.is_empty()).then(|| query.link(None)),
        next: found.last().filter(|_| has_more).map(|last| query.link(Some(last))),
    });
    page.tables.push(
        tabulate_notifications(&found).with_behind(Behind {
            sql: "SELECT * FROM report.notifications ORDER BY created_at DESC LIMIT 100;\n\
              SELECT * FROM report.notification_ledger(now() - interval '24 hours', now());"
                .to_owned(),
            command: "picket notification list\npicket ledger --notifications --since 24h".to_owned(),
            curl: format!(
                "curl {0}/api/v1/notifications\ncurl {0}/api/v1/notifications/ledger",
                api.public_url()
            ),
        }),
    );
    Ok(render_page(&page))
}

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
    page.tables.push(tabulate_attempts(&attempts).with_behind(Behind {
        sql: format!(
            "SELECT * FROM picket.delivery_attempts WHERE notification_id = '{id}' ORDER BY number;"
        ),
        command: format!("picket notification show {id}"),
        curl: format!("curl {}/api/v1/notifications/{id}", api.public_url()),
    }));
    page.tables.push(tabulate_notices("What it tells", &notices, false).with_behind(Behind {
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

/// The position in the list; that of another form is the beginning.
fn parse_position(text: &str) -> Option<(Timestamp, Uuid)> {
    let (at, id) = text.split_once('.')?;
    Some((Timestamp::from_micros(at.parse().ok()?), id.parse().ok()?))
}

impl LogQuery {
    /// Address of the list behind a message.
    fn link(&self, last: Option<&ListedNotification>) -> String {
        let after = last.map(|last| format!("{}.{}", last.created_at.0.as_micros(), last.notification_id));
        let mut query = form_urlencoded::Serializer::new(String::new());
        let pairs = [
            ("channel", Some(self.channel.clone())),
            ("state", Some(self.state.clone())),
            ("incident", self.incident.map(|incident| incident.to_string())),
            ("after", after),
        ];
        let given = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        query.extend_pairs(given.filter(|(_, value)| !value.is_empty()));
        format!("/notifications?{}", query.finish())
    }
}

fn build_filter(query: &LogQuery) -> FormView {
    let states = NOTIFICATION_STATES.map(|state| (state.to_owned(), state.to_owned()));
    let all = std::iter::once((String::new(), "any".to_owned()));
    FormView {
        name: "Filter",
        prefix: "log",
        action: "/notifications".to_owned(),
        fields: vec![
            FormField {
                name: "channel",
                label: "Channel",
                value: query.channel.clone(),
                ..FormField::default()
            },
            FormField {
                name: "state",
                label: "State",
                value: query.state.clone(),
                options: all.chain(states).collect(),
                ..FormField::default()
            },
            FormField {
                name: "incident",
                label: "Incident number",
                value: query.incident.map_or_else(String::new, |incident| incident.to_string()),
                ..FormField::default()
            },
        ],
        button: "Show",
        ..FormView::default()
    }
}

fn tabulate_notifications(found: &[ListedNotification]) -> TableView {
    let columns = ["State", "Channel", "Message", "Made (UTC)", "Ended (UTC)", "#Attempts", "Answer"];
    TableView::new("notifications", "Messages, the newest first", &columns)
        .with_empty(
            "No message was sent, or none that fits. A message needs a channel and a route to it.",
            "picket channel add ops --kind slack --url secret:slack-ops\npicket route add --channel ops\npicket channel test ops",
        )
        .with_rows(found.iter().map(|row| {
            let title = row.title.clone().unwrap_or_else(|| format!("a message ({})", row.purpose));
            vec![
                Cell::text(&row.state),
                Cell::text(&row.channel),
                Cell::Link(title, format!("/notifications/{}", row.notification_id)),
                Cell::time(Some(row.created_at.0)),
                Cell::time(row.ended_at.map(|at| at.0)),
                Cell::text(format_count(row.attempts.into())),
                Cell::text(describe_answer(row)),
            ]
        }))
}

/// The last answer; marked if a message may have arrived twice.
fn describe_answer(row: &ListedNotification) -> String {
    let status = row.last_status.map(|status| status.to_string());
    let answer = row.last_message.clone().or_else(|| row.reason.clone()).filter(|text| !text.is_empty());
    let again = (row.unknown_ends > 0).then(|| match row.unknown_ends < row.attempts.into() {
        true => "sent again: the end of an earlier try is unknown".to_owned(),
        false => "the end of the try is unknown".to_owned(),
    });
    let parts: Vec<String> = [status, answer, again].into_iter().flatten().collect();
    if parts.is_empty() { "–".to_owned() } else { parts.join(", ") }
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

/// What channels were told of; with `has_channel`, of which each row says which.
pub(super) fn tabulate_notices(title: &str, notices: &[ListedNotice], has_channel: bool) -> TableView {
    let mut columns =
        vec!["State", "Event", "Recorded (UTC)", "Site", "Route", "Ended (UTC)", "Why, or what for"];
    if has_channel {
        columns.insert(1, "Channel");
    }
    TableView::new("notices", title, &columns)
        .with_empty("Nothing: no route named a channel for it.", "")
        .with_rows(notices.iter().map(|notice| {
            let event = match (notice.step.as_str(), notice.number) {
                ("event", _) => notice.event.clone(),
                (step, number) => format!("{step} {number} of {}", notice.event),
            };
            let event = match notice.incident_id {
                Some(id) if !has_channel => Cell::Link(event, format!("/incidents/{id}")),
                _ => Cell::text(event),
            };
            let state = match &notice.notification_id {
                Some(id) if has_channel => Cell::Link(notice.state.clone(), format!("/notifications/{id}")),
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
            if has_channel {
                row.insert(1, Cell::text(&notice.channel));
            }
            row
        }))
}

#[cfg(test)]
mod tests {
    use askama::Template;
    use picket_store::DbTimestamp;

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

    #[test]
    fn the_link_to_the_next_page_keeps_the_filter_and_leads_behind_the_last_message() {
        let at = DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap());
        let id = Uuid::from_u128(7);
        let last = ListedNotification {
            notification_id: id.to_string(),
            channel: "ops".to_owned(),
            purpose: "alert".to_owned(),
            state: "failed".to_owned(),
            reason: None,
            title: None,
            attempts: 1,
            created_at: at,
            ended_at: None,
            next_attempt_at: None,
            last_outcome: None,
            last_status: None,
            last_message: None,
            last_attempt_at: None,
            unknown_ends: 1,
            incident_ids: Vec::new(),
        };
        let query = LogQuery { channel: "ops".to_owned(), incident: Some(3), ..LogQuery::default() };

        let link = query.link(Some(&last));

        let after = link.strip_prefix("/notifications?channel=ops&incident=3&after=").unwrap();
        assert_eq!(parse_position(after), Some((at.0, id)));
        assert_eq!(parse_position("x.y"), None);
        assert!(describe_answer(&last).contains("the end of the try is unknown"));
    }
}
