//! Permits for work that would otherwise take all threads or all database connections.
//!
//! Bound: the permits, and a wait for one of [`Permits::MAX_WAIT`]; the number of waiting requests is at most that
//! of the connections. A request that waits longer is refused and counted.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    DATABASE_CONNECTIONS,
    access::{Access, limits::LimitKey},
    metrics::{Metrics, Refusal},
    problem::{Problem, ProblemKind},
};

/// Permits for one kind of work.
pub(crate) struct Permits {
    /// What goes on, for people.
    what: &'static str,
    refusal: Refusal,
    semaphore: Arc<Semaphore>,
    /// Turns of the senders whose work runs or waits.
    turns: Mutex<HashMap<LimitKey, Weak<Semaphore>>>,
    metrics: Metrics,
}

impl Permits {
    /// Maximum time that a request waits for a permit.
    const MAX_WAIT: Duration = Duration::from_secs(5);
    const RETRY_AFTER_SECONDS: u64 = 10;

    /// Permits to validate sites, whose regexes and JSON paths take a processor for seconds, and to plan definitions.
    pub(crate) fn for_validations(metrics: &Metrics) -> Self {
        const MAX_VALIDATIONS: usize = 2;
        Self::new("validations of sites", MAX_VALIDATIONS, Refusal::ValidationLimit, metrics)
    }

    /// Permits for reports and ledgers: half of the database connections, so that the checks of access, lists and
    /// pages have the other half.
    pub(crate) fn for_reports(metrics: &Metrics) -> Self {
        const MAX_REPORTS: usize = DATABASE_CONNECTIONS as usize / 2;
        Self::new("reports and ledgers", MAX_REPORTS, Refusal::ReportLimit, metrics)
    }

    fn new(what: &'static str, number: usize, refusal: Refusal, metrics: &Metrics) -> Self {
        let (semaphore, turns) = (Arc::new(Semaphore::new(number)), Mutex::default());
        Self { what, refusal, semaphore, turns, metrics: metrics.clone() }
    }

    /// Waits for a permit; with a turn, which only one holder has, first for that.
    ///
    /// # Errors
    /// If none is free in time.
    async fn acquire(&self, turn: Option<Arc<Semaphore>>) -> Result<HeldPermit, Problem> {
        let acquire = async {
            let turn = match turn {
                Some(turn) => Some(turn.acquire_owned().await?),
                None => None,
            };
            Ok::<_, AcquireError>(HeldPermit {
                _permit: self.semaphore.clone().acquire_owned().await?,
                _turn: turn,
            })
        };
        match timeout(Self::MAX_WAIT, acquire).await {
            Ok(Ok(held)) => Ok(held),
            // The semaphores are never closed.
            Ok(Err(_)) | Err(_) => {
                self.metrics.count_refusal(self.refusal);
                let detail = format!("too many {} at once; try again", self.what);
                Err(Problem::new(ProblemKind::Overloaded, detail).with_retry_after(Self::RETRY_AFTER_SECONDS))
            }
        }
    }

    /// Runs work in a task of its own. The work goes on to its end, and has its permit until then, if the request is
    /// given up meanwhile: a statement keeps its database connection for as long.
    ///
    /// # Errors
    /// If no permit is free in time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_in_turn(None, work).await
    }

    /// Runs reads of the store, as [`run`](Self::run).
    ///
    /// # Errors
    /// If no permit is free in time, or the reads fail.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        reads: impl Future<Output = Result<T, picket_store::Error>> + Send + 'static,
    ) -> Result<T, Problem> {
        Ok(self.run(reads).await??)
    }

    /// Runs work as [`run`](Self::run), while no other work of the same sender runs: one sender has at most one of the
    /// permits.
    ///
    /// # Errors
    /// If no permit is free in time.
    pub(crate) async fn run_for<T: Send + 'static>(
        &self,
        sender: &Access,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.find_turn(LimitKey::from(sender));
        self.run_in_turn(Some(turn), work).await
    }

    /// Runs work that takes a processor on a thread for such work, as [`run_for`](Self::run_for).
    ///
    /// # Errors
    /// If no permit is free in time.
    pub(crate) async fn run_blocking_for<T: Send + 'static>(
        &self,
        sender: &Access,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let run = self.run_for(sender, async move { spawn_blocking(work).await }).await?;
        run.map_err(|error| Problem::internal(&error))
    }

    async fn run_in_turn<T: Send + 'static>(
        &self,
        turn: Option<Arc<Semaphore>>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let held = self.acquire(turn).await?;
        let run = tokio::spawn(async move {
            let result = work.await;
            drop(held);
            result
        });
        run.await.map_err(|error| Problem::internal(&error))
    }

    /// The turn of a sender. Turns that nobody waits for or has are forgotten.
    fn find_turn(&self, sender: LimitKey) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        match turns.get(&sender).and_then(Weak::upgrade) {
            Some(turn) => turn,
            None => {
                let turn = Arc::new(Semaphore::new(1));
                turns.insert(sender, Arc::downgrade(&turn));
                turn
            }
        }
    }
}

/// A permit with the turn of its sender.
struct HeldPermit {
    _permit: OwnedSemaphorePermit,
    _turn: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use http::StatusCode;
    use picket_runtime::Health;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_beyond_the_permits_waits_and_is_then_refused_with_the_time_to_wait() {
        let permits = Permits::for_validations(&Metrics::new(&Health::new()));
        let held = (permits.acquire(None).await.unwrap(), permits.acquire(None).await.unwrap());

        let refusal = permits.run_blocking_for(&Access::open(), || ()).await.unwrap_err();

        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.detail().contains("too many validations of sites"), "{}", refusal.detail());
        assert_eq!(refusal.retry_after(), Some(Permits::RETRY_AFTER_SECONDS));
        drop(held);
        assert_eq!(permits.run_blocking_for(&Access::open(), || 7).await.unwrap(), 7);
        assert_eq!(permits.turns.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_sender_has_at_most_one_permit_at_a_time() {
        let permits = Permits::for_validations(&Metrics::new(&Health::new()));
        let turn = permits.find_turn(LimitKey::Token(1));
        let held = permits.acquire(Some(turn)).await.unwrap();

        let same = permits.acquire(Some(permits.find_turn(LimitKey::Token(1)))).await;
        let other = permits.acquire(Some(permits.find_turn(LimitKey::Token(2)))).await;

        assert_eq!(same.err().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(other.unwrap());
        drop(held);
        drop(permits.acquire(Some(permits.find_turn(LimitKey::Token(1)))).await.unwrap());
        drop(permits.find_turn(LimitKey::Token(3)));
        assert_eq!(permits.turns.lock().len(), 1, "turns that nobody has are forgotten");
    }

    #[tokio::test]
    async fn a_statement_of_a_request_that_is_given_up_keeps_its_permit_until_it_ends() {
        let permits = Permits::new("works", 1, Refusal::ReportLimit, &Metrics::new(&Health::new()));
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut running = Box::pin(permits.run(async move {
            let _ = ended.await;
        }));
        assert!(timeout(Duration::ZERO, &mut running).await.is_err());

        drop(running);
        tokio::task::yield_now().await;
        assert_eq!(permits.semaphore.available_permits(), 0);

        end.send(()).unwrap();
        drop(permits.acquire(None).await.unwrap());
    }

    #[tokio::test]
    async fn work_of_a_request_that_is_given_up_keeps_its_permit_until_it_ends() {
        let permits = Permits::new("works", 1, Refusal::ValidationLimit, &Metrics::new(&Health::new()));
        let (start, started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let sender = Access::open();
        let mut running = Box::pin(permits.run_blocking_for(&sender, move || {
            let _ = start.send(());
            let _ = ended.recv();
        }));
        assert!(timeout(Duration::from_millis(50), &mut running).await.is_err());
        started.recv().unwrap();

        drop(running);
        assert_eq!(permits.semaphore.available_permits(), 0);

        end.send(()).unwrap();
        drop(permits.acquire(None).await.unwrap());
    }
}
