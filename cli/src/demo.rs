//! `picket demo`: `picket up` with a target that misbehaves in every way, and sites on it.

mod certificates;
mod sites;
mod target;

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use picket_proto::{ValidationError, site::IntervalRange};
use picket_servers::DataDir;
use picket_store::Store;

use self::target::DemoTarget;
use crate::{
    apply::{self, DesiredSites, PruneScope},
    error::Error,
    output::print_line,
    up::{self, UpOptions},
};

/// Where `demo` keeps its data unless told otherwise, so that its sites do not come to stand among real ones.
pub(crate) const DEMO_DATA_DIR: &str = ".picket-demo";

/// See `picket demo --help`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoOptions {
    /// The port of 127.0.0.1 that the target listens on; the next one is for HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 8090, value_parser = clap::value_parser!(u16).range(1..=65_534))]
    target_port: u16,
    #[command(flatten)]
    up: UpOptions,
}

/// A running target.
pub(crate) struct Demo {
    port: u16,
    _target: DemoTarget,
}

pub(crate) async fn run(options: DemoOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let DemoOptions { target_port, mut up } = options;
    let dir = up.data_dir.get_or_insert_with(|| PathBuf::from(DEMO_DATA_DIR)).clone();
    if DataDir::holder_pid(&dir)?.is_some() {
        // Says whose it is, better than the target's port would.
        DataDir::lock(&dir)?;
    }
    let certificates = certificates::generate_certificates()
        .map_err(|why| Error::Failed(format!("could not make certificates: {why}")))?;
    let target = DemoTarget::start(target_port, certificates.server_config).await.map_err(|(port, why)| {
        Error::Usage(match why.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("port {port} of 127.0.0.1, which the target is to listen on, is taken; choose another with --target-port")
            }
            _ => format!("could not listen on port {port} of 127.0.0.1 for the target: {why}"),
        })
    })?;
    if up.ca_file.is_none() {
        up.ca_file = Some(write_ca_file(&dir, &certificates.authority_pem)?);
    }
    let demo = Demo { port: target_port, _target: target };
    up::run_up(up, matches, Some(demo)).await
}

fn write_ca_file(dir: &Path, authority: &str) -> Result<PathBuf, Error> {
    let file = dir.join("demo-ca.pem");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&file, authority))
        .map_err(|why| Error::Usage(format!("could not write {}: {why}", file.display())))?;
    Ok(file)
}

impl Demo {
    /// Makes the demo's sites what they should be; those of an earlier demo on another port go.
    pub(crate) async fn apply_sites(&self, store: &Store, intervals: IntervalRange) -> Result<String, Error> {
        let wanted = DesiredSites {
            regions: Vec::new(),
            sites: sites::demo_sites(self.port, intervals).into_iter().map(|site| site.spec).collect(),
        };
        if let Some(Err(why)) = wanted.sites.iter().map(|site| site.validate(intervals)).find(Result::is_err)
        {
            return Err(ValidationError::new("demo", why, "sites that can be watched").into());
        }
        let plan = apply::build_plan(store, "demo", &wanted, PruneScope::Tagged(sites::DEMO_TAG)).await?;
        apply::execute_plan(store, &plan).await?;
        Ok(format!("{} of the demo", wanted.sites.len()))
    }

    /// Says which sites there are, and what to look at.
    pub(crate) fn print_sites(&self) {
        print_line(format_args!(
            "the demo's target listens on http://127.0.0.1:{} and misbehaves:",
            self.port
        ));
        for site in sites::demo_sites(self.port, IntervalRange::default()) {
            print_line(format_args!("  {:<24}  {}", site.spec.name.unwrap_or_default(), site.description));
        }
        print_line("watch them with 'status' and 'tail'; within a minute every kind of row is there");
    }
}
