//! Times of the last responses from sites: evidence about the network of a prober without canaries.

use std::time::Duration;

use parking_lot::Mutex;
use picket_runtime::{NetworkScope, clock::Boottime};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Last response of each scope.
#[derive(Default)]
pub(crate) struct ResponseLog {
    latest: Mutex<LatestResponses>,
    responded: Notify,
}

#[derive(Default)]
struct LatestResponses {
    private: Option<Boottime>,
    internet: Option<Boottime>,
}

impl ResponseLog {
    /// Records a good response from a server in `scope`, at `now`.
    pub(super) fn record(&self, scope: NetworkScope, now: Boottime) {
        let mut latest = self.latest.lock();
        match scope {
            // Proves nothing about a network.
            NetworkScope::Machine => return,
            NetworkScope::Private => latest.private = Some(now),
            NetworkScope::Internet => latest.internet = Some(now),
        }
        drop(latest);
        self.responded.notify_waiters();
    }

    /// Waits for at most `longest` until a response at or after `since` proves that the network
    /// works up to `scope`. Returns false if none does.
    pub(super) async fn wait_for_proof(
        &self,
        scope: NetworkScope,
        since: Boottime,
        longest: Duration,
    ) -> bool {
        let until = Instant::now() + longest;
        loop {
            let responded = self.responded.notified();
            tokio::pin!(responded);
            // A response between the look and the wait must wake this check.
            responded.as_mut().enable();
            if self.latest.lock().proves(scope, since) {
                return true;
            }
            if timeout_at(until, responded).await.is_err() {
                return false;
            }
        }
    }
}

impl LatestResponses {
    /// Returns true if a response at or after `since` came from `scope` or from farther away.
    fn proves(&self, scope: NetworkScope, since: Boottime) -> bool {
        let is_recent = |response: Option<Boottime>| response.is_some_and(|at| at >= since);
        match scope {
            NetworkScope::Machine => true,
            NetworkScope::Private => is_recent(self.private) || is_recent(self.internet),
            NetworkScope::Internet => is_recent(self.internet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(8);

    fn at(ms: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_millis(ms))
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_from_as_far_away_and_since_the_start_is_proof() {
        let log = ResponseLog::default();
        log.record(NetworkScope::Machine, at(90));
        log.record(NetworkScope::Private, at(80));
        log.record(NetworkScope::Internet, at(50));

        for (scope, since, is_proved) in [
            (NetworkScope::Machine, 1_000, true),
            (NetworkScope::Private, 80, true),
            (NetworkScope::Private, 81, false),
            (NetworkScope::Internet, 50, true),
            (NetworkScope::Internet, 51, false),
        ] {
            let began = Instant::now();
            assert_eq!(log.wait_for_proof(scope, at(since), LONGEST).await, is_proved, "{scope:?} {since}");
            assert_eq!(began.elapsed(), if is_proved { Duration::ZERO } else { LONGEST });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_waits_for_proof_and_not_for_other_responses() {
        let log = ResponseLog::default();
        let waiting = log.wait_for_proof(NetworkScope::Internet, at(10), LONGEST);
        let responding = async {
            for (after_ms, scope) in [(1_000, NetworkScope::Private), (2_000, NetworkScope::Internet)] {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                log.record(scope, at(20));
            }
        };
        let began = Instant::now();

        let (is_proved, ()) = tokio::join!(waiting, responding);

        assert!(is_proved);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }
}
