//! What Prometheus asks: `/probe` as blackbox_exporter answers it, service discovery, and metrics of
//! sites.

mod exposition;
mod module;
mod probe;
mod site_metrics;
mod targets;

pub(crate) use self::{
    probe::answer_probe, site_metrics::SiteMetrics, targets::build_routes as build_target_routes,
};
