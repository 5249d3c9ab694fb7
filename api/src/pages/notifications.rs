//! The delivery log: messages to channels.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use picket_proto::{Timestamp, ValidationError};
use picket_store::notifications::{self, ListedNotification, NotificationFilter};
use serde::Deserialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    PageError, Visitor,
    channels::{describe_absence, render_form_page},
    frame::Section,
    input::PageQuery,
    list_page::{Cell, FormField, FormView, ListPage, Tab, TableView},
    notices::link_channel,
    overview::count_nouns,
    parts::{Behind, Pager, format_count},
};
use crate::{state::Api, v1::NOTIFICATION_STATES};

/// Messages on a page of the list.
const PAGE_ROWS: usize = 100;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogQuery {
    channel: String,
    state: String,
    incident: String,
    /// Time and number of the last message of the page before.
    after: String,
}

/// Shows the newest messages.
pub(super) async fn show_notifications(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<LogQuery>,
) -> Result<Response, PageError> {
    let incident = match query.incident.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ValidationError::new("incident", text, "the number of an incident, as in its address")
        }),
    };
    let filter = NotificationFilter {
        channel: Some(query.channel.as_str()).filter(|channel| !channel.is_empty()),
        state: Some(query.state.as_str()).filter(|state| NOTIFICATION_STATES.contains(state)),
        incident: incident.as_ref().copied().unwrap_or_default(),
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
    page.warning = describe_absence(&visitor, &api).await?;
    page.forms.push(match incident {
        Ok(_) => build_filter(&query),
        Err(error) => build_filter(&query).with_refusal(&query.typed(), &error),
    });
    page.pager = Some(Pager {
        shown: format!("{} messages", found.len()),
        first: (!query.after.is_empty()).then(|| query.link(None)),
        next: found.last().filter(|_| has_more).map(|last| query.link(Some(last))),
    });
    let sees_all = visitor.access.tag_limit().is_none();
    page.tables.push(
        tabulate_notifications(&found, sees_all).with_behind(Behind {
            sql: "SELECT * FROM report.notifications ORDER BY created_at DESC LIMIT 100;\n\
              SELECT * FROM report.notification_ledger(now() - interval '24 hours', now());"
                .to_owned(),
            command: "picket notification list\npicket ledger --notifications --since 24h\n\
                      picket notification notices --since 24h"
                .to_owned(),
            curl: format!(
                "curl {0}/api/v1/notifications\ncurl {0}/api/v1/notifications/ledger\ncurl {0}/api/v1/notifications/notices",
                api.public_url()
            ),
        }),
    );
    Ok(render_form_page(&page))
}

/// The position in the list; that of another form is the beginning.
fn parse_position(text: &str) -> Option<(Timestamp, Uuid)> {
    let (at, id) = text.split_once('.')?;
    Some((Timestamp::from_micros(at.parse().ok()?), id.parse().ok()?))
}

impl LogQuery {
    fn typed(&self) -> BTreeMap<String, String> {
        let fields = [("channel", &self.channel), ("state", &self.state), ("incident", &self.incident)];
        fields.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }

    /// Address of the list behind a message.
    fn link(&self, last: Option<&ListedNotification>) -> String {
        let after = last.map(|last| format!("{}.{}", last.created_at.0.as_micros(), last.notification_id));
        let mut query = form_urlencoded::Serializer::new(String::new());
        let pairs = [
            ("channel", Some(self.channel.clone())),
            ("state", Some(self.state.clone())),
            ("incident", Some(self.incident.clone())),
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
                value: query.incident.clone(),
                ..FormField::default()
            },
        ],
        button: "Show",
        ..FormView::default()
    }
}

fn tabulate_notifications(found: &[ListedNotification], sees_all: bool) -> TableView {
    let columns =
        ["State", "Channel", "Message", "Incident", "Made (UTC)", "Ended (UTC)", "#Attempts", "Answer"];
    TableView::new("notifications", "Messages, the newest first", &columns)
        .with_empty(
            "No message was sent, or none that fits. A message needs a channel and a route to it.",
            "picket channel add ops --kind slack --url secret:slack-ops\npicket route add --channel ops\npicket channel test ops",
        )
        .with_rows(found.iter().map(|row| {
            let title = row.title.clone().unwrap_or_else(|| format!("a message ({})", row.purpose));
            vec![
                Cell::text(&row.state),
                link_channel(&row.channel, sees_all),
                Cell::Link(title, format!("/notifications/{}", row.notification_id)),
                match row.incident_ids.as_slice() {
                    [] => Cell::text("–"),
                    [id] => Cell::Link(id.to_string(), format!("/incidents/{id}")),
                    ids => Cell::text(count_nouns(i64::try_from(ids.len()).unwrap_or(i64::MAX), "incident")),
                },
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

#[cfg(test)]
mod tests {
    use picket_store::DbTimestamp;

    use super::*;

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
        let query = LogQuery { channel: "ops".to_owned(), incident: "3".to_owned(), ..LogQuery::default() };

        let link = query.link(Some(&last));

        let after = link.strip_prefix("/notifications?channel=ops&incident=3&after=").unwrap();
        assert_eq!(parse_position(after), Some((at.0, id)));
        assert_eq!(parse_position("x.y"), None);
        assert!(describe_answer(&last).contains("the end of the try is unknown"));
    }
}
