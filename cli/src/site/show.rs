//! `picket site show`: all about one site.

use picket_proto::Timestamp;
use picket_store::{Store, report, sites::Site};
use serde::Serialize;

use super::Record;
use crate::{
    error::Error,
    output::{Format, Listing, OutputOptions, cell, json, print_coloured, print_data, word},
};

/// How many results of each region are shown.
const RESULTS: i64 = 5;

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    record: &'a Record,
    schedules: Vec<report::Schedule>,
    results: Vec<report::Check>,
}

pub(super) async fn show(store: &Store, site: &Site, output: OutputOptions) -> Result<(), Error> {
    let record = Record::from(site);
    let whole = Whole {
        record: &record,
        schedules: report::schedules(store, site.id).await?,
        results: report::last_checks(store, site.id, RESULTS).await?,
    };
    if output.output == Format::Json {
        return print_data(&json(&[whole]));
    }
    let mut lines = Listing::new(["SITE", &site.id.to_string()], "");
    lines.row([cell("url"), cell(&site.url)]);
    lines.row([cell("state"), word(record.state())]);
    if let Some(problem) = &record.problem {
        lines.row([cell("problem"), cell(problem)]);
    }
    for (name, value) in record.lines() {
        lines.row([cell(name), cell(value)]);
    }
    let mut schedules = Listing::new(
        ["REGION", "EVERY", "SINCE"],
        "no schedule is in force: it is paused, has a problem, or there is no region yet",
    );
    for schedule in &whole.schedules {
        schedules.row([
            cell(&schedule.region),
            cell(super::seconds(schedule.interval_ms / 1_000)),
            cell(moment(Some(schedule.valid_from))),
        ]);
    }
    let mut results = Listing::new(
        ["SCHEDULED AT", "REGION", "OUTCOME", "CAUSE", "STATUS", "TOTAL MS", "MESSAGE"],
        "no result yet",
    )
    .numbers([4, 5]);
    for check in &whole.results {
        results.row([
            cell(moment(Some(check.scheduled_at))),
            cell(&check.region),
            word(&check.outcome),
            cell(check.cause.clone()),
            cell(check.http_status),
            cell(check.total_ms.map(|ms| format!("{ms:.1}"))),
            cell(check.message.clone()),
        ]);
    }
    print_coloured(&format!("{lines}\n{schedules}\n{results}"))
}

/// A moment to the second, as tables show it.
pub(crate) fn moment(moment: Option<Timestamp>) -> Option<String> {
    let text = moment?.to_string();
    Some(format!("{} {}", &text[..10], &text[11..19]))
}
