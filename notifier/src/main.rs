//! The notifier process.

use std::process::ExitCode;

use clap::Parser;
use picket_notifier::{Config, DATABASE_CONNECTIONS, Error, Options, start};
use picket_proto::Role;
use picket_runtime::{Bus, process};
use picket_store::{Store, settings};

const SERVICE_NAME: &str = "picket-notifier";

/// mimalloc, as in the other processes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (log, listen) = (options.log.clone(), options.listen.clone());
    let (nats, database) = (options.nats.clone(), options.database.clone());
    let config = Config::from(options);
    process::run(SERVICE_NAME, &log, &listen, |health| async move {
        settings::warn_retired_variables();
        let bus = Bus::connect(&nats, &Role::Notifier, SERVICE_NAME, &health).await?;
        let store = Store::new(&database, SERVICE_NAME, DATABASE_CONNECTIONS)?;
        let running = start(config, bus.clone(), store, health).await?;
        Ok::<_, Error>((running, bus))
    })
    .await
}
