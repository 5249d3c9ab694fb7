//! State of sites as metrics, beside those of the process.
//!
//! Bound: the sites of the option. Loss: samples older than [`SiteMetrics::MAX_AGE`] are left out,
//! since an old state would be taken for the present one.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::RwLock;
use picket_store::{
    Store,
    live_feed::{SiteSample, list_site_samples},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// See the module documentation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SiteMetrics(Arc<RwLock<Snapshot>>);

#[derive(Debug, Default)]
struct Snapshot {
    /// By site.
    samples: Vec<SiteSample>,
    read_at: Option<Instant>,
}

impl SiteMetrics {
    const INTERVAL: Duration = Duration::from_secs(15);
    const MAX_AGE: Duration = Duration::from_secs(120);

    /// Reads the state of the first `sites` sites again and again, until aborted.
    pub(crate) async fn follow_sites(self, store: Store, sites: u32) {
        loop {
            match list_site_samples(&store, sites.into()).await {
                Ok(samples) => *self.0.write() = Snapshot { samples, read_at: Some(Instant::now()) },
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not read the state of sites");
                }
            }
            sleep(Self::INTERVAL).await;
        }
    }
}

/// True if the site is up, false if an incident is open; `None` if no region reports. `samples` are
/// those of one site.
fn is_site_up(samples: &[SiteSample]) -> Option<bool> {
    let is_reporting = samples.iter().any(|sample| sample.is_up.is_some());
    let has_incident = samples.iter().any(|sample| sample.has_incident);
    is_reporting.then_some(!has_incident)
}

impl Collector for SiteMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let snapshot = self.0.read();
        if snapshot.read_at.is_none_or(|read_at| read_at.elapsed() > Self::MAX_AGE) {
            return Ok(());
        }
        let help = "1 if the site is up, 0 if an incident is open; absent if no region reports";
        let mut family = encoder.encode_descriptor("site_up", help, None, MetricType::Gauge)?;
        for samples in snapshot.samples.chunk_by(|one, other| one.site_id == other.site_id) {
            let (Some(is_up), Some(first)) = (is_site_up(samples), samples.first()) else { continue };
            let labels = [("site_id", first.site_id.to_string()), ("site", first.site.clone())];
            ConstGauge::new(i64::from(is_up)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Total time of the newest check of the site in the region";
        let mut family = encoder.encode_descriptor("site_latency_seconds", help, None, MetricType::Gauge)?;
        for sample in &snapshot.samples {
            let Some(micros) = sample.total_us else { continue };
            let labels = [
                ("site_id", sample.site_id.to_string()),
                ("site", sample.site.clone()),
                ("region", sample.region.clone()),
            ];
            ConstGauge::new(f64::from(micros) / 1e6).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use picket_runtime::Health;

    use super::*;

    fn sample(site_id: i64, is_up: Option<bool>, has_incident: bool) -> SiteSample {
        let site = format!("site {site_id}");
        SiteSample {
            site_id,
            site,
            region: "eu".to_owned(),
            is_up,
            has_incident,
            total_us: is_up.map(|_| 1_500),
        }
    }

    #[test]
    fn a_site_is_up_down_or_absent() {
        let (health, metrics) = (Health::new(), SiteMetrics::default());
        health.registry().register_collector(Box::new(metrics.clone()));
        assert!(!health.encode_metrics().unwrap().contains("picket_site_up"), "nothing was read");

        let samples =
            vec![sample(1, Some(true), false), sample(2, Some(false), true), sample(3, None, false)];
        *metrics.0.write() = Snapshot { samples, read_at: Some(Instant::now()) };

        let text = health.encode_metrics().unwrap();
        for line in [
            r#"picket_site_up{site_id="1",site="site 1"} 1"#,
            r#"picket_site_up{site_id="2",site="site 2"} 0"#,
            r#"picket_site_latency_seconds{site_id="1",site="site 1",region="eu"} 0.0015"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains(r#"site_id="3""#), "{text}");
    }
}
