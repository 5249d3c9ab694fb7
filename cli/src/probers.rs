//! `picket probers`: active probers with their load, and regions without active probers.

use std::{collections::BTreeSet, time::Duration};

use clap::{ArgMatches, Args};
use picket_proto::Timestamp;
use picket_runtime::{clock::wall_clock_now, options::DurationArg};
use serde::Serialize;

use crate::{
    connect::NatsArgs,
    discovery::{self, ProberInfo, RegionActivity},
    error::Error,
    output::{OutputOptions, TextTable, text_cell},
};

/// Options of `picket probers`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProbersOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    nats: NatsArgs,
}

/// An active prober, or a region without one, in which case `prober` is absent.
#[derive(Debug, PartialEq, Serialize)]
struct ProberRecord {
    region: String,
    prober: Option<String>,
    version: Option<String>,
    started_at: Option<String>,
    slots_used: Option<i64>,
    slots_total: Option<i64>,
    checks: Option<i64>,
    /// Time of the reply. For a region without a prober, the last delivery of a job.
    last_seen: Option<Timestamp>,
    /// Jobs queued in a region without a prober.
    waiting: Option<u64>,
}

pub(crate) async fn run(options: ProbersOptions, matches: &ArgMatches) -> Result<(), Error> {
    let bus = options.nats.connect(matches).await?;
    let (probers, places) =
        tokio::join!(discovery::list_probers(&bus.client), discovery::list_region_activity(&bus.jetstream));
    let now = wall_clock_now();
    let records = build_records(probers?, places, now);
    options.output.print_rows(&records, |records| {
        let columns = ["REGION", "PROBER", "VERSION", "SLOTS USED", "CHECKS", "LAST SEEN"];
        let mut listing = TextTable::new(columns, "no prober answered").align_right([3, 4]);
        for record in records {
            let slots = match (record.slots_used, record.slots_total) {
                (Some(used), Some(total)) => Some(format!("{used}/{total}")),
                _ => None,
            };
            let no_prober = || match record.waiting {
                Some(0) | None => "(none)".to_owned(),
                Some(jobs) => format!("(none; {jobs} queued)"),
            };
            listing.add_row([
                text_cell(&record.region),
                text_cell(record.prober.clone().unwrap_or_else(no_prober)),
                text_cell(record.version.as_deref()),
                text_cell(slots),
                text_cell(record.checks),
                text_cell(record.last_seen.map(|seen| format_age(seen, now))),
            ]);
        }
        listing
    })
}

/// Records of the active probers, and of regions without one that have queued jobs or had a recent
/// delivery.
fn build_records(probers: Vec<ProberInfo>, places: Vec<RegionActivity>, now: Timestamp) -> Vec<ProberRecord> {
    /// Time after which an idle region, such as a removed one, is no longer listed.
    const RECENT_DELIVERY: Duration = Duration::from_secs(7 * 86_400);
    let answering: BTreeSet<String> = probers.iter().map(|prober| prober.region.clone()).collect();
    let inactive =
        places.into_iter().filter(|place| !answering.contains(&place.region)).filter_map(|place| {
            let last_seen = place.last_delivery.map(|at| {
                let micros = at.unix_timestamp_nanos() / 1_000;
                Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
            });
            let is_recent = last_seen.is_some_and(|at| elapsed_since(at, now) < RECENT_DELIVERY);
            (place.pending_jobs > 0 || is_recent).then_some(ProberRecord {
                region: place.region,
                prober: None,
                version: None,
                started_at: None,
                slots_used: None,
                slots_total: None,
                checks: None,
                last_seen,
                waiting: Some(place.pending_jobs),
            })
        });
    let mut records: Vec<ProberRecord> = inactive.collect();
    records.extend(probers.into_iter().map(|prober| ProberRecord {
        region: prober.region,
        prober: Some(prober.name),
        version: Some(prober.version),
        started_at: Some(prober.started_at),
        slots_used: prober.slots_used,
        slots_total: prober.slots_total,
        checks: prober.checks,
        last_seen: Some(now),
        waiting: None,
    }));
    // Stable sort: the probers of a region keep their order.
    records.sort_by(|one, other| one.region.cmp(&other.region));
    records
}

fn elapsed_since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.as_micros() - at.as_micros()).unwrap_or(0))
}

/// Elapsed time as text, such as "5m ago".
fn format_age(at: Timestamp, now: Timestamp) -> String {
    match Duration::from_secs(elapsed_since(at, now).as_secs()) {
        Duration::ZERO => "now".to_owned(),
        age => format!("{} ago", DurationArg(age)),
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_region_without_probers_is_listed_while_jobs_wait_or_after_recent_activity() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let at = |days: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 - days * 86_400).ok();
        let place = |region: &str, waiting, last_taken| RegionActivity {
            region: region.to_owned(),
            pending_jobs: waiting,
            last_delivery: last_taken,
        };
        let prober = |name: &str| ProberInfo {
            region: "eu".to_owned(),
            name: name.to_owned(),
            ..ProberInfo::default()
        };

        let records = build_records(
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
                (
                    record.region.as_str(),
                    record.prober.as_deref(),
                    record.last_seen.map(|at| format_age(at, now)),
                )
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
