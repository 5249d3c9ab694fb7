//! One incident: its times, what each region said before it opened, and the checks of that time.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use picket_proto::SiteId;
use picket_store::{
    acknowledgements::list_acknowledgements,
    incident_pages::{self, IncidentEvidence, RegionVote},
    notifications::{NoticesOf, list_notices, read_notifier_presence},
    site_history::{self, CheckRow},
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    channels::begin_sentence,
    frame::{Frame, Section},
    input::{PageForm, PagePath},
    list_page::TableView,
    notices::{NoticeTable, tabulate_notices},
    overview::count_nouns,
    parts::{Behind, StatusMark, TimeMark, format_seconds},
    recipients::CareView,
    render_page,
    site_regions::CheckItem,
};
use crate::{
    access::Scope,
    charts::format_duration,
    problem::{Problem, ProblemKind},
    state::Api,
    v1::{acknowledge, withdraw},
};

/// Time before the first failure and after the opening whose checks are listed.
const LISTED_MARGIN: Duration = Duration::from_secs(60);
const MAX_CHECKS: i64 = 200;
const MAX_NOTICES: i64 = 500;

/// What a region said.
struct VoteRow {
    region: String,
    status: StatusMark,
    failures: i64,
    confirmations: i64,
    checked_at: TimeMark,
    message: String,
}

#[derive(Template)]
#[template(path = "incident.html")]
struct IncidentPage {
    frame: Frame,
    id: i64,
    site: String,
    site_id: i64,
    status: StatusMark,
    subline: String,
    message: String,
    is_open: bool,
    /// Name, time and a note.
    times: Vec<(&'static str, Option<TimeMark>, String)>,
    regions: String,
    votes: Vec<VoteRow>,
    checks: Vec<CheckItem>,
    care: CareView,
    told: TableView,
    behind: Behind,
}

/// Shows an incident.
pub(super) async fn show_incident(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
) -> Result<Response, PageError> {
    let found = incident_pages::read_incident(&api.store, id, visitor.access.tag_limit()).await;
    let evidence = found.map_err(|error| visitor.fail(error))?.ok_or_else(|| {
        visitor.fail(Problem::new(ProblemKind::NotFound, format!("There is no incident {id}.")))
    })?;
    let incident = &evidence.incident;
    let from = incident.first_failure_at.0.saturating_sub(LISTED_MARGIN);
    let to = incident.opened_at.0.saturating_add(LISTED_MARGIN);
    let checks = site_history::list_checks(&api.store, SiteId(incident.site_id), from, to, MAX_CHECKS).await;
    let checks = checks.map_err(|error| visitor.fail(error))?;
    let acknowledged = list_acknowledgements(&api.store, &[id]).await.map_err(|error| visitor.fail(error))?;
    let care = CareView::new(
        id,
        incident.closed_at.is_none(),
        visitor.access.allows(Scope::Write),
        acknowledged.into_iter().next(),
    );
    let notices = list_notices(&api.store, NoticesOf::Incident(id), MAX_NOTICES).await;
    let notices = notices.map_err(|error| visitor.fail(error))?;
    let presence = read_notifier_presence(&api.store, Some(id)).await.map_err(|error| visitor.fail(error))?;
    let undecided = match presence.describe_absence() {
        Some(absence) => format!("It is not decided yet who is told. {}", begin_sentence(&absence)),
        None => "It is being decided who is told.".to_owned(),
    };
    let (empty, command) = match presence.undecided {
        0 => (
            "Nobody: no route named a channel for it. This adds a route for all sites:".to_owned(),
            "picket route add --channel ops",
        ),
        _ => (undecided, ""),
    };
    let of = NoticeTable::OfIncident { sees_all: visitor.access.tag_limit().is_none() };
    let told = tabulate_notices("Who was told", &notices, of).with_empty(empty, command).with_behind(Behind {
        sql: format!(
            "SELECT notice.* FROM picket.transitions AS event JOIN picket.notices AS notice USING (transition_id)\n\
             WHERE event.incident_id = {id} ORDER BY transition_id;"
        ),
        command: format!("picket incident show {id}"),
        curl: format!("curl '{}/api/v1/notifications?incident={id}'", api.public_url()),
    });
    let frame = visitor.frame(format!("Incident {id}"), Section::Incidents);
    Ok(render_page(&IncidentPage::new(frame, &evidence, &checks, care, told, &api.public_url())))
}

/// Values of the form of an acknowledgement.
#[derive(Deserialize)]
pub(crate) struct CareForm {
    #[serde(default)]
    note: String,
}

/// Acknowledges an incident.
pub(super) async fn acknowledge_incident(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
    PageForm(form): PageForm<CareForm>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    let note = Some(form.note.trim()).filter(|note| !note.is_empty());
    acknowledge(&api, &visitor.access, id, note).await.map_err(|problem| visitor.fail(problem))?;
    Ok(Redirect::to(&format!("/incidents/{id}")).into_response())
}

/// Takes an acknowledgement back.
pub(super) async fn withdraw_acknowledgement(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath(id): PagePath<i64>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Write)?;
    withdraw(&api, &visitor.access, id).await.map_err(|problem| visitor.fail(problem))?;
    Ok(Redirect::to(&format!("/incidents/{id}")).into_response())
}

impl VoteRow {
    fn new(vote: &RegionVote) -> Self {
        Self {
            region: vote.region.clone(),
            status: if vote.down { StatusMark::Down } else { StatusMark::from_word(&vote.outcome) },
            failures: vote.failures,
            confirmations: vote.confirmations,
            checked_at: TimeMark(vote.checked_at.0),
            message: vote.message.clone().or_else(|| vote.cause.clone()).unwrap_or_default(),
        }
    }
}

impl IncidentPage {
    fn new(
        frame: Frame,
        evidence: &IncidentEvidence,
        checks: &[CheckRow],
        care: CareView,
        told: TableView,
        public_url: &str,
    ) -> Self {
        let incident = &evidence.incident;
        let (id, closed) = (incident.incident_id, incident.closed_at);
        let duration = format_seconds(incident.seconds);
        let mark = |at: picket_store::DbTimestamp| Some(TimeMark(at.0));
        // From the due time of the first failing check: a slow check and its confirmations are part of it.
        let decided = evidence.recorded_at.saturating_duration_since(incident.first_failure_at.0);
        let rounds = count_nouns(evidence.confirmation_rounds, "round");
        let decided = format!(
            "{} after the first failure was due, with {rounds} of confirmation",
            format_duration(decided.as_secs_f64() * 1e6),
        );
        let end = match (closed, evidence.unwatched) {
            (None, _) => "still open".to_owned(),
            (Some(_), true) => "because the site is no longer checked".to_owned(),
            (Some(_), false) => format!("after {duration}"),
        };
        Self {
            frame,
            id,
            site: incident.site.clone(),
            site_id: incident.site_id,
            status: if closed.is_none() { StatusMark::Down } else { StatusMark::Up },
            subline: match closed {
                None => format!("open for {duration}"),
                Some(_) => format!("closed after {duration}"),
            },
            message: incident.message.clone().or_else(|| incident.cause.clone()).unwrap_or_default(),
            is_open: closed.is_none(),
            times: vec![
                ("First failure", mark(incident.first_failure_at), String::new()),
                ("Opened", mark(incident.opened_at), "due time of the deciding check".to_owned()),
                ("Decided", Some(TimeMark(evidence.recorded_at)), decided),
                ("Closed", closed.and_then(mark), end),
            ],
            regions: incident.regions.join(", "),
            votes: evidence.votes.iter().map(VoteRow::new).collect(),
            checks: checks.iter().map(|check| CheckItem::new(incident.site_id, check)).collect(),
            care,
            told,
            behind: Behind {
                sql: format!("SELECT * FROM report.incidents WHERE incident_id = {id};"),
                command: "picket report incidents".to_owned(),
                curl: format!("curl '{public_url}/api/v1/incidents/{id}'"),
            },
        }
    }
}
