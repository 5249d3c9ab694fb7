//! What Prometheus asks: `/probe` as blackbox_exporter answers it, service discovery, and metrics of
//! sites.

mod exposition;
mod module;
mod probe;
pub(crate) mod site_metrics;
mod targets;

pub(crate) use self::{probe::answer_probe, targets::build_routes as build_target_routes};
