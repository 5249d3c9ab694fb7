//! A check from every region at once, requested by a form.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use http::HeaderMap;
use picket_proto::{CheckRequest, CheckResult, Outcome, RegionName, ValidationError};
use picket_runtime::adhoc::{self, RegionReply, reply_limit};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    incidents::list_region_names,
    input::{PageForm, PageQuery},
    parts::{Behind, Figure, StatusMark},
    render_page,
};
use crate::{
    access::Scope,
    charts::{WaterfallCheck, draw_waterfall},
    live::event::encode_event,
    problem::{Problem, ProblemKind},
    reply_stream::{ReplyStep, accepts_events, stream_replies},
    state::Api,
};

/// Maximum time until the page is complete: shorter than the time after which the server gives up a request.
const MAX_WAIT: Duration = Duration::from_secs(25);

/// Values of the form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CheckForm {
    url: String,
    region: String,
}

/// Answer of a region.
#[derive(Template)]
#[template(path = "parts/region_answer.html")]
struct RegionAnswer {
    region: String,
    status: Option<StatusMark>,
    text: String,
    figure: Option<Figure>,
}

#[derive(Template)]
#[template(path = "check_now.html")]
struct CheckNowPage {
    frame: Frame,
    url: String,
    region: String,
    regions: Vec<String>,
    sum: Option<String>,
    answers: Vec<RegionAnswer>,
    behind: Behind,
}

/// Shows the form.
pub(super) async fn show_form(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(form): PageQuery<CheckForm>,
) -> Result<Response, PageError> {
    let regions = list_region_names(&visitor, &api).await?;
    Ok(render_page(&CheckNowPage::new(&visitor, &api, form, regions, None)))
}

/// Checks a URL and shows the answers of all regions: in a page, or as events with a part of a page each.
pub(super) async fn check_now(
    visitor: Visitor,
    State(api): State<Api>,
    headers: HeaderMap,
    PageForm(form): PageForm<CheckForm>,
) -> Result<Response, PageError> {
    visitor.require_scope(Scope::Check)?;
    api.limits.adhoc.check(&visitor.access).map_err(|problem| visitor.fail(problem))?;
    let invalid =
        |error: ValidationError| visitor.fail(Problem::invalid_field(format!("/{}", error.field), &error));
    let request = CheckRequest { id: Some(Uuid::new_v4().to_string()), ..CheckRequest::new(form.url.trim()) };
    let check = request.validate().map_err(invalid)?;
    api.require_bus().map_err(|problem| visitor.fail(problem))?;
    let names = list_region_names(&visitor, &api).await?;
    let chosen: Vec<RegionName> = match form.region.as_str() {
        "" => names.iter().filter_map(|name| name.parse().ok()).collect(),
        name => vec![name.parse().map_err(invalid)?],
    };
    if accepts_events(&headers) {
        return Ok(stream_answers(&api, request, chosen, reply_limit(check.timeout)));
    }
    let mut answers = Vec::new();
    let keep = |region: String, reply: RegionReply| answers.push(RegionAnswer::new(region, &reply));
    let limit = reply_limit(check.timeout).min(MAX_WAIT);
    adhoc::request_checks(&api.bus.client, &request, &chosen, limit, keep).await.map_err(|error| {
        visitor.fail(Problem::new(ProblemKind::BusUnavailable, error.to_string()).with_retry_after(5))
    })?;
    answers.sort_by(|one, other| one.region.cmp(&other.region));
    Ok(render_page(&CheckNowPage::new(&visitor, &api, form, names, Some(answers))))
}

/// Sends each answer as the part of the page that shows it, and at the end the sentence about all.
fn stream_answers(api: &Api, request: CheckRequest, regions: Vec<RegionName>, limit: Duration) -> Response {
    let mut up = 0;
    stream_replies(api, request, regions, limit, move |step| match step {
        ReplyStep::Reply(region, reply) => {
            let answer = RegionAnswer::new(region, &reply);
            up += usize::from(answer.status == Some(StatusMark::Up));
            // A template of texts and drawings can always be rendered.
            encode_event("reply", None, &answer.render().unwrap_or_default())
        }
        ReplyStep::End { regions, error } => {
            encode_event("end", None, &error.unwrap_or_else(|| describe_answers(up, regions)))
        }
    })
}

fn describe_answers(up: usize, regions: usize) -> String {
    match regions {
        0 => "No prober answered; 'picket probers' lists the active ones.".to_owned(),
        1 => format!("{up} of 1 region says up."),
        regions if up == 1 => format!("1 of {regions} regions says up."),
        regions => format!("{up} of {regions} regions say up."),
    }
}

impl RegionAnswer {
    fn new(region: String, reply: &RegionReply) -> Self {
        let Some(result) = reply.result() else {
            let text = reply.error_message(&region).unwrap_or_default();
            return Self { region, status: None, text, figure: None };
        };
        let chart = draw_waterfall(&WaterfallCheck {
            outcome: result.outcome,
            cause: result.cause,
            lateness_us: None,
            timing: result.timing,
        });
        let figure = Figure { title: "Phases", chart, legend: Vec::new(), zoom: None };
        Self {
            region,
            status: Some(result.outcome.into()),
            text: describe_result(result),
            figure: Some(figure),
        }
    }
}

/// Facts of a result in a single line.
pub(super) fn describe_result(result: &CheckResult) -> String {
    let mut parts = Vec::new();
    if let Some(status) = result.http_status {
        parts.push(format!("status {status}"));
    }
    parts.extend(result.cause.filter(|_| result.outcome != Outcome::Up).map(|cause| cause.to_string()));
    parts.extend(result.message.clone());
    parts.extend(result.remote_addr.as_ref().map(|address| format!("from {address}")));
    parts.join(" · ")
}

impl CheckNowPage {
    fn new(
        visitor: &Visitor,
        api: &Api,
        form: CheckForm,
        regions: Vec<String>,
        answers: Option<Vec<RegionAnswer>>,
    ) -> Self {
        let is_asked = answers.is_some();
        let answers = answers.unwrap_or_default();
        let quoted = form.url.replace('\'', "'\\''");
        let url = if quoted.is_empty() { "https://example.com" } else { &quoted };
        let up = answers.iter().filter(|answer| answer.status == Some(StatusMark::Up)).count();
        Self {
            frame: visitor.frame("Check from everywhere", Section::Check),
            sum: is_asked.then(|| describe_answers(up, answers.len())),
            behind: Behind {
                sql: "SELECT * FROM picket.adhoc_results ORDER BY requested_at DESC LIMIT 20;".to_owned(),
                command: format!("picket check '{url}'\nnats req picket.check.all '{{\"url\":\"{url}\"}}'"),
                curl: format!(
                    "curl -X POST {}/api/v1/checks -H 'Content-Type: application/json' -d '{{\"url\":\"{url}\"}}'",
                    api.public_url()
                ),
            },
            url: form.url,
            region: form.region,
            regions,
            answers,
        }
    }
}
