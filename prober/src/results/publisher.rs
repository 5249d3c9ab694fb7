//! Publishes results until the stream has stored them, and publishes rejected requests with the
//! reason.
//!
//! Bound: one result per slot; a check keeps its slot until its result is stored. Loss: a result
//! not stored within [`Publisher::STORE_TIMEOUT`] is counted, and its job is not acknowledged and
//! therefore redelivered.

use std::time::Duration;

use bytes::Bytes;
use picket_proto::{CheckResult, RegionName, ValidationError, subject, validation::sanitize_text};
use picket_runtime::{Backoff, Bus, clock, redact};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::{metrics::Metrics, results::batcher::ResultBatcher};

#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) bus: Bus,
    pub(crate) region: RegionName,
    pub(crate) prober: String,
    pub(crate) metrics: Metrics,
    pub(crate) batcher: ResultBatcher,
}

/// The stream did not store a result in time; contains the reason of the last attempt.
#[derive(Debug, thiserror::Error)]
#[error("the result was not stored: {0}")]
pub(crate) struct NotStored(String);

impl Publisher {
    /// Maximum time to retry the publish of a result.
    const STORE_TIMEOUT: Duration = Duration::from_secs(60);
    const SHOWN_PAYLOAD_BYTES: usize = 4 << 10;

    /// Publishes `result`, batched with other pending results, until the stream has acknowledged
    /// it.
    pub(crate) async fn publish_until_stored(&self, result: &CheckResult) -> Result<(), NotStored> {
        let payload = Bytes::from(serde_json::to_vec(result).map_err(|why| NotStored(why.to_string()))?);
        let until = Instant::now() + Self::STORE_TIMEOUT;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let why = match self.batcher.publish_result(result.shard, payload.clone()).await {
                Ok(()) => {
                    self.metrics.results_published.inc();
                    return Ok(());
                }
                Err(why) => why,
            };
            let wait = backoff.next_delay();
            // No further attempt fits: give up now and leave the job to redelivery.
            if Instant::now() + wait >= until {
                self.metrics.results_lost.inc();
                warn!(
                    check.id = result.id,
                    site.id = result.site_id.map(|site| site.0),
                    error = why,
                    "result lost, not stored in time"
                );
                return Err(NotStored(why));
            }
            self.metrics.publish_retries.inc();
            sleep(wait).await;
        }
    }

    /// Publishes a rejected request with the reason to the region's subject for rejected requests.
    pub(crate) async fn publish_rejection(&self, from: &str, payload: &[u8], why: &ValidationError) {
        self.metrics.rejected.inc();
        warn!(subject = from, field = why.field, error = %why, "rejected a request");
        // Before it is truncated: a part of a secret would not be found.
        let payload = redact(&String::from_utf8_lossy(payload)).into_owned();
        let rejection = json!({
            "reason": why.to_string(),
            "field": why.field,
            "value": why.value,
            "allowed": why.expected,
            "subject": from,
            "payload": sanitize_text(&payload, Self::SHOWN_PAYLOAD_BYTES),
            "region": self.region,
            "prober": self.prober,
            "rejected_at": clock::wall_clock_now(),
        });
        let rejection = redact(&rejection.to_string()).into_owned();
        let publishing = self.bus.client.publish(subject::rejected_request(&self.region), rejection.into());
        with_publish_timeout("publish_rejection", publishing).await;
    }
}

/// Awaits a core publish, which completes at once except after a long disconnection. Logs a
/// failure.
pub(crate) async fn with_publish_timeout<E: std::fmt::Display>(
    operation: &str,
    publishing: impl Future<Output = Result<(), E>>,
) {
    match timeout(Bus::CORE_PUBLISH_TIMEOUT, publishing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(operation, %error, "publish failed"),
        Err(_) => warn!(operation, error = "timed out", "publish failed"),
    }
}
