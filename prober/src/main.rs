//! Entry point of the prober process.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use picket_prober::{Config, Error, Options, SecretsArgs, start};
use picket_proto::Role;
use picket_runtime::{Bus, process};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tracing::warn;

fn main() -> ExitCode {
    if let Some(command) = SecretsArgs::from_process() {
        return command.run_command();
    }
    let options = Options::parse();
    let mut builder = match options.threads.get() {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if options.threads.get() > 1 {
        builder.worker_threads(options.threads.get().into());
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("picket-prober: no runtime: {why}");
            return ExitCode::from(process::EXIT_SOFTWARE);
        }
    };
    let (log, listen, nats) = (options.log.clone(), options.listen.clone(), options.nats.clone());
    let config = Config::from(options);
    let code = runtime.block_on(process::run("picket-prober", &log, &listen, async |health| {
        raise_open_files_limit(config.concurrency);
        let name = format!("picket-prober/{}/{}", config.region, config.name);
        let role = Role::Prober(config.region.clone());
        let bus = Bus::connect(&nats, &role, &name, &health).await.map_err(Error::Bus)?;
        let running = start(config, bus.clone(), health).await?;
        Ok::<_, Error>((running, bus))
    }));
    // A blocked host name lookup cannot be interrupted and must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Raises the soft limit of open files to the hard limit: a check needs one or two files, and the
/// soft limit is often 1,024. Checks that fail for lack of files are `missed/overloaded`.
fn raise_open_files_limit(concurrency: usize) {
    let limit = getrlimit(Resource::Nofile);
    // Cannot fail: any soft limit up to the hard limit is allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let needed = 2 * concurrency as u64 + 100;
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < needed
    {
        warn!(
            allowed,
            needed,
            "open files limit is too low for the concurrency; raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}
