//! Wait for a usable database at the start of a service.

use std::{error::Error, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{ErrorChain, ReadinessCheck};

/// Interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between equal warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Repeats `attempt` until it succeeds, or until its error is none that `may_recover`. Each new
/// reason is logged at once, the same one every ten seconds; `readiness` has the last one.
///
/// # Errors
/// The first error that waiting cannot fix.
pub async fn wait_for_database<T, E: Error + 'static>(
    readiness: &ReadinessCheck,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
    may_recover: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut reported: Option<(String, Instant)> = None;
    loop {
        match attempt().await {
            Ok(value) => {
                if reported.is_some() {
                    info!("database available");
                }
                readiness.set_ready();
                return Ok(value);
            }
            Err(error) if !may_recover(&error) => return Err(error),
            Err(error) => {
                let why = ErrorChain(&error).to_string();
                readiness.set_unready(why.clone());
                if reported.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= WARN_INTERVAL) {
                    warn!(error = why, "waiting for the database");
                    reported = Some((why, Instant::now()));
                }
            }
        }
        sleep(RETRY_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Health;

    #[tokio::test(start_paused = true)]
    async fn a_service_waits_on_transient_errors_and_exits_on_permanent_ones() {
        let health = Health::new();
        let readiness = health.add_readiness_check("database");
        let mut attempts = 0;

        let waited = wait_for_database(
            &readiness,
            async || {
                attempts += 1;
                match attempts {
                    1 | 2 => Err(std::io::Error::other("starting up")),
                    attempt => Ok(attempt),
                }
            },
            |_| true,
        )
        .await;

        assert_eq!(waited.unwrap(), 3);
        assert!(health.unready_checks().is_empty());
        let refused = wait_for_database(
            &readiness,
            async || Err::<(), _>(std::io::Error::other("no password")),
            |_| false,
        );
        assert_eq!(refused.await.unwrap_err().to_string(), "no password");
    }
}
