//! `picket region`: the regions of the installation.

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::RegionName;
use picket_store::regions::{self, RegionOverview};
use serde::Serialize;

use crate::{
    connect::{self, DatabaseArgs},
    error::Error,
    output::{OutputOptions, TextTable, print_error, print_text, text_cell},
};

/// Commands of `picket region`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RegionCommand {
    /// Add a region; sites without regions of their own are checked from it too
    Add(RegionSelector),
    /// List active regions with the number of their schedules
    List(ListRegionsOptions),
    /// Remove a region; its results stay readable
    Remove(RegionSelector),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RegionSelector {
    /// Name of the region: lower-case letters, digits and '-', such as eu-west
    #[arg(value_parser = connect::parse_region)]
    name: RegionName,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListRegionsOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Serialize)]
struct RegionRecord {
    region: String,
    schedules: i64,
}

/// What a region without probers needs.
pub(crate) fn describe_absent_prober(region: &str) -> String {
    format!("without a prober its checks are missed; start one: picket-prober --region {region}")
}

pub(crate) async fn run(command: RegionCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        RegionCommand::Add(RegionSelector { name, database }) => {
            let store = database.connect(matches).await?;
            match regions::add_region(&store, &name).await? {
                true => {
                    print_text(&format!("added region {name}: {}\n", describe_absent_prober(name.as_str())))
                }
                false => {
                    let all = regions::list_region_overview(&store, None).await?;
                    let is_silent = |region: &RegionOverview| {
                        region.name == name.as_str() && region.silent_since.is_some()
                    };
                    if all.iter().any(is_silent) {
                        let needed = describe_absent_prober(name.as_str());
                        print_error(format_args!("region {name} has no active prober: {needed}"));
                    }
                    print_text(&format!("region {name} already exists\n"))
                }
            }
        }
        RegionCommand::Remove(RegionSelector { name, database }) => {
            let store = database.connect(matches).await?;
            regions::remove_region(&store, &name).await?;
            print_text(&format!("removed region {name}; no site is checked from it now\n"))
        }
        RegionCommand::List(ListRegionsOptions { output, database }) => {
            let store = database.connect(matches).await?;
            let records: Vec<RegionRecord> = regions::list_regions(&store)
                .await?
                .into_iter()
                .map(|region| RegionRecord { region: region.name, schedules: region.schedules })
                .collect();
            output.print_rows(&records, |records| {
                let mut listing = TextTable::new(
                    ["REGION", "SCHEDULES"],
                    "no regions yet; add one: picket region add NAME",
                )
                .align_right([1]);
                for record in records {
                    listing.add_row([text_cell(&record.region), text_cell(record.schedules)]);
                }
                listing
            })
        }
    }
}
