//! `picket region`: the named places that probers run in.

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::Region;
use picket_store::regions;
use serde::Serialize;

use crate::{
    error::Error,
    output::{Listing, OutputOptions, cell, print},
    reach::{self, Database},
};

/// See `picket region --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Add a region: sites without regions of their own are checked from it too
    Add(One),
    /// The regions in use
    List(List),
    /// Take a region out of use; its rows stay
    Remove(One),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct One {
    /// The region's name: lower-case letters, digits and '-', such as eu-west
    #[arg(value_parser = reach::region)]
    name: Region,
    #[command(flatten)]
    database: Database,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: Database,
}

#[derive(Serialize)]
struct Record {
    region: String,
    schedules: i64,
}

pub(crate) async fn run(command: Command, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        Command::Add(One { name, database }) => {
            let store = database.connect(matches).await?;
            match regions::add(&store, &name).await? {
                true => {
                    print(&format!("added region {name}; it needs probers: picket-prober --region {name}\n"))
                }
                false => print(&format!("there is a region {name} already\n")),
            }
        }
        Command::Remove(One { name, database }) => {
            let store = database.connect(matches).await?;
            regions::remove(&store, &name).await?;
            print(&format!("removed region {name}; nothing is checked from it any more\n"))
        }
        Command::List(List { output, database }) => {
            let store = database.connect(matches).await?;
            let records: Vec<Record> = regions::list(&store)
                .await?
                .into_iter()
                .map(|region| Record { region: region.name, schedules: region.schedules })
                .collect();
            output.print(&records, |records| {
                let mut listing =
                    Listing::new(["REGION", "SCHEDULES"], "no regions yet; add one: picket region add NAME")
                        .numbers([1]);
                for record in records {
                    listing.row([cell(&record.region), cell(record.schedules)]);
                }
                listing
            })
        }
    }
}
