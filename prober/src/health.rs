//! Health of the prober itself: stalls of its tasks, its network, and its clock.

pub(crate) mod connectivity;
pub(crate) mod job_clock;
pub(crate) mod stall;
