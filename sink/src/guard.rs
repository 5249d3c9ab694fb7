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
    streams::{self, Durability},
};
use picket_store::{
    Store,
    tickets::{self, Keyring},
};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// See the module. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Guard {
    bus: Bus,
    store: Store,
    keyring: Keyring,
    durability: Durability,
    metrics: Metrics,
    /// When the process has read the keys for the first time.
    loaded_at: Boottime,
    is_ours: Arc<AtomicBool>,
    warned_of_foreign: Arc<AtomicI64>,
}

/// When the guard looked last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified {
    at: Boottime,
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

impl Guard {
    pub(crate) fn new(
        bus: Bus,
        store: Store,
        keyring: Keyring,
        durability: Durability,
        metrics: Metrics,
    ) -> Self {
        metrics.tickets_required.set(keyring.tickets().are_required().into());
        let (is_ours, warned_of_foreign, loaded_at) = (Arc::default(), Arc::default(), Boottime::now());
        Self { bus, store, keyring, durability, metrics, loaded_at, is_ours, warned_of_foreign }
    }

    /// As of the start of the process, for a pipeline that begins.
    pub(crate) fn at_start(&self) -> Verified {
        Verified { at: self.loaded_at, warned_at: None }
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
    pub(crate) async fn ensure_results(&self) -> Result<(), streams::Error> {
        let ensured = self.ensure(streams::results(self.durability)).await;
        match &ensured {
            Ok(()) => self.is_ours.store(true, Ordering::Relaxed),
            Err(streams::Error::Foreign { .. }) => self.is_ours.store(false, Ordering::Relaxed),
            // No answer says nothing.
            Err(_) => {}
        }
        ensured
    }

    /// Makes the stream of events where it is not there, and refuses another installation's.
    pub(crate) async fn ensure_events(&self) -> Result<(), streams::Error> {
        self.ensure(streams::events(self.durability)).await
    }

    async fn ensure(&self, config: async_nats::jetstream::stream::Config) -> Result<(), streams::Error> {
        let config = streams::owned(config, self.tickets().installation());
        streams::ensure(&self.bus.jetstream, config).await
    }

    /// Refuses a stream that is there as `found` if it is another installation's.
    pub(crate) fn check_owner(
        &self,
        found: &async_nats::jetstream::stream::Config,
    ) -> Result<(), streams::Error> {
        streams::check_owner(&streams::owned(found.clone(), self.tickets().installation()), found)
    }

    /// Every few seconds reads keys and settings of tickets again, and whose the stream of results is.
    pub(crate) async fn verify(&self, mut verified: Verified) -> Result<Verified, Error> {
        let now = Boottime::now();
        let age = now.since(verified.at);
        if verified.warned_at.is_none_or(|at| now.since(at) >= WARN_INTERVAL)
            && !self.tickets().are_required()
        {
            verified.warned_at = Some(now);
            warn!(
                "tickets are not required: a region's prober can publish results of checks that it was not given; once all \
                 probers are of this version: UPDATE picket.settings SET require_tickets = true"
            );
        }
        if age < tickets::REFRESH_INTERVAL {
            return Ok(verified);
        }
        let were_required = self.tickets().are_required();
        match self.keyring.refresh(&self.store).await {
            Ok(read) => {
                self.metrics.tickets_required.set(read.are_required().into());
                if read.are_required() && !were_required {
                    info!("tickets are required now");
                    verified.warned_at = None;
                }
            }
            Err(error) if age > tickets::MAX_AGE => return Err(Error::Keys(error)),
            // The writer says that the database is away, and the keys are new enough to judge by.
            Err(_) => return Ok(verified),
        }
        self.ensure_results().await?;
        Ok(Verified { at: now, ..verified })
    }

    /// Counts the result of another installation's check, and warns now and then.
    pub(crate) fn refuse_foreign(&self, installation: InstallationId) {
        self.metrics.foreign_results.inc();
        let (now, last) = (Boottime::now().micros(), self.warned_of_foreign.load(Ordering::Relaxed));
        let interval = i64::try_from(WARN_INTERVAL.as_micros()).unwrap_or(i64::MAX);
        let is_first_of_many = last == 0 || now - last >= interval;
        if is_first_of_many
            && self
                .warned_of_foreign
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
