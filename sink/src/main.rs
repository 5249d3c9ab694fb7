//! The sink as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use picket_proto::Role;
use picket_runtime::{Bus, process};
use picket_sink::{CONNECTIONS, Error, Options};
use picket_store::Store;

const NAME: &str = "picket-sink";

/// For the same reason as the coordinator's: a result is many small pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (log, listen) = (options.log.clone(), options.listen.clone());
    process::run(NAME, &log, &listen, |health| async move {
        let bus = Bus::connect(&options.nats, &Role::Sink, NAME, &health).await?;
        let store = Store::new(&options.database, NAME, CONNECTIONS)?;
        let running = picket_sink::start(options.config(), &bus, &store, &health).await?;
        Ok::<_, Error>((running, bus))
    })
    .await
}
