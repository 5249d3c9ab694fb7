//! `picket probers`: active probers with their load, and regions without active probers.

use std::time::Duration;

use clap::{ArgMatches, Args};
use picket_proto::Timestamp;
use picket_runtime::{
    clock::wall_clock_now,
    discovery::{self, build_prober_records},
    options::DurationArg,
};

use crate::{
    connect::NatsArgs,
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

pub(crate) async fn run(options: ProbersOptions, matches: &ArgMatches) -> Result<(), Error> {
    let bus = options.nats.connect(matches).await?;
    let (probers, places) =
        tokio::join!(discovery::list_probers(&bus.client), discovery::list_region_activity(&bus.jetstream));
    let now = wall_clock_now();
    let records = build_prober_records(probers?, places, now);
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

/// Elapsed time as text, such as "5m ago".
fn format_age(at: Timestamp, now: Timestamp) -> String {
    match Duration::from_secs(now.saturating_duration_since(at).as_secs()) {
        Duration::ZERO => "now".to_owned(),
        age => format!("{} ago", DurationArg(age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_shown_in_its_largest_units() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);

        assert_eq!(format_age(now, now), "now");
        assert_eq!(format_age(now.saturating_sub(Duration::from_secs(86_400)), now), "1day ago");
    }
}
