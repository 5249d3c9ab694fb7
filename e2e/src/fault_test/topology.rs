//! What is at work in a drill, and on what.

use std::path::PathBuf;

use picket_testkit::servers::TestNats;

use crate::{Credentials, NetnsLab};

/// What is at work in a drill.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Their names; each has sites of its own and all common ones.
    pub regions: &'static [&'static str],
    /// How many.
    pub coordinators: usize,
    /// How many in each region.
    pub probers: usize,
    /// How many.
    pub sinks: usize,
    /// What each coordinator is started with, besides a short lease and a short grace.
    pub coordinator_options: &'static [&'static str],
    /// What each prober is started with.
    pub prober_options: &'static [&'static str],
    /// From how many at the same moment on results share a message in the west. A drill has too few sites for that to come about as
    /// it does under load.
    pub bundle_from: &'static str,
    /// What each sink is started with.
    pub sink_options: &'static [&'static str],
    /// The region whose probers reach the bus through [`Drill::link`](super::Drill::link).
    pub proxied_region: Option<&'static str>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            regions: &["east", "west"],
            coordinators: 2,
            probers: 2,
            sinks: 2,
            coordinator_options: &[],
            prober_options: &[],
            bundle_from: "2",
            sink_options: &[],
            proxied_region: None,
        }
    }
}

/// What a drill plays on, where that is not servers of its own as all have them.
#[derive(Default)]
pub struct Environment {
    /// A bus.
    pub nats: Option<TestNats>,
    /// Where processes find the bus, if it is more than this one server.
    pub bus: Option<String>,
    /// The credentials that the bus wants.
    pub credentials: Option<Credentials>,
    /// Regions with a leaf node, to which alone their probers connect, without a credential, and its URL.
    pub leaf_nodes: Vec<(&'static str, String)>,
    /// The URL of a database.
    pub database: Option<String>,
    /// Where the servers, coordinators and sinks are at the hub, each prober in its region, and the sites in the world.
    pub hosts: Option<NetnsLab>,
    /// Where the programs are that it begins with, if not those of this build.
    pub programs: Option<PathBuf>,
}
