//! The `picket-coordinator` binary; see the library.

use std::process::ExitCode;

use clap::Parser;
use picket_coordinator::{Config, Error, options::Options, start};
use picket_proto::Role;
use picket_runtime::{Bus, process, streams::StreamLimits};
use picket_store::{Store, settings};

/// A job is a dozen small allocations that come and go in bursts; the system allocator took a third
/// of the time for them (docs/adr/0007-mimalloc.md). The prober keeps the system allocator:
/// mimalloc gave no speed-up there and raised memory per waiting check by half.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let config = Config {
        name: options.name.clone().unwrap_or_else(process::unique_name),
        max_jobs_bytes: StreamLimits::default().max_jobs_bytes,
    };
    let (nats, database) = (&options.nats, &options.database);
    process::run("picket-coordinator", &options.log, &options.listen, |health| async move {
        settings::warn_retired_variables();
        let store = Store::new(database, &config.name, 6)?;
        let bus = Bus::connect(nats, &Role::Coordinator, &config.name, &health).await?;
        let running = start(config, bus.clone(), store, health).await?;
        Ok::<_, Error>((running, bus))
    })
    .await
}
