//! `picket probers`: who checks, where, and how busy they are.

use clap::{ArgMatches, Args};
use serde::Serialize;

use crate::{
    discovery,
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

#[derive(Serialize)]
struct Record {
    region: String,
    prober: String,
    version: String,
    started_at: String,
    slots_used: Option<i64>,
    slots_total: Option<i64>,
    checks: Option<i64>,
}

pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let bus = options.nats.connect(matches).await?;
    let records: Vec<Record> = discovery::probers(&bus.client)
        .await?
        .into_iter()
        .map(|prober| Record {
            region: prober.region,
            prober: prober.name,
            version: prober.version,
            started_at: prober.started,
            slots_used: prober.slots_used,
            slots_total: prober.slots_total,
            checks: prober.checks,
        })
        .collect();
    options.output.print(&records, |records| {
        let columns = ["REGION", "PROBER", "VERSION", "SLOTS USED", "CHECKS"];
        let mut listing = Listing::new(columns, "no prober answers").numbers([3, 4]);
        for record in records {
            let slots = match (record.slots_used, record.slots_total) {
                (Some(used), Some(total)) => Some(format!("{used}/{total}")),
                _ => None,
            };
            listing.row([
                cell(&record.region),
                cell(&record.prober),
                cell(&record.version),
                cell(slots),
                cell(record.checks),
            ]);
        }
        listing
    })
}
