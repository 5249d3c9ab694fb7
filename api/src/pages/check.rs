//! One check: its waterfall from the due time, its facts, and the other regions about that time.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, response::Response};
use picket_proto::{Cause, CheckKind, Outcome, RegionName, SiteId, Timestamp, Timing};
use picket_store::{
    site_history::{self, CheckRow},
    site_list::{self, SiteSummary},
};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    frame::{Frame, Section},
    input::{PagePath, PageQuery},
    parts::{Behind, Figure, StatusMark, TimeMark},
    render_page,
};
use crate::{
    charts::{WaterfallCheck, draw_waterfall, format_duration},
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Check of another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BesideRow {
    pub(crate) region: String,
    pub(crate) status: StatusMark,
    pub(crate) due: TimeMark,
    pub(crate) href: String,
    pub(crate) total: String,
}

/// See the module documentation.
#[derive(Template)]
#[template(path = "check.html")]
pub(crate) struct CheckPage {
    pub(crate) frame: Frame,
    pub(crate) site: String,
    pub(crate) site_id: i64,
    pub(crate) region: String,
    pub(crate) due: TimeMark,
    pub(crate) status: StatusMark,
    pub(crate) verdict: String,
    pub(crate) message: String,
    pub(crate) is_down: bool,
    pub(crate) is_missed: bool,
    pub(crate) figure: Figure,
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) beside: Vec<BesideRow>,
    pub(crate) behind: Behind,
}

/// Permanent address of a check. Confirmation checks of the same time have their own.
pub(crate) fn check_address(site: i64, region: &str, due: Timestamp, is_confirmation: bool) -> String {
    let suffix = if is_confirmation { "?kind=confirm" } else { "" };
    format!("/checks/{site}/{region}/{due}{suffix}")
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct CheckQuery {
    kind: String,
}

/// Shows a check.
pub(super) async fn show_check(
    visitor: Visitor,
    State(api): State<Api>,
    PagePath((site, region, due)): PagePath<(i64, String, String)>,
    PageQuery(query): PageQuery<CheckQuery>,
) -> Result<Response, PageError> {
    let missing = || {
        visitor.fail(Problem::new(
            ProblemKind::NotFound,
            "There is no such check, or its row is removed by age.",
        ))
    };
    let (Ok(region), Ok(due)) = (region.parse::<RegionName>(), due.parse::<Timestamp>()) else {
        return Err(missing());
    };
    let kind = if query.kind == "confirm" { CheckKind::Confirm } else { CheckKind::Scheduled };
    let summary = find_visible_site(&visitor, &api, site).await?;
    let found = site_history::find_check(&api.store, SiteId(site), &region, due, kind).await;
    let check = found.map_err(|error| visitor.fail(error))?.ok_or_else(missing)?;
    let interval = Duration::from_secs(u64::try_from(summary.interval_seconds).unwrap_or(60));
    let (from, to) = (due.saturating_sub(interval), due.saturating_add(interval));
    let around = site_history::list_checks(&api.store, SiteId(site), from, to, 200).await;
    let around = around.map_err(|error| visitor.fail(error))?;
    let frame = visitor.frame(format!("Check of {}", summary.site), Section::Sites);
    Ok(render_page(&CheckPage::new(frame, &summary, &check, &around, &api.public_url())))
}

/// The site, if the reader may see it.
pub(super) async fn find_visible_site(
    visitor: &Visitor,
    api: &Api,
    site: i64,
) -> Result<SiteSummary, PageError> {
    let found = site_list::find_site_summary(&api.store, SiteId(site), visitor.access.tag_limit()).await;
    found
        .map_err(|error| visitor.fail(error))?
        .ok_or_else(|| visitor.fail(Problem::new(ProblemKind::NotFound, format!("There is no site {site}."))))
}

/// Microseconds of a column; negative ones do not occur.
fn to_micros(value: Option<i32>) -> Option<u32> {
    value.and_then(|micros| u32::try_from(micros).ok())
}

pub(super) fn format_micros(value: Option<i32>) -> String {
    value.map_or_else(|| "–".to_owned(), |micros| format_duration(f64::from(micros)))
}

pub(super) fn check_address_of(site: i64, check: &CheckRow) -> String {
    check_address(site, &check.region, check.scheduled_at.0, check.kind == CheckKind::Confirm.as_str())
}

impl CheckPage {
    fn new(
        frame: Frame,
        site: &SiteSummary,
        check: &CheckRow,
        around: &[CheckRow],
        public_url: &str,
    ) -> Self {
        let outcome = check.outcome.parse().unwrap_or(Outcome::Missed);
        let cause = check.cause.as_deref().and_then(|cause| cause.parse::<Cause>().ok());
        let timing = Timing {
            dns_us: to_micros(check.dns_us),
            connect_us: to_micros(check.connect_us),
            tls_us: to_micros(check.tls_us),
            first_byte_us: to_micros(check.first_byte_us),
            transfer_us: to_micros(check.transfer_us),
            total_us: to_micros(check.total_us),
        };
        let chart = draw_waterfall(&WaterfallCheck {
            outcome,
            cause,
            lateness_us: to_micros(check.lateness_us),
            timing,
        });
        let due = check.scheduled_at.0;
        let verdict = match &check.cause {
            Some(cause) => cause.clone(),
            None => format!("in {}", format_micros(check.total_us)),
        };
        Self {
            frame,
            site: site.site.clone(),
            site_id: site.site_id,
            region: check.region.clone(),
            due: TimeMark(due),
            status: outcome.into(),
            verdict,
            message: check.message.clone().unwrap_or_default(),
            is_down: outcome == Outcome::Down,
            is_missed: outcome == Outcome::Missed,
            figure: Figure { title: "Lateness and phases", chart, legend: Vec::new(), zoom: None },
            facts: list_facts(site, check),
            beside: list_beside(site.site_id, check, around),
            behind: Behind {
                sql: format!(
                    "SELECT * FROM report.checks WHERE site_id = {} AND region = '{}' AND scheduled_at = '{due}' AND kind = '{}';",
                    site.site_id, check.region, check.kind
                ),
                command: format!("picket site show {}", site.site_id),
                curl: format!(
                    "curl '{public_url}/api/v1/sites/{}/checks/{}/{due}?kind={}'",
                    site.site_id, check.region, check.kind
                ),
            },
        }
    }
}

fn list_facts(site: &SiteSummary, check: &CheckRow) -> Vec<(&'static str, String)> {
    let kind =
        if check.kind == CheckKind::Confirm.as_str() { "confirmation after a failure" } else { "scheduled" };
    let facts = [
        ("URL", Some(site.url.clone())),
        ("Kind", Some(kind.to_owned())),
        ("Due", Some(check.scheduled_at.0.to_string())),
        ("Started late by", check.lateness_us.map(|micros| format_duration(f64::from(micros)))),
        ("Took", check.total_us.map(|micros| format_duration(f64::from(micros)))),
        ("Status", check.http_status.map(|status| status.to_string())),
        ("HTTP version", check.http_version.clone()),
        (
            "Redirects followed",
            (check.redirects > 0)
                .then(|| format!("{}; the phases are sums over all requests", check.redirects)),
        ),
        ("Address", check.remote_addr.clone()),
        ("Body", check.body_bytes.map(|bytes| format!("{bytes} bytes read"))),
        ("Certificate expires", check.tls_expires_at.map(|at| at.0.to_string())),
        ("Prober", check.prober.clone()),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// For each other region, its check nearest to this one.
fn list_beside(site: i64, check: &CheckRow, around: &[CheckRow]) -> Vec<BesideRow> {
    let distance =
        |other: &CheckRow| other.scheduled_at.0.as_micros().abs_diff(check.scheduled_at.0.as_micros());
    let mut nearest: Vec<&CheckRow> = around.iter().filter(|other| other.region != check.region).collect();
    nearest.sort_by(|one, other| one.region.cmp(&other.region).then(distance(one).cmp(&distance(other))));
    nearest.dedup_by(|other, one| other.region == one.region);
    nearest
        .into_iter()
        .map(|other| BesideRow {
            region: other.region.clone(),
            status: StatusMark::from_word(&other.outcome),
            due: TimeMark(other.scheduled_at.0),
            href: check_address_of(site, other),
            total: format_micros(other.total_us),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use picket_store::DbTimestamp;

    use super::*;

    fn check(region: &str, due: &str) -> CheckRow {
        CheckRow {
            site_id: 7,
            region_id: 1,
            started_at: None,
            regex_matched: None,
            warnings: None,
            details: None,
            scheduled_at: DbTimestamp(due.parse().unwrap()),
            region: region.to_owned(),
            kind: "scheduled".to_owned(),
            outcome: "up".to_owned(),
            cause: None,
            message: None,
            lateness_us: Some(4_000),
            dns_us: None,
            connect_us: None,
            tls_us: None,
            first_byte_us: None,
            transfer_us: None,
            total_us: Some(104_000),
            http_status: Some(200),
            http_version: None,
            redirects: 0,
            remote_addr: None,
            body_bytes: None,
            tls_expires_at: None,
            prober: None,
        }
    }

    #[test]
    fn the_nearest_check_of_each_other_region_stands_beside() {
        let this = check("eu", "2026-11-20T12:00:00Z");
        let around = [
            check("eu", "2026-11-20T12:00:30Z"),
            check("us", "2026-11-20T12:00:25Z"),
            check("us", "2026-11-20T11:59:55Z"),
            check("ap", "2026-11-20T12:00:10Z"),
        ];
        let beside: Vec<_> =
            list_beside(7, &this, &around).into_iter().map(|row| (row.region, row.href)).collect();
        assert_eq!(
            beside,
            [
                ("ap".to_owned(), "/checks/7/ap/2026-11-20T12:00:10.000000Z".to_owned()),
                ("us".to_owned(), "/checks/7/us/2026-11-20T11:59:55.000000Z".to_owned()),
            ]
        );
    }

    #[test]
    fn a_confirmation_has_an_address_of_its_own() {
        let due = "2026-11-20T12:00:00Z".parse().unwrap();
        assert_eq!(
            check_address(7, "eu", due, true),
            "/checks/7/eu/2026-11-20T12:00:00.000000Z?kind=confirm"
        );
    }
}
