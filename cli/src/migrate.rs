//! `picket migrate`: migrates the database schema.

use clap::{ArgMatches, Args};
use picket_store::MIGRATOR;

use crate::{connect::DatabaseArgs, error::Error, output::print_text, settings::InitialSettings};

/// Options of `picket migrate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct MigrateOptions {
    /// Number of shards that divide the sites, 1 to 1024; fixed when the database is created
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARDS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: u16,
    #[command(flatten)]
    settings: InitialSettings,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Default number of shards.
pub(crate) const DEFAULT_SHARDS: u16 = 64;

pub(crate) async fn run(options: MigrateOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect_unmigrated(matches).await?;
    if store.migrate_if_outdated(options.shards).await? {
        print_text(
            "the database was restored from another cluster: its transaction numbers were adapted to this cluster\n",
        )?;
    }
    for change in options.settings.apply(&store).await? {
        print_text(&format!("setting {change}\n"))?;
    }
    let newest = MIGRATOR.iter().map(|migration| migration.version).max();
    print_text(&format!("the schema is up to date (version {})\n", newest.unwrap_or(0)))
}
