//! The sink process.

use std::process::ExitCode;

use clap::Parser;
use picket_proto::Role;
use picket_runtime::{Bus, process};
use picket_sink::{DATABASE_CONNECTIONS, Error, Options};
use picket_store::{Store, settings};

const SERVICE_NAME: &str = "picket-sink";

/// mimalloc, for the same reason as in the coordinator: a result consists of many small
/// allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (log, listen) = (options.log.clone(), options.listen.clone());
    process::run(SERVICE_NAME, &log, &listen, |health| async move {
        settings::warn_retired_variables();
        let bus = Bus::connect(&options.nats, &Role::Sink, SERVICE_NAME, &health).await?;
        let store = Store::new(&options.database, SERVICE_NAME, DATABASE_CONNECTIONS)?;
        let running = picket_sink::start(options.to_config(), &bus, &store, &health).await?;
        Ok::<_, Error>((running, bus))
    })
    .await
}
