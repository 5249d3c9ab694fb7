//! The demo: a misbehaving target and sites that check it.

mod certificates;
mod sites;
mod target;

use std::path::{Path, PathBuf};

use picket_proto::site::IntervalRange;
use picket_servers::DataDir;

pub use self::sites::{DEMO_TAG, DemoSite, demo_sites};
use self::target::DemoTarget;
use crate::error::Error;

/// A running demo target. Dropping it stops the target.
pub struct Demo {
    port: u16,
    authority_pem: String,
    _target: DemoTarget,
}

impl Demo {
    /// Starts the target on `port` of 127.0.0.1, and with TLS on the next port.
    ///
    /// # Errors
    /// If the data directory or a port is in use.
    pub async fn start(port: u16, data_dir: &Path) -> Result<Self, Error> {
        if DataDir::holder_pid(data_dir)?.is_some() {
            // A directory in use has a clearer error than the target's port, which is then in use too.
            DataDir::lock(data_dir)?;
        }
        let certificates = certificates::generate_certificates()
            .map_err(|why| Error::Failed(format!("could not make certificates: {why}")))?;
        let target = DemoTarget::start(port, certificates.server_config).await.map_err(|(port, why)| {
            Error::Usage(match why.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("port {port} of 127.0.0.1, for the demo target, is taken; choose another with --target-port")
                }
                _ => format!("could not listen on port {port} of 127.0.0.1 for the demo target: {why}"),
            })
        })?;
        Ok(Self { port, authority_pem: certificates.authority_pem, _target: target })
    }

    /// Writes the certificate of the target's authority to a file in `dir`, for the probers.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_ca_file(&self, dir: &Path) -> Result<PathBuf, Error> {
        let file = dir.join("demo-ca.pem");
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&file, &self.authority_pem))
            .map_err(|why| Error::Usage(format!("could not write {}: {why}", file.display())))?;
        Ok(file)
    }

    /// Lines for the user: the sites of the demo, with the outcome of each, and the next commands.
    pub fn describe_sites(&self) -> Vec<String> {
        let mut lines =
            vec![format!("the demo target listens on http://127.0.0.1:{}; its sites:", self.port)];
        for site in sites::demo_sites(self.port, IntervalRange::default()) {
            lines.push(format!("  {:<24}  {}", site.spec.name.unwrap_or_default(), site.description));
        }
        lines.push(
            "every kind of row appears within a minute; see 'picket status' and 'picket tail'".to_owned(),
        );
        lines
    }
}
