//! Whether results may be taken from this bus, and the keys by which they are judged: verified at start and every few
//! seconds, since an operator changes both while sinks run.

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
    tickets::{self, Keyring},
};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// See the module. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct InstallationGuard {
    bus: Bus,
    store: Store,
    keyring: Keyring,
    durability: StreamLimits,
    metrics: Metrics,
    /// When the process has read the keys for the first time.
    loaded_at: Boottime,
    is_ours: Arc<AtomicBool>,
    foreign_warned_at: Arc<AtomicI64>,
}

/// When the guard looked last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verification {
    verified_at: Boottime,
    warned_at: Option<Boottime>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Stream(#[from] streams::Error),
    #[error("the keys of tickets could not be read again")]
    Keys(#[source] picket_store::Error),
}

/// Between two lines that say the same.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

impl InstallationGuard {
    pub(crate) fn new(
        bus: Bus,
        store: Store,
        keyring: Keyring,
        durability: StreamLimits,
        metrics: Metrics,
    ) -> Self {
        metrics.tickets_required.set(keyring.tickets().is_required().into());
        let (is_ours, foreign_warned_at, loaded_at) = (Arc::default(), Arc::default(), Boottime::now());
        Self { bus, store, keyring, durability, metrics, loaded_at, is_ours, foreign_warned_at }
    }

    /// As of the start of the process, for a pipeline that begins.
    pub(crate) fn initial_verification(&self) -> Verification {
        Verification { verified_at: self.loaded_at, warned_at: None }
    }

    /// As they were read last.
    pub(crate) fn tickets(&self) -> Arc<Tickets> {
        self.keyring.tickets()
    }

    /// Whether the bus is known to belong to this installation.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Relaxed)
    }

    /// Makes the stream of results where it is not there, and refuses another installation's.
    pub(crate) async fn ensure_results_stream(&self) -> Result<(), streams::Error> {
        let ensured = self.ensure_stream(streams::results_config(self.durability)).await;
        match &ensured {
            Ok(()) => self.is_ours.store(true, Ordering::Relaxed),
            Err(streams::Error::ForeignStream { .. }) => self.is_ours.store(false, Ordering::Relaxed),
            // No answer says nothing.
            Err(_) => {}
        }
        ensured
    }

    /// Makes the stream of events where it is not there, and refuses another installation's.
    pub(crate) async fn ensure_events_stream(&self) -> Result<(), streams::Error> {
        self.ensure_stream(streams::events_config(self.durability)).await
    }

    async fn ensure_stream(
        &self,
        config: async_nats::jetstream::stream::Config,
    ) -> Result<(), streams::Error> {
        let config = streams::with_owner(config, self.tickets().installation());
        streams::create_if_missing(&self.bus.jetstream, config).await
    }

    /// Refuses a stream that is there as `found` if it is another installation's.
    pub(crate) fn check_owner(
        &self,
        found: &async_nats::jetstream::stream::Config,
    ) -> Result<(), streams::Error> {
        streams::check_owner(&streams::with_owner(found.clone(), self.tickets().installation()), found)
    }

    /// Every few seconds reads keys and settings of tickets again, and whose the stream of results is.
    pub(crate) async fn verify_if_due(&self, mut verified: Verification) -> Result<Verification, Error> {
        let now = Boottime::now();
        let age = now.saturating_duration_since(verified.verified_at);
        if verified.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_INTERVAL)
            && !self.tickets().is_required()
        {
            verified.warned_at = Some(now);
            warn!(
                "tickets are not required: a region's prober can publish results of checks that it was not given; once all \
                 probers are of this version: UPDATE picket.settings SET require_tickets = true"
            );
        }
        if age < tickets::KEY_REFRESH_INTERVAL {
            return Ok(verified);
        }
        let were_required = self.tickets().is_required();
        match self.keyring.refresh_keys(&self.store).await {
            Ok(read) => {
                self.metrics.tickets_required.set(read.is_required().into());
                if read.is_required() && !were_required {
                    info!("tickets are required now");
                    verified.warned_at = None;
                }
            }
            Err(error) if age > tickets::MAX_KEY_AGE => return Err(Error::Keys(error)),
            // The writer says that the database is away, and the keys are new enough to judge by.
            Err(_) => return Ok(verified),
        }
        self.ensure_results_stream().await?;
        Ok(Verification { verified_at: now, ..verified })
    }

    /// Counts the result of another installation's check, and warns now and then.
    pub(crate) fn count_foreign_result(&self, installation: InstallationId) {
        self.metrics.foreign_results.inc();
        let (now, last) = (Boottime::now().as_micros(), self.foreign_warned_at.load(Ordering::Relaxed));
        let interval = i64::try_from(WARN_INTERVAL.as_micros()).unwrap_or(i64::MAX);
        let is_first_of_many = last == 0 || now - last >= interval;
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
                "refused a result of installation {installation}: it is not stored here"
            );
        }
    }
}
