//! Sliding window of recent checks as evidence about the network. No clock, no I/O.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use picket_proto::Cause;
use picket_runtime::clock::Boottime;

/// Attribution of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribution {
    /// The network worked: the failure is the site's.
    Site,
    /// The prober had no network.
    ProberOffline,
    /// Undecided within the allowed time.
    Unknown,
    /// The failure that a check must have, without a proof that the network works.
    Unproven,
}

impl Attribution {
    /// Cause and message of a missed check whose `failure` is not the site's; `None` if it is.
    pub(crate) fn own_fault(self, failure: &str) -> Option<(Cause, String)> {
        let (cause, why) = match self {
            Self::Site => return None,
            Self::ProberOffline => {
                (Cause::ProberOffline, "this prober has no network: no canary answers either")
            }
            Self::Unknown => {
                (Cause::Overloaded, "canaries could not be asked in time whether there is a network")
            }
            Self::Unproven => (
                Cause::ProberOffline,
                "must_fail: this failure may be that of this prober's own network: no other check of this prober had \
                 a good response meanwhile, and there are no canaries (PICKET_CANARIES)",
            ),
        };
        Some((cause, format!("{why} ({failure})")))
    }
}

/// Recent checks by host, and the last response.
#[derive(Debug, Default)]
pub(super) struct FailureWindow {
    is_offline: bool,
    last_alive: Option<Boottime>,
    /// Last check of each host: its time, and true if the check failed.
    hosts: HashMap<u64, (Boottime, bool)>,
    failing_hosts: usize,
    order: VecDeque<(Boottime, u64)>,
    /// Results waiting for an attribution.
    pub(super) pending_results: usize,
}

impl FailureWindow {
    /// Older checks are no evidence for the present.
    const MAX_CHECK_AGE: Duration = Duration::from_secs(30);
    const MAX_CHECKS: usize = 8_192;
    /// Failing hosts that raise suspicion, if they are also at least half of all hosts: independent
    /// outages are unlikely.
    const MIN_FAILING_HOSTS: usize = 5;

    /// Records a check of `host`; `failed` if it failed as it would without a network.
    pub(super) fn record_check(&mut self, host: u64, failed: bool, now: Boottime) {
        if let Some((_, true)) = self.hosts.insert(host, (now, failed)) {
            self.failing_hosts -= 1;
        }
        self.failing_hosts += usize::from(failed);
        self.order.push_back((now, host));
        while let Some((at, host)) = self.order.front().copied()
            && (self.order.len() > Self::MAX_CHECKS
                || now.saturating_duration_since(at) > Self::MAX_CHECK_AGE)
        {
            self.order.pop_front();
            // Otherwise the host was checked again since.
            if self.hosts.get(&host).is_some_and(|(last, _)| *last == at)
                && let Some((_, failed)) = self.hosts.remove(&host)
            {
                self.failing_hosts -= usize::from(failed);
            }
        }
        if !failed {
            self.last_alive = Some(now);
        }
    }

    /// Returns true if so many hosts fail that the network is suspect, irrespective of the hosts
    /// that respond.
    pub(super) fn is_suspicious(&self) -> bool {
        self.failing_hosts >= Self::MIN_FAILING_HOSTS && self.failing_hosts * 2 >= self.hosts.len()
    }

    /// Returns true if no canary responded in the last round.
    pub(super) fn is_offline(&self) -> bool {
        self.is_offline
    }

    /// Attributes a failure at `failed_at`; `None` while undecided.
    pub(super) fn decide_attribution(&self, failed_at: Boottime) -> Option<Attribution> {
        if self.is_offline {
            return Some(Attribution::ProberOffline);
        }
        let was_alive = self.last_alive.is_some_and(|alive| alive >= failed_at);
        (was_alive && !self.is_suspicious()).then_some(Attribution::Site)
    }

    /// Returns true if only canaries can decide a held result.
    pub(super) fn should_probe_canaries(&self) -> bool {
        self.pending_results > 0 && !self.is_offline
    }

    /// Records a round of canaries; `any` is true if a canary responded.
    pub(super) fn record_canaries(&mut self, any: bool, now: Boottime) {
        self.is_offline = !any;
        if any {
            self.last_alive = Some(now);
        }
        // The evidence that caused the round is settled.
        self.hosts.clear();
        self.order.clear();
        self.failing_hosts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Boottime {
        Boottime::from_elapsed(Duration::from_millis(1_000 + ms))
    }

    fn view(checks: &[(u64, bool, u64)]) -> FailureWindow {
        let mut view = FailureWindow::default();
        for (host, failed, moment) in checks {
            view.record_check(*host, *failed, at(*moment));
        }
        view
    }

    #[test]
    fn a_failure_is_accepted_when_another_site_answers_after_it() {
        let mut view = view(&[(1, false, 0), (2, true, 10)]);
        assert_eq!(view.decide_attribution(at(10)), None, "earlier observations are no evidence");
        view.record_check(1, false, at(20));

        assert_eq!(view.decide_attribution(at(10)), Some(Attribution::Site));
    }

    #[test]
    fn a_few_answers_among_many_failing_hosts_are_no_proof() {
        let mut view = view(&[(1, true, 0), (2, true, 1), (3, true, 2), (4, true, 3), (9, false, 4)]);
        assert!(!view.is_suspicious());
        view.record_check(5, true, at(5));
        view.record_check(9, false, at(6));

        assert!(view.is_suspicious());
        assert_eq!(view.decide_attribution(at(5)), None);
        view.record_canaries(true, at(8));
        assert_eq!(view.decide_attribution(at(5)), Some(Attribution::Site), "a canary is proof");
        assert!(!view.is_suspicious());
    }

    #[test]
    fn five_failing_hosts_among_many_healthy_ones_are_down() {
        let mut checks: Vec<_> = (0..6).map(|host| (host, false, host)).collect();
        checks.extend((10..15).map(|host| (host, true, host)));
        let view = view(&checks);

        assert!(!view.is_suspicious());
    }

    #[test]
    fn a_host_that_fails_often_counts_once() {
        let view =
            view(&[(1, true, 0), (1, true, 1), (1, true, 2), (1, true, 3), (1, true, 4), (1, true, 5)]);

        assert!(!view.is_suspicious());
        assert_eq!((view.failing_hosts, view.hosts.len()), (1, 1));
    }

    #[test]
    fn old_observations_expire() {
        let mut view = view(&[(1, true, 0), (2, true, 1), (3, true, 2), (4, true, 3), (5, true, 4)]);
        assert!(view.is_suspicious());
        view.record_check(6, true, at(40_000));

        assert!(!view.is_suspicious());
        assert_eq!((view.failing_hosts, view.hosts.len(), view.order.len()), (1, 1, 1));
    }

    #[test]
    fn an_offline_prober_is_online_again_when_a_canary_answers() {
        let mut view = view(&[(1, true, 0)]);
        view.record_canaries(false, at(1));
        assert_eq!(view.decide_attribution(at(0)), Some(Attribution::ProberOffline));
        view.record_check(2, false, at(3));
        assert!(view.is_offline(), "a canary decides");
        view.record_canaries(true, at(4));

        assert!(!view.is_offline());
        assert_eq!(
            view.decide_attribution(at(5)),
            None,
            "a failure after the canary's answer is in doubt again"
        );
    }
}
