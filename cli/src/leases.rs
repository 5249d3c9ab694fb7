//! `picket leases`: the shards held by each coordinator.

use std::collections::BTreeMap;

use clap::{ArgMatches, Args};
use picket_store::leases::{self, LeaseRow};
use serde::Serialize;

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, text_cell},
};

/// Options of `picket leases`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeasesOptions {
    /// List every shard instead of one row per coordinator
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Serialize)]
struct ShardRecord {
    shard: i16,
    holder: Option<String>,
    epoch: i64,
    expires_in_seconds: Option<f64>,
    scheduled_behind_seconds: f64,
    schedules: i64,
}

#[derive(Debug, PartialEq, Serialize)]
struct HolderRecord {
    /// Absent for unowned shards.
    holder: Option<String>,
    shards: usize,
    schedules: i64,
    expires_in_seconds: Option<f64>,
    scheduled_behind_seconds: f64,
}

pub(crate) async fn run(options: LeasesOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let listed = leases::list_leases(&store).await?;
    if !options.shards {
        return options.output.print_rows(&group_by_holder(&listed), |holders| {
            let mut listing =
                TextTable::new(["HOLDER", "SHARDS", "SCHEDULES", "EXPIRES IN", "BEHIND"], "no shards")
                    .align_right([1, 2, 3, 4]);
            for holder in holders {
                listing.add_row([
                    text_cell(holder.holder.as_deref().unwrap_or("(none)")),
                    text_cell(holder.shards),
                    text_cell(holder.schedules),
                    text_cell(holder.expires_in_seconds.map(format_seconds)),
                    text_cell(format_seconds(holder.scheduled_behind_seconds)),
                ]);
            }
            listing
        });
    }
    let shards: Vec<ShardRecord> = listed
        .into_iter()
        .map(|listed| ShardRecord {
            shard: listed.shard,
            holder: listed.holder,
            epoch: listed.epoch,
            expires_in_seconds: listed.expires_in_seconds,
            scheduled_behind_seconds: listed.scheduled_behind_seconds,
            schedules: listed.schedules,
        })
        .collect();
    options.output.print_rows(&shards, |shards| {
        let columns = ["SHARD", "HOLDER", "EPOCH", "SCHEDULES", "EXPIRES IN", "BEHIND"];
        let mut listing = TextTable::new(columns, "no shards").align_right([0, 2, 3, 4, 5]);
        for shard in shards {
            listing.add_row([
                text_cell(shard.shard),
                text_cell(shard.holder.as_deref().unwrap_or("(none)")),
                text_cell(shard.epoch),
                text_cell(shard.schedules),
                text_cell(shard.expires_in_seconds.map(format_seconds)),
                text_cell(format_seconds(shard.scheduled_behind_seconds)),
            ]);
        }
        listing
    })
}

fn format_seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// One record per holder: its shards and schedules, its earliest lease expiry and its largest
/// delay.
fn group_by_holder(shards: &[LeaseRow]) -> Vec<HolderRecord> {
    let mut holders = BTreeMap::<Option<&str>, HolderRecord>::new();
    for shard in shards {
        let holder = holders.entry(shard.holder.as_deref()).or_insert_with(|| HolderRecord {
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
    fn shards_are_counted_by_holder_with_unheld_ones_first() {
        let shard = |shard, holder: Option<&str>, expires, behind| LeaseRow {
            shard,
            holder: holder.map(str::to_owned),
            epoch: 1,
            expires_in_seconds: expires,
            scheduled_behind_seconds: behind,
            schedules: 10,
        };

        let holders = group_by_holder(&[
            shard(0, Some("a"), Some(9.0), 1.0),
            shard(1, None, None, 60.0),
            shard(2, Some("a"), Some(5.0), 3.0),
        ]);

        assert_eq!((holders[0].holder.as_deref(), holders[0].shards), (None, 1));
        let held = HolderRecord {
            holder: Some("a".into()),
            shards: 2,
            schedules: 20,
            expires_in_seconds: Some(5.0),
            scheduled_behind_seconds: 3.0,
        };
        assert_eq!(holders[1], held);
    }
}
