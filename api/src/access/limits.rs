//! Rate limits, by token or by address.
//!
//! Bound: [`RateLimit::MAX_KEYS`] keys a limit; beyond it all further keys share one. Loss: a restart forgets the
//! counts, and each process counts for itself.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock};
use picket_runtime::peer_network;
use tokio::time::sleep;

use super::client::Client;
use crate::{
    metrics::{Metrics, Refusal},
    problem::{Problem, ProblemKind},
};

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LimitKey {
    /// A token, with its sessions.
    Token(i64),
    /// The sessions of a person.
    Person(String),
    /// An IPv4 address, or the network of an IPv6 address: a host has a whole /64.
    Address(IpAddr),
    /// All others, when there are too many keys.
    Overflow,
}

impl From<IpAddr> for LimitKey {
    fn from(address: IpAddr) -> Self {
        Self::Address(peer_network(address))
    }
}

impl From<&Client> for LimitKey {
    fn from(client: &Client) -> Self {
        client.address.map_or(Self::Overflow, Self::from)
    }
}

/// A number of requests a minute.
pub(crate) struct RateLimit {
    /// What is limited, for people.
    what: &'static str,
    refusal: Refusal,
    per_minute: u32,
    limiter: DefaultKeyedRateLimiter<LimitKey>,
    metrics: Metrics,
}

impl RateLimit {
    /// Maximum number of keys. A key takes about 100 bytes.
    const MAX_KEYS: usize = 50_000;

    fn new(what: &'static str, per_minute: u32, refusal: Refusal, metrics: &Metrics) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        let limiter = DefaultKeyedRateLimiter::dashmap(quota);
        Self { what, refusal, per_minute, limiter, metrics: metrics.clone() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// If the limit is exceeded; the problem states the time to wait.
    pub(crate) fn check(&self, key: impl Into<LimitKey>) -> Result<(), Problem> {
        let key = if self.limiter.len() < Self::MAX_KEYS { key.into() } else { LimitKey::Overflow };
        self.limiter.check_key(&key).map_err(|refused| {
            self.metrics.count_refusal(self.refusal);
            let wait = refused.wait_time_from(self.limiter.clock().now());
            let seconds = wait.as_secs() + 1;
            let detail =
                format!("at most {} {} a minute; try again in {seconds} s", self.per_minute, self.what);
            Problem::new(ProblemKind::RateLimited, detail).with_retry_after(seconds)
        })
    }

    /// Forgets the keys whose counts have run down.
    fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// All rate limits of a process.
pub(crate) struct RateLimits {
    /// Attempts to sign in, by address.
    pub(crate) sign_in: RateLimit,
    /// Ad-hoc checks, by token.
    pub(crate) adhoc: RateLimit,
    /// Requests with a token or session that has not been valid lately, by address. Counted before the database is
    /// asked for it.
    pub(crate) failures: RateLimit,
}

impl RateLimits {
    const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            sign_in: RateLimit::new("attempts to sign in", 10, Refusal::SignInLimit, metrics),
            adhoc: RateLimit::new("ad-hoc checks", 30, Refusal::AdhocLimit, metrics),
            failures: RateLimit::new(
                "requests with an unfamiliar token or session",
                60,
                Refusal::FailureLimit,
                metrics,
            ),
        }
    }

    /// Sweeps all limits from time to time. Never returns.
    pub(crate) async fn sweep_regularly(&self) {
        loop {
            sleep(Self::SWEEP_INTERVAL).await;
            [&self.sign_in, &self.adhoc, &self.failures].into_iter().for_each(RateLimit::sweep);
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_runtime::Health;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_beyond_its_limit_is_refused_with_the_time_to_wait_and_others_are_not() {
        let limits = RateLimits::new(&Metrics::new(&Health::new()));
        for _ in 0..10 {
            limits.sign_in.check(address("192.0.2.1")).unwrap();
        }

        let refusal = limits.sign_in.check(address("192.0.2.1")).unwrap_err();

        assert_eq!(refusal.status(), http::StatusCode::TOO_MANY_REQUESTS);
        assert!(refusal.detail().contains("at most 10 attempts to sign in a minute"), "{}", refusal.detail());
        limits.sign_in.check(address("192.0.2.2")).unwrap();
        limits.adhoc.check(address("192.0.2.1")).unwrap();
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let limits = RateLimits::new(&Metrics::new(&Health::new()));
        for number in 0..60_000 {
            let _ = limits.adhoc.check(IpAddr::V4(number.into()));
        }

        assert!(limits.adhoc.limiter.len() <= RateLimit::MAX_KEYS + 1, "{}", limits.adhoc.limiter.len());
    }
}
