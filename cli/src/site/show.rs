//! `picket site show`: definition, schedules and last results of one site.

use picket_proto::Timestamp;
use picket_store::{Store, site_status, sites::Site};
use serde::Serialize;

use super::SiteRecord;
use crate::{
    error::Error,
    output::{
        OutputFormat, OutputOptions, TextTable, print_coloured, print_data, status_cell, text_cell,
        to_pretty_json,
    },
};

/// Number of shown results per region.
const RESULTS_PER_REGION: i64 = 5;

#[derive(Serialize)]
struct SiteDetails<'a> {
    #[serde(flatten)]
    record: &'a SiteRecord,
    schedules: Vec<site_status::RegionSchedule>,
    results: Vec<site_status::RecentCheck>,
}

pub(super) async fn show_site(store: &Store, site: &Site, output: OutputOptions) -> Result<(), Error> {
    let record = SiteRecord::from(site);
    let whole = SiteDetails {
        record: &record,
        schedules: site_status::list_schedules(store, site.id, None).await?,
        results: site_status::list_recent_checks(store, site.id, RESULTS_PER_REGION, None).await?,
    };
    if output.output == OutputFormat::Json {
        return print_data(&to_pretty_json(&[whole]));
    }
    let mut lines = TextTable::new(["SITE", &site.id.to_string()], "");
    lines.add_row([text_cell("url"), text_cell(&site.url)]);
    lines.add_row([text_cell("state"), status_cell(record.state())]);
    if let Some(problem) = &record.problem {
        lines.add_row([text_cell("problem"), text_cell(problem)]);
    }
    for (name, value) in record.field_lines() {
        lines.add_row([text_cell(name), text_cell(value)]);
    }
    let mut schedules = TextTable::new(
        ["REGION", "EVERY", "SINCE"],
        "no active schedule: the site is paused, has a problem, or there is no region yet",
    );
    for schedule in &whole.schedules {
        schedules.add_row([
            text_cell(&schedule.region),
            text_cell(super::format_interval(schedule.interval_ms / 1_000)),
            text_cell(format_timestamp(Some(schedule.valid_from))),
        ]);
    }
    let mut results = TextTable::new(
        ["SCHEDULED AT", "REGION", "OUTCOME", "CAUSE", "STATUS", "TOTAL MS", "MESSAGE"],
        "no result yet",
    )
    .align_right([4, 5]);
    for check in &whole.results {
        results.add_row([
            text_cell(format_timestamp(Some(check.scheduled_at))),
            text_cell(&check.region),
            status_cell(&check.outcome),
            text_cell(check.cause.clone()),
            text_cell(check.http_status),
            text_cell(check.total_ms.map(|ms| format!("{ms:.1}"))),
            text_cell(check.message.clone()),
        ]);
    }
    print_coloured(&format!("{lines}\n{schedules}\n{results}"))
}

/// A timestamp to the second, as in tables.
pub(crate) fn format_timestamp(moment: Option<Timestamp>) -> Option<String> {
    let text = moment?.to_string();
    Some(format!("{} {}", &text[..10], &text[11..19]))
}
