//! Permits for work that would otherwise take all threads or all database connections.
//!
//! Bound: the permits, and a wait for one of [`Permits::MAX_WAIT`]; the number of waiting requests is at most that
//! of the connections. A request that waits longer is refused and counted.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    DATABASE_CONNECTIONS,
    metrics::{Metrics, Refusal},
    problem::{Problem, ProblemKind},
};

/// Permits for one kind of work.
pub(crate) struct Permits {
    /// What goes on, for people.
    what: &'static str,
    refusal: Refusal,
    semaphore: Arc<Semaphore>,
    metrics: Metrics,
}

impl Permits {
    /// Maximum time that a request waits for a permit.
    const MAX_WAIT: Duration = Duration::from_secs(5);
    const RETRY_AFTER_SECONDS: u64 = 10;

    /// Permits to validate sites, whose regexes and JSON paths take a processor for seconds.
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
        Self { what, refusal, semaphore: Arc::new(Semaphore::new(number)), metrics: metrics.clone() }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// If none is free in time.
    async fn acquire(&self) -> Result<OwnedSemaphorePermit, Problem> {
        match timeout(Self::MAX_WAIT, self.semaphore.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
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
        let permit = self.acquire().await?;
        let run = tokio::spawn(async move {
            let result = work.await;
            drop(permit);
            result
        });
        run.await.map_err(|error| Problem::internal(&error))
    }

    /// Runs work that takes a processor on a thread for such work. The work ends by itself, and has its permit until
    /// then, if the request is given up meanwhile.
    ///
    /// # Errors
    /// If no permit is free in time.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.acquire().await?;
        let run = spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        run.await.map_err(|error| Problem::internal(&error))
    }
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
        let held = (permits.acquire().await.unwrap(), permits.acquire().await.unwrap());

        let refusal = permits.run_blocking(|| ()).await.unwrap_err();

        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.detail().contains("too many validations of sites"), "{}", refusal.detail());
        assert_eq!(refusal.retry_after(), Some(Permits::RETRY_AFTER_SECONDS));
        drop(held);
        assert_eq!(permits.run_blocking(|| 7).await.unwrap(), 7);
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
        drop(permits.acquire().await.unwrap());
    }

    #[tokio::test]
    async fn work_of_a_request_that_is_given_up_keeps_its_permit_until_it_ends() {
        let permits = Permits::new("works", 1, Refusal::ValidationLimit, &Metrics::new(&Health::new()));
        let (start, started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let mut running = Box::pin(permits.run_blocking(move || {
            let _ = start.send(());
            let _ = ended.recv();
        }));
        assert!(timeout(Duration::ZERO, &mut running).await.is_err());
        started.recv().unwrap();

        drop(running);
        assert_eq!(permits.semaphore.available_permits(), 0);

        end.send(()).unwrap();
        drop(permits.acquire().await.unwrap());
    }
}
