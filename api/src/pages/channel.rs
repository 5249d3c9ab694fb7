//! One notification channel: its definition in a form, a test, and what may be done with it.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::ValidationError;
use picket_store::{
    Error,
    channel_tests::TestProgress,
    channels::{self, Channel},
};
use uuid::Uuid;

use super::{
    PageError, Visitor,
    channel_fields::drop_credentials,
    channels::{
        describe_absence, list_form_fields, may_change, parse_channel, refuse, render_form_page,
        require_change,
    },
    frame::Section,
    input::{PageForm, PagePath},
    list_page::{Cell, FormView, ListPage, Tab, TableView},
    parts::Behind,
};
use crate::{
    access::Scope,
    channels::{require_channel, send_test},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Shows a channel.
pub(super) async fn show_channel(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
) -> Result<Response, PageError> {
    render_channel(&visitor, &api, &name, None, None).await
}

/// Renders a channel, with the outcome of a test or with a refused change.
async fn render_channel(
    visitor: &Visitor,
    api: &Api,
    name: &str,
    notice: Option<String>,
    refused: Option<(&BTreeMap<String, String>, &ValidationError)>,
) -> Result<Response, PageError> {
    let channel = find_channel(visitor, api, name).await?;
    // The settings are not those of some sites.
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let subline = format!("{}, {}", channel.kind, channel.state_word());
    let mut page =
        ListPage::new(visitor.frame(name, Section::Notifications), format!("Channel {name}"), subline);
    page.tabs = Tab::list("/channels");
    page.notice = notice;
    page.warning = describe_absence(visitor, api).await?;
    if visitor.access.allows(Scope::Write) {
        page.forms.push(build_action(name, "test", "Send a test"));
    }
    if may_change(visitor) {
        if let Ok(definition) = &channel.definition {
            let action = if definition.enabled { ("pause", "Pause") } else { ("resume", "Resume") };
            page.forms.push(build_action(name, action.0, action.1));
            let form = FormView {
                name: "Definition",
                prefix: "channel",
                action: format!("/channels/{name}"),
                is_post: true,
                is_panel: true,
                fields: list_form_fields(definition),
                button: "Save",
                ..FormView::default()
            };
            page.forms.push(match refused {
                None => form,
                Some((typed, error)) => {
                    form.with_refusal(&drop_credentials(definition.kind, typed, error), error)
                }
            });
        }
        page.forms.push(build_action(name, "remove", "Remove"));
    }
    page.tables.push(tabulate_state(&channel).with_behind(Behind {
        sql: format!("SELECT * FROM report.channels WHERE channel = '{name}';"),
        command: format!("picket channel show {name}\npicket channel test {name}"),
        curl: format!(
            "curl {0}/api/v1/channels/{name}\ncurl -X POST {0}/api/v1/channels/{name}/test",
            api.public_url()
        ),
    }));
    Ok(render_form_page(&page))
}

/// Saves the definition of a channel, or shows it again with the reason why not.
pub(super) async fn save_channel(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let stored = find_channel(&visitor, &api, &name).await?;
    let enabled = stored.definition.as_ref().is_ok_and(|definition| definition.enabled);
    let saved = match parse_channel(name.clone(), enabled, &form) {
        Ok(channel) => channels::update_channel(&api.store, &channel, None).await,
        Err(error) => Err(error.into()),
    };
    match saved {
        Ok(_) => Ok(Redirect::to(&format!("/channels/{name}")).into_response()),
        Err(Error::Invalid(error)) if stored.definition.is_ok() => {
            render_channel(&visitor, &api, &name, None, Some((&form, &error))).await
        }
        Err(error) => Err(visitor.fail(error)),
    }
}

/// Sends a test message and shows the answer of the receiver.
pub(super) async fn test_channel(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(name): PagePath<String>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))?;
    let sent = send_test(&api, &name).await;
    let (id, progress) = sent.map_err(|problem| visitor.fail(problem))?;
    render_channel(&visitor, &api, &name, Some(describe_test(id, &progress)), None).await
}

/// Pauses, resumes or removes a channel.
pub(super) async fn act_on_channel(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath((name, action)): PagePath<(String, String)>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let channel = find_channel(&visitor, &api, &name).await?;
    let enabled = match action.as_str() {
        "pause" => false,
        "resume" => true,
        "remove" => {
            channels::remove_channel(&api.store, &name, None).await.map_err(|error| visitor.fail(error))?;
            return Ok(Redirect::to("/channels").into_response());
        }
        _ => {
            return Err(
                visitor.fail(Problem::new(ProblemKind::NotFound, "There is no page at this address."))
            );
        }
    };
    let mut definition = channel.definition.map_err(|error| refuse(&visitor, &error))?;
    definition.enabled = enabled;
    channels::update_channel(&api.store, &definition, None).await.map_err(|error| visitor.fail(error))?;
    Ok(Redirect::to(&format!("/channels/{name}")).into_response())
}

async fn find_channel(visitor: &Visitor, api: &Api, name: &str) -> Result<Channel, PageError> {
    require_channel(api, name).await.map_err(|problem| visitor.fail(problem))
}

fn build_action(name: &str, action: &'static str, button: &'static str) -> FormView {
    FormView {
        name: button,
        prefix: action,
        action: format!("/channels/{name}/{action}"),
        is_post: true,
        button,
        ..FormView::default()
    }
}

/// Outcome of a test, in words.
fn describe_test(id: Uuid, progress: &TestProgress) -> String {
    if !progress.is_over() {
        return match progress.started_at {
            Some(_) => {
                format!("The receiver has not answered yet; see notification {id} in the delivery log.")
            }
            None => format!("No notifier has sent the test yet; see notification {id} in the delivery log."),
        };
    }
    let verdict = if progress.was_delivered() { "delivered" } else { "not delivered" };
    let time = match progress.duration_ms {
        Some(ms) if progress.was_delivered() => format!(" in {ms} ms"),
        Some(ms) => format!(" after {ms} ms"),
        None => String::new(),
    };
    let sent = progress.title.as_deref().unwrap_or("nothing");
    let (source, answer) = progress.describe_answer();
    let source = match source {
        "receiver" => "The receiver's answer",
        _ => "The failure",
    };
    let next = match progress.outcome.as_deref() {
        Some("retry") => " An alert would be tried again later; this test is not.",
        _ => "",
    };
    format!("Test {verdict}{time}. Sent: {sent}. {source}: {answer}.{next}")
}

fn tabulate_state(channel: &Channel) -> TableView {
    let state = &channel.state;
    let time = |at: Option<picket_store::DbTimestamp>| Cell::time(at.map(|at| at.0));
    TableView::new("state", "State", &["What", "Value"]).with_rows(
        [
            ("Last delivered (UTC)", time(state.last_delivered_at)),
            ("Failing since (UTC)", time(state.failing_since)),
            ("Failures in a row", Cell::text(state.consecutive_failures)),
            ("Events that wait", Cell::text(state.waiting)),
            ("Oldest of them (UTC)", time(state.oldest_waiting_at)),
            ("Problem", Cell::text(channel.problem().as_deref().unwrap_or("–"))),
            (
                "Messages",
                Cell::Link(
                    "Delivery log of this channel".to_owned(),
                    format!("/notifications?channel={}", channel.name),
                ),
            ),
            ("Changed (UTC)", Cell::time(Some(channel.updated_at))),
        ]
        .into_iter()
        .map(|(name, value)| vec![Cell::text(name), value]),
    )
}

#[cfg(test)]
mod tests {
    use picket_store::DbTimestamp;

    use super::*;

    #[test]
    fn a_test_is_described_by_its_end_and_the_receivers_answer() {
        let at = DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap());
        let mut progress = TestProgress {
            state: "waiting".to_owned(),
            reason: None,
            title: None,
            requested_at: at,
            started_at: None,
            ended_at: None,
            outcome: None,
            status: None,
            message: None,
            duration_ms: None,
        };
        let describe = |progress: &TestProgress| describe_test(Uuid::nil(), progress);
        assert!(describe(&progress).contains("No notifier has sent"));
        progress.started_at = Some(at);
        assert!(describe(&progress).contains("has not answered yet"));
        (progress.ended_at, progress.outcome) = (Some(at), Some("retry".to_owned()));
        (progress.status, progress.message, progress.duration_ms) =
            (Some(403), Some("no such channel".to_owned()), Some(80));
        progress.title = Some("TEST of channel ops".to_owned());
        assert_eq!(
            describe(&progress),
            "Test not delivered after 80 ms. Sent: TEST of channel ops. The receiver's answer: 403 no such channel. An alert \
             would be tried again later; this test is not."
        );
        progress.outcome = Some("delivered".to_owned());
        assert!(describe(&progress).starts_with("Test delivered in 80 ms. Sent: TEST of channel ops."));
    }
}
