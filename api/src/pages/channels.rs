//! Notification channels: the list, and a form for a new one of a chosen kind.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::{
    ChannelKind, Timestamp, ValidationError,
    channel_definition::{ChannelDefinition, ChannelFields},
};
use picket_store::{
    Error,
    channels::{self, Channel},
    notifications::read_notifier_presence,
};
use serde::Deserialize;
use serde_json::Map;

use super::{
    PageError, Visitor,
    channel_fields::{build_fields, drop_credentials, parse_settings},
    frame::Section,
    input::{PageForm, PageQuery},
    list_page::{Cell, FormField, FormView, ListPage, Tab, TableView},
    parts::{Behind, format_count},
    render_page,
};
use crate::{access::Scope, channels::validate_channel, problem::Problem, state::Api};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct KindQuery {
    kind: String,
}

/// Shows the channels, and the form of a kind if one is chosen.
pub(super) async fn show_channels(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<KindQuery>,
) -> Result<Response, PageError> {
    let form = match query.kind.as_str() {
        "" => None,
        kind => Some(build_new_form(kind.parse().map_err(|error| refuse(&visitor, &error))?)),
    };
    render_channels(&visitor, &api, &query.kind, form).await
}

/// Renders the list, with the form of a new channel of the chosen kind.
async fn render_channels(
    visitor: &Visitor,
    api: &Api,
    kind: &str,
    form: Option<FormView>,
) -> Result<Response, PageError> {
    let channels = channels::list_channels(&api.store).await.map_err(|error| visitor.fail(error))?;
    let subline = "Where messages about incidents go. Routes name the channels; a channel that no route names is told nothing.";
    let mut page = ListPage::new(visitor.frame("Channels", Section::Notifications), "Channels", subline);
    page.tabs = Tab::list("/channels");
    page.warning = describe_absence(visitor, api).await?;
    if may_change(visitor) {
        page.forms.push(build_kind_form(kind));
        page.forms.extend(form);
    }
    page.tables.push(tabulate_channels(&channels, visitor.access.tag_limit().is_none()).with_behind(
        Behind {
            sql: "SELECT * FROM report.channels;".to_owned(),
            command: "picket channel list".to_owned(),
            curl: format!("curl {}/api/v1/channels", api.public_url()),
        },
    ));
    Ok(render_form_page(&page))
}

/// Adds a channel, or shows the form again with the reason why not.
pub(super) async fn add_channel(
    visitor: Visitor,
    State(api): State<Api>,
    PageForm(form): PageForm<BTreeMap<String, String>>,
) -> Result<Response, PageError> {
    require_change(&visitor)?;
    let name = form.get("name").map(|name| name.trim().to_owned()).unwrap_or_default();
    let added = match parse_channel(name, true, &form) {
        Ok(channel) => channels::add_channel(&api.store, &channel).await.map(|()| channel.name),
        Err(error) => Err(error.into()),
    };
    match (added, parse_kind(&form)) {
        (Ok(name), _) => Ok(Redirect::to(&format!("/channels/{name}")).into_response()),
        (Err(Error::Invalid(error)), Ok(kind)) => {
            let typed = drop_credentials(kind, &form, &error);
            let form = build_new_form(kind).with_refusal(&typed, &error);
            render_channels(&visitor, &api, kind.as_str(), Some(form)).await
        }
        (Err(error), _) => Err(visitor.fail(error)),
    }
}

/// A page of which a form may have been refused.
pub(super) fn render_form_page(page: &ListPage) -> Response {
    let mut response = render_page(page);
    if page.forms.iter().any(FormView::is_refused) {
        *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
    }
    response
}

/// Says that no notifier runs; `None` while one does.
pub(super) async fn describe_absence(visitor: &Visitor, api: &Api) -> Result<Option<String>, PageError> {
    let mut presence = read_notifier_presence(&api.store, None).await.map_err(|error| visitor.fail(error))?;
    // The events of other sites are not for a reader of some.
    if visitor.access.tag_limit().is_some() {
        presence.undecided = 0;
    }
    Ok(presence.describe_absence().map(|absence| begin_sentence(&absence)))
}

/// A clause as a sentence.
pub(super) fn begin_sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// True if the reader may change channels and routes, which send data out of the house.
pub(super) fn may_change(visitor: &Visitor) -> bool {
    visitor.access.allows(Scope::Admin) && visitor.access.tag_limit().is_none()
}

/// # Errors
/// If the reader may not change channels and routes.
pub(super) fn require_change(visitor: &Visitor) -> Result<(), PageError> {
    visitor.require_scope(Scope::Admin)?;
    visitor.access.require_all_sites().map_err(|problem| visitor.fail(problem))
}

pub(super) fn refuse(visitor: &Visitor, error: &ValidationError) -> PageError {
    visitor.fail(Problem::invalid_field(format!("/{}", error.field), error))
}

pub(super) fn parse_kind(form: &BTreeMap<String, String>) -> Result<ChannelKind, ValidationError> {
    form.get("kind").map(|kind| kind.trim()).unwrap_or_default().parse()
}

/// The channel that a form defines.
pub(super) fn parse_channel(
    name: String,
    enabled: bool,
    form: &BTreeMap<String, String>,
) -> Result<ChannelDefinition, ValidationError> {
    let get = |name: &str| form.get(name).map(|value| value.trim().to_owned()).unwrap_or_default();
    let kind = parse_kind(form)?;
    let fields = ChannelFields {
        kind: kind.to_string(),
        enabled: Some(enabled),
        send_closed: Some(get("send_closed") != "no"),
        pace: Some(get("pace")).filter(|pace| !pace.is_empty()),
        settings: Some(parse_settings(kind, form)?),
        flat_settings: Map::new(),
    };
    let channel = fields.into_definition(name)?;
    validate_channel(&channel)?;
    Ok(channel)
}

fn build_kind_form(chosen: &str) -> FormView {
    let kinds = ChannelKind::ALL_KINDS.iter().map(|kind| (kind.to_string(), kind.to_string()));
    FormView {
        name: "Kind of the new channel",
        prefix: "kind",
        action: "/channels".to_owned(),
        fields: vec![FormField {
            name: "kind",
            label: "New channel of the kind",
            value: chosen.to_owned(),
            options: kinds.collect(),
            ..FormField::default()
        }],
        button: "Choose",
        ..FormView::default()
    }
}

fn build_new_form(kind: ChannelKind) -> FormView {
    let channel = ChannelDefinition::new("", kind);
    let name = FormField { name: "name", label: "Name", placeholder: "ops", ..FormField::default() };
    FormView {
        name: "New channel",
        prefix: "channel",
        action: "/channels".to_owned(),
        is_post: true,
        is_panel: true,
        fields: std::iter::once(name).chain(list_form_fields(&channel)).collect(),
        button: "Add channel",
        ..FormView::default()
    }
}

/// The fields of the form of a channel, without its name.
pub(super) fn list_form_fields(channel: &ChannelDefinition) -> Vec<FormField> {
    let kind = channel.kind.to_string();
    let mut fields = vec![FormField {
        name: "kind",
        label: "Kind",
        value: kind.clone(),
        options: vec![(kind.clone(), kind)],
        ..FormField::default()
    }];
    fields.extend(build_fields(channel.kind, &channel.settings));
    fields.push(FormField {
        name: "pace",
        label: "Least time between messages (optional)",
        value: channel.to_fields().pace.unwrap_or_default(),
        placeholder: "1s",
        ..FormField::default()
    });
    fields.push(FormField {
        name: "send_closed",
        label: "Tell of ends",
        value: if channel.send_closed { "yes" } else { "no" }.to_owned(),
        options: ["yes", "no"].map(|word| (word.to_owned(), word.to_owned())).into(),
        ..FormField::default()
    });
    fields
}

fn tabulate_channels(channels: &[Channel], sees_all: bool) -> TableView {
    let columns =
        ["Channel", "Kind", "State", "Last delivered (UTC)", "Failing since (UTC)", "#Waiting", "Problem"];
    let time = |at: Option<picket_store::DbTimestamp>| Cell::time(at.map(Timestamp::from));
    TableView::new("channels", "Channels by name", &columns)
        .with_empty(
            "There is no channel yet, so nobody is told when a site is down. The first command adds one for people, the \
             second starts Picket with one for programs.",
            "picket channel add ops --kind slack --url secret:slack-ops\npicket up --notify-webhook URL",
        )
        .with_rows(channels.iter().map(|channel| {
            let problem = channel.problem().filter(|_| sees_all);
            vec![
                match sees_all {
                    true => Cell::Link(channel.name.clone(), format!("/channels/{}", channel.name)),
                    false => Cell::text(&channel.name),
                },
                Cell::text(&channel.kind),
                Cell::text(channel.state_word()),
                time(channel.state.last_delivered_at),
                time(channel.state.failing_since),
                Cell::text(format_count(channel.state.waiting)),
                Cell::text(problem.as_deref().unwrap_or("–")),
            ]
        }))
}
