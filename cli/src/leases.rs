//! `picket leases`: which coordinator schedules which shards.

use std::collections::BTreeMap;

use clap::{ArgMatches, Args};
use picket_store::leases::{self, Listed};
use serde::Serialize;

use crate::{
    error::Error,
    output::{Listing, OutputOptions, cell},
    reach::Database,
};

/// See `picket leases --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Every shard, instead of a line for each holder
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Serialize)]
struct Shard {
    shard: i16,
    holder: Option<String>,
    epoch: i64,
    expires_in_seconds: Option<f64>,
    scheduled_behind_seconds: f64,
    schedules: i64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Holder {
    /// Absent for the shards that nobody holds.
    holder: Option<String>,
    shards: usize,
    schedules: i64,
    expires_in_seconds: Option<f64>,
    scheduled_behind_seconds: f64,
}

pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let listed = leases::list(&store).await?;
    if !options.shards {
        return options.output.print(&by_holder(&listed), |holders| {
            let mut listing =
                Listing::new(["HOLDER", "SHARDS", "SCHEDULES", "EXPIRES IN", "BEHIND"], "no shards")
                    .numbers([1, 2, 3, 4]);
            for holder in holders {
                listing.row([
                    cell(holder.holder.as_deref().unwrap_or("(nobody)")),
                    cell(holder.shards),
                    cell(holder.schedules),
                    cell(holder.expires_in_seconds.map(in_seconds)),
                    cell(in_seconds(holder.scheduled_behind_seconds)),
                ]);
            }
            listing
        });
    }
    let shards: Vec<Shard> = listed
        .into_iter()
        .map(|listed| Shard {
            shard: listed.shard,
            holder: listed.holder,
            epoch: listed.epoch,
            expires_in_seconds: listed.expires_in_seconds,
            scheduled_behind_seconds: listed.scheduled_behind_seconds,
            schedules: listed.schedules,
        })
        .collect();
    options.output.print(&shards, |shards| {
        let columns = ["SHARD", "HOLDER", "EPOCH", "SCHEDULES", "EXPIRES IN", "BEHIND"];
        let mut listing = Listing::new(columns, "no shards").numbers([0, 2, 3, 4, 5]);
        for shard in shards {
            listing.row([
                cell(shard.shard),
                cell(shard.holder.as_deref().unwrap_or("(nobody)")),
                cell(shard.epoch),
                cell(shard.schedules),
                cell(shard.expires_in_seconds.map(in_seconds)),
                cell(in_seconds(shard.scheduled_behind_seconds)),
            ]);
        }
        listing
    })
}

fn in_seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// Of each holder how much it holds, the lease that ends first, and the shard that is furthest behind.
fn by_holder(shards: &[Listed]) -> Vec<Holder> {
    let mut holders = BTreeMap::<Option<&str>, Holder>::new();
    for shard in shards {
        let holder = holders.entry(shard.holder.as_deref()).or_insert_with(|| Holder {
            holder: shard.holder.clone(),
            shards: 0,
            schedules: 0,
            expires_in_seconds: shard.expires_in_seconds,
            scheduled_behind_seconds: shard.scheduled_behind_seconds,
        });
        holder.shards += 1;
        holder.schedules += shard.schedules;
        if let (Some(least), Some(this)) = (&mut holder.expires_in_seconds, shard.expires_in_seconds) {
            *least = least.min(this);
        }
        holder.scheduled_behind_seconds = holder.scheduled_behind_seconds.max(shard.scheduled_behind_seconds);
    }
    holders.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_summed_by_holder_and_those_of_nobody_stand_first() {
        let shard = |shard, holder: Option<&str>, expires, behind| Listed {
            shard,
            holder: holder.map(str::to_owned),
            epoch: 1,
            expires_in_seconds: expires,
            scheduled_behind_seconds: behind,
            schedules: 10,
        };

        let holders = by_holder(&[
            shard(0, Some("a"), Some(9.0), 1.0),
            shard(1, None, None, 60.0),
            shard(2, Some("a"), Some(5.0), 3.0),
        ]);

        assert_eq!((holders[0].holder.as_deref(), holders[0].shards), (None, 1));
        let held = Holder {
            holder: Some("a".into()),
            shards: 2,
            schedules: 20,
            expires_in_seconds: Some(5.0),
            scheduled_behind_seconds: 3.0,
        };
        assert_eq!(holders[1], held);
    }
}
