//! Verifies the owner of the bus, and loads the ticket keys. Both are checked at start and again
//! every few seconds, because an operator may change them while sinks run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use picket_proto::{InstallationId, Tickets};
use picket_runtime::{
    Bus,
    clock::Boottime,
    streams::{self, StreamLimits},
};
use picket_store::{
    Store,
    settings::SharedSettings,
    tickets::{self, Keyring},
};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// See the module. Clones are cheap and share their state.
#[derive(Clone)]
pub(crate) struct InstallationGuard {
    bus: Bus,
    store: Store,
    keyring: Keyring,
    settings: SharedSettings,
    metrics: Metrics,
    /// Time of the first load of the keys.
    loaded_at: Boottime,
    is_ours: Arc<AtomicBool>,
    foreign_warned_at: Arc<AtomicI64>,
}

/// Times of the last verification and of the last warning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verification {
    verified_at: Boottime,
    warned_at: Option<Boottime>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Stream(#[from] streams::Error),
    #[error("could not reload the ticket keys")]
    Keys(#[source] picket_store::Error),
}

/// Interval between equal warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

impl InstallationGuard {
    pub(crate) fn new(
        bus: Bus,
        store: Store,
        keyring: Keyring,
        settings: SharedSettings,
        metrics: Metrics,
    ) -> Self {
        metrics.tickets_required.set(keyring.tickets().is_required().into());
        let (is_ours, foreign_warned_at, loaded_at) = (Arc::default(), Arc::default(), Boottime::now());
        Self { bus, store, keyring, settings, metrics, loaded_at, is_ours, foreign_warned_at }
    }

    /// The verification at the start of the process, for a new pipeline.
    pub(crate) fn initial_verification(&self) -> Verification {
        Verification { verified_at: self.loaded_at, warned_at: None }
    }

    /// The tickets as last loaded.
    pub(crate) fn tickets(&self) -> Arc<Tickets> {
        self.keyring.tickets()
    }

    /// Maximum age of a check whose result is stored.
    pub(crate) fn retention(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.current().retention.result_days) * 86_400)
    }

    /// Limits of a stream that the sink creates.
    fn stream_limits(&self) -> StreamLimits {
        let settings = self.settings.current();
        StreamLimits {
            replicas: settings.stream_replicas,
            max_results_bytes: settings.results_max_bytes,
            ..StreamLimits::default()
        }
    }

    /// Returns true if the bus is known to belong to this installation.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Relaxed)
    }

    /// Creates the results stream if absent. Rejects a stream of another installation.
    pub(crate) async fn ensure_results_stream(&self) -> Result<(), streams::Error> {
        let ensured = self.ensure_stream(streams::results_config(self.stream_limits())).await;
        match &ensured {
            Ok(()) => self.is_ours.store(true, Ordering::Relaxed),
            Err(streams::Error::ForeignStream { .. }) => self.is_ours.store(false, Ordering::Relaxed),
            // Without an answer the owner is unknown, so the last known state stays.
            Err(_) => {}
        }
        ensured
    }

    /// Creates the events stream if absent. Rejects a stream of another installation.
    pub(crate) async fn ensure_events_stream(&self) -> Result<(), streams::Error> {
        self.ensure_stream(streams::events_config(self.stream_limits())).await
    }

    async fn ensure_stream(
        &self,
        config: async_nats::jetstream::stream::Config,
    ) -> Result<(), streams::Error> {
        let config = streams::with_owner(config, self.tickets().installation());
        streams::create_if_missing(&self.bus.jetstream, config).await
    }

    /// Rejects an existing stream if its config `found` names another installation.
    pub(crate) fn check_owner(
        &self,
        found: &async_nats::jetstream::stream::Config,
    ) -> Result<(), streams::Error> {
        streams::check_owner(&streams::with_owner(found.clone(), self.tickets().installation()), found)
    }

    /// Reloads the keys, and verifies the owner of the results stream, if the
    /// last verification is older than [`tickets::KEY_REFRESH_INTERVAL`].
    pub(crate) async fn verify_if_due(&self, mut verified: Verification) -> Result<Verification, Error> {
        let now = Boottime::now();
        let age = now.saturating_duration_since(verified.verified_at);
        if verified.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_INTERVAL)
            && !self.tickets().is_required()
        {
            verified.warned_at = Some(now);
            warn!(
                "tickets are not required: a prober can publish results of checks that its region was not given; to \
                 require them: UPDATE picket.settings SET require_tickets = true"
            );
        }
        if age < tickets::KEY_REFRESH_INTERVAL {
            return Ok(verified);
        }
        let were_required = self.tickets().is_required();
        match self.keyring.refresh_keys(&self.store, &self.settings.current()).await {
            Ok(read) => {
                self.metrics.tickets_required.set(read.is_required().into());
                if read.is_required() && !were_required {
                    info!("tickets are now required");
                    verified.warned_at = None;
                }
            }
            Err(error) if age > tickets::MAX_KEY_AGE => return Err(Error::Keys(error)),
            // The writer reports the unavailable database, and the loaded keys are recent enough to
            // verify tickets.
            Err(_) => return Ok(verified),
        }
        self.ensure_results_stream().await?;
        Ok(Verification { verified_at: now, ..verified })
    }

    /// Counts a result of another installation's check, and logs a warning once per
    /// [`WARN_INTERVAL`].
    pub(crate) fn count_foreign_result(&self, installation: InstallationId) {
        self.metrics.foreign_results.inc();
        let (now, last) = (Boottime::now().as_micros(), self.foreign_warned_at.load(Ordering::Relaxed));
        let interval = i64::try_from(WARN_INTERVAL.as_micros()).unwrap_or(i64::MAX);
        let is_first_of_many = last == 0 || now - last >= interval;
        // The exchange lets only one of several concurrent callers log the warning.
        if is_first_of_many
            && self
                .foreign_warned_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            warn!(
                installation = %self.tickets().installation(),
                foreign = %installation,
                total = self.metrics.foreign_results.get(),
                "rejected a result of another installation"
            );
        }
    }
}
