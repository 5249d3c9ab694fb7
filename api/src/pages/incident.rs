//! One incident: its times, what each region said before it opened, and the checks of that time.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::SiteId;
use picket_store::{
    incident_pages::{self, IncidentEvidence, RegionVote},
    site_history::{self, CheckRow},
};

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    input::PagePath,
    overview::count_nouns,
    parts::{Behind, StatusMark, TimeMark, format_seconds},
    render_page,
    site_regions::CheckItem,
};
use crate::{
    charts::format_duration,
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Time before the first failure and after the opening whose checks are listed.
const LISTED_MARGIN: Duration = Duration::from_secs(60);
const MAX_CHECKS: i64 = 200;

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
    let frame = visitor.frame(format!("Incident {id}"), Section::Incidents);
    Ok(render_page(&IncidentPage::new(frame, &evidence, &checks, &api.public_url())))
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
    fn new(frame: Frame, evidence: &IncidentEvidence, checks: &[CheckRow], public_url: &str) -> Self {
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
            behind: Behind {
                sql: format!("SELECT * FROM report.incidents WHERE incident_id = {id};"),
                command: "picket report incidents".to_owned(),
                curl: format!("curl '{public_url}/api/v1/incidents/{id}'"),
            },
        }
    }
}
