//! Processes and servers of a fault test.

use std::path::PathBuf;

use picket_harness::servers::TestNats;

use crate::{Credentials, NetnsLab};

/// Processes of a fault test.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Names of the regions. Each region has its own sites and all common ones.
    pub regions: &'static [&'static str],
    /// Number of coordinators.
    pub coordinators: usize,
    /// Number of probers in each region.
    pub probers: usize,
    /// Number of sinks.
    pub sinks: usize,
    /// Settings besides [`SETTINGS`](super::SETTINGS).
    pub settings: &'static [(&'static str, &'static str)],
    /// Options of each prober.
    pub prober_options: &'static [&'static str],
    /// Options of each sink.
    pub sink_options: &'static [&'static str],
    /// Region whose probers reach the bus through [`FaultTest::link`](super::FaultTest::link).
    pub proxied_region: Option<&'static str>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            regions: &["east", "west"],
            coordinators: 2,
            probers: 2,
            sinks: 2,
            settings: &[],
            prober_options: &[],
            sink_options: &[],
            proxied_region: None,
        }
    }
}

/// Servers and hosts of a fault test, if they differ from the default.
#[derive(Default)]
pub struct Environment {
    /// NATS server.
    pub nats: Option<TestNats>,
    /// URLs of the bus, if the bus has more than the single server.
    pub bus: Option<String>,
    /// Credentials required by the bus.
    pub credentials: Option<Credentials>,
    /// Regions with a leaf node and its URL. Their probers connect to the leaf node only, without a
    /// credential.
    pub leaf_nodes: Vec<(&'static str, String)>,
    /// URL of a database.
    pub database: Option<String>,
    /// Network hosts: servers, coordinators and sinks run at the hub, each prober in its region,
    /// and the sites in the world.
    pub hosts: Option<NetnsLab>,
    /// Directory of the programs started first, if not those of this build.
    pub programs: Option<PathBuf>,
}
