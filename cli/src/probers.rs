//! `picket probers`: who checks, where, and how busy they are; and where nobody does.

use std::{collections::BTreeSet, time::Duration};

use clap::{ArgMatches, Args};
use picket_proto::Timestamp;
use picket_runtime::{clock::wall, options::Span};
use serde::Serialize;

use crate::{
    discovery::{self, Place, Prober},
    error::Error,
    output::{Listing, OutputOptions, cell},
    reach::Nats,
};

/// See `picket probers --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    nats: Nats,
}

/// A prober that answers; or, without a name, a region in which none does.
#[derive(Debug, PartialEq, Serialize)]
struct Record {
    region: String,
    prober: Option<String>,
    version: Option<String>,
    started_at: Option<String>,
    slots_used: Option<i64>,
    slots_total: Option<i64>,
    checks: Option<i64>,
    checks_per_second: Option<f64>,
    /// When it answered; of a region without a prober, when one took a job for the last time.
    last_seen: Option<Timestamp>,
    /// Jobs that wait in a region without a prober.
    waiting: Option<u64>,
}

pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let bus = options.nats.connect(matches).await?;
    let (probers, places) = tokio::join!(discovery::probers(&bus.client), discovery::places(&bus.jetstream));
    let now = wall();
    let records = records(probers?, places, now);
    options.output.print(&records, |records| {
        let columns = ["REGION", "PROBER", "VERSION", "SLOTS USED", "CHECKS", "CHECKS/S", "LAST SEEN"];
        let mut listing = Listing::new(columns, "no prober answers").numbers([3, 4, 5]);
        for record in records {
            let slots = match (record.slots_used, record.slots_total) {
                (Some(used), Some(total)) => Some(format!("{used}/{total}")),
                _ => None,
            };
            let nobody = || match record.waiting {
                Some(0) | None => "(nobody)".to_owned(),
                Some(jobs) => format!("(nobody; {jobs} wait)"),
            };
            listing.row([
                cell(&record.region),
                cell(record.prober.clone().unwrap_or_else(nobody)),
                cell(record.version.as_deref()),
                cell(slots),
                cell(record.checks),
                cell(record.checks_per_second.map(|checks| format!("{checks:.1}"))),
                cell(record.last_seen.map(|seen| ago(seen, now))),
            ]);
        }
        listing
    })
}

/// Those who answer, and the regions that are in use, or lately were, where nobody does.
fn records(probers: Vec<Prober>, places: Vec<Place>, now: Timestamp) -> Vec<Record> {
    /// A region that was removed is not spoken of for ever.
    const LATELY: Duration = Duration::from_secs(7 * 86_400);
    let answering: BTreeSet<String> = probers.iter().map(|prober| prober.region.clone()).collect();
    let silent = places.into_iter().filter(|place| !answering.contains(&place.region)).filter_map(|place| {
        let last_seen = place.last_taken.map(|at| {
            let micros = at.unix_timestamp_nanos() / 1_000;
            Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
        });
        let lately = last_seen.is_some_and(|at| since(at, now) < LATELY);
        (place.waiting > 0 || lately).then_some(Record {
            region: place.region,
            prober: None,
            version: None,
            started_at: None,
            slots_used: None,
            slots_total: None,
            checks: None,
            checks_per_second: None,
            last_seen,
            waiting: Some(place.waiting),
        })
    });
    let mut records: Vec<Record> = silent.collect();
    records.extend(probers.into_iter().map(|prober| Record {
        region: prober.region,
        prober: Some(prober.name),
        version: Some(prober.version),
        started_at: Some(prober.started),
        slots_used: prober.slots_used,
        slots_total: prober.slots_total,
        checks: prober.checks,
        checks_per_second: prober.checks_per_second,
        last_seen: Some(now),
        waiting: None,
    }));
    // The probers of a region keep their order.
    records.sort_by(|one, other| one.region.cmp(&other.region));
    records
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.micros() - at.micros()).unwrap_or(0))
}

/// How long ago that was, as people say it.
fn ago(at: Timestamp, now: Timestamp) -> String {
    match Duration::from_secs(since(at, now).as_secs()) {
        Duration::ZERO => "now".to_owned(),
        long => format!("{} ago", Span(long)),
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_region_without_a_prober_is_listed_while_jobs_wait_there_or_somebody_was_there_lately() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let at = |days: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 - days * 86_400).ok();
        let place =
            |region: &str, waiting, last_taken| Place { region: region.to_owned(), waiting, last_taken };
        let prober =
            |name: &str| Prober { region: "eu".to_owned(), name: name.to_owned(), ..Prober::default() };

        let records = records(
            vec![prober("a"), prober("b")],
            vec![
                place("us", 7, None),
                place("eu", 3, at(0)),
                place("asia", 0, at(1)),
                place("gone", 0, at(8)),
                place("new", 0, None),
            ],
            now,
        );

        let seen: Vec<_> = records
            .iter()
            .map(|record| {
                (record.region.as_str(), record.prober.as_deref(), record.last_seen.map(|at| ago(at, now)))
            })
            .collect();
        let now = Some("now".to_owned());
        assert_eq!(
            seen,
            [
                ("asia", None, Some("1day ago".to_owned())),
                ("eu", Some("a"), now.clone()),
                ("eu", Some("b"), now),
                ("us", None, None)
            ]
        );
    }
}
