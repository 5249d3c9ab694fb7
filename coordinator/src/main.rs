//! The coordinator process.

use std::process::ExitCode;

use clap::Parser;
use picket_coordinator::{Config, DATABASE_CONNECTIONS, Error, Options, start};
use picket_proto::Role;
use picket_runtime::{Bus, process};
use picket_store::{Store, settings};

const SERVICE_NAME: &str = "picket-coordinator";

/// A job is a dozen small allocations that come and go in bursts; the system allocator took a third
/// of the time for them (docs/adr/0007-mimalloc.md). The prober keeps the system allocator:
/// mimalloc gave no speed-up there and raised memory per waiting check by half.
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
        let bus = Bus::connect(&nats, &Role::Coordinator, &config.name, &health).await?;
        let store = Store::new(&database, &config.name, DATABASE_CONNECTIONS)?;
        let running = start(config, bus.clone(), store, health).await?;
        Ok::<_, Error>((running, bus))
    })
    .await
}
