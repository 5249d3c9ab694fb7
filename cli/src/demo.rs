//! `picket demo`: `picket up` with a misbehaving target and sites that check it.

mod certificates;
mod sites;
mod target;

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use picket_proto::{ValidationError, site::IntervalRange};
use picket_servers::DataDir;
use picket_store::{Store, settings::read_settings};

use self::target::DemoTarget;
use crate::{
    apply::{self, DesiredSites, PruneScope},
    error::Error,
    output::print_line,
    up::{self, UpOptions},
};

/// Default data directory of `demo`. Separate, so that demo sites are not mixed with real ones.
pub(crate) const DEMO_DATA_DIR: &str = ".picket-demo";

/// Options of `picket demo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Port on 127.0.0.1 of the demo target; the next port serves HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 8090, value_parser = clap::value_parser!(u16).range(1..=65_534))]
    target_port: u16,
    #[command(flatten)]
    up: UpOptions,
}

/// A running demo.
pub(crate) struct Demo {
    port: u16,
    _target: DemoTarget,
}

pub(crate) async fn run(options: DemoOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let DemoOptions { target_port, mut up } = options;
    let dir = up.data_dir.get_or_insert_with(|| PathBuf::from(DEMO_DATA_DIR)).clone();
    if DataDir::holder_pid(&dir)?.is_some() {
        // A directory in use has a clearer error than the target's port, which is then in use too.
        DataDir::lock(&dir)?;
    }
    let certificates = certificates::generate_certificates()
        .map_err(|why| Error::Failed(format!("could not make certificates: {why}")))?;
    let target = DemoTarget::start(target_port, certificates.server_config).await.map_err(|(port, why)| {
        Error::Usage(match why.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("port {port} of 127.0.0.1, for the demo target, is taken; choose another with --target-port")
            }
            _ => format!("could not listen on port {port} of 127.0.0.1 for the demo target: {why}"),
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
    /// Creates and updates the demo's sites. Sites of an earlier demo on another port are removed.
    pub(crate) async fn apply_sites(&self, store: &Store) -> Result<String, Error> {
        let intervals = read_settings(store).await?.intervals;
        let wanted = DesiredSites {
            regions: Vec::new(),
            sites: sites::demo_sites(self.port, intervals).into_iter().map(|site| site.spec).collect(),
        };
        if let Some(Err(why)) = wanted.sites.iter().map(|site| site.validate(intervals)).find(Result::is_err)
        {
            return Err(ValidationError::new("demo", why, "sites that can be checked").into());
        }
        let plan = apply::build_plan(store, "demo", &wanted, PruneScope::Tagged(sites::DEMO_TAG)).await?;
        apply::execute_plan(store, &plan).await?;
        Ok(format!("{} of the demo", wanted.sites.len()))
    }

    /// Prints the sites of the demo, with the outcome of each, and the next commands.
    pub(crate) fn print_sites(&self) {
        print_line(format_args!("the demo target listens on http://127.0.0.1:{}; its sites:", self.port));
        for site in sites::demo_sites(self.port, IntervalRange::default()) {
            print_line(format_args!("  {:<24}  {}", site.spec.name.unwrap_or_default(), site.description));
        }
        print_line("every kind of row appears within a minute; see 'picket status' and 'picket tail'");
    }
}
