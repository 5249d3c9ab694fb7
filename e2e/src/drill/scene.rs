//! What is at work in a drill.

/// What is at work in a drill.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
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
    /// What each sink is started with.
    pub sink_options: &'static [&'static str],
    /// The region whose probers reach the bus through [`Drill::link`].
    pub linked: Option<&'static str>,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            regions: &["east", "west"],
            coordinators: 2,
            probers: 2,
            sinks: 2,
            coordinator_options: &[],
            prober_options: &[],
            sink_options: &[],
            linked: None,
        }
    }
}
