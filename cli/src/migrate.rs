//! `picket migrate`: brings the database's schema up to date.

use clap::{ArgMatches, Args};
use picket_store::{MIGRATOR, Store};

use crate::{error::Error, output::print, reach::Database};

/// See `picket migrate --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Into how many shards schedules are divided; counts when the database is made, and never again
    #[arg(long, value_name = "N", default_value_t = SHARDS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: u16,
    #[command(flatten)]
    database: Database,
}

/// Unless one is asked for.
pub(crate) const SHARDS: u16 = 64;

pub(crate) async fn run(options: Options, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect_unmigrated(matches).await?;
    if migrate(&store, options.shards).await? {
        print(
            "the database was restored from another cluster: its rows have transaction numbers of this one now\n",
        )?;
    }
    let newest = MIGRATOR.iter().map(|migration| migration.version).max();
    print(&format!("the schema is up to date (version {})\n", newest.unwrap_or(0)))
}

/// Migrates unless the schema is new enough, which is the quicker question; says whether the database had been restored from
/// another cluster.
pub(crate) async fn migrate(store: &Store, shards: u16) -> Result<bool, Error> {
    match store.check_schema().await {
        Err(picket_store::Error::Schema { .. }) => store.migrate(shards).await?,
        checked => checked?,
    }
    Ok(store.adopt_cluster().await?)
}
