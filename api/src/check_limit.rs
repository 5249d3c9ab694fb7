//! The rate of ad-hoc checks, by token or session.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock};

/// Maximum ad-hoc checks a minute of one token or session.
pub(crate) const CHECKS_PER_MINUTE: u32 = 30;

/// See the module documentation. Bound: entries of idle holders are dropped at each
/// [`CheckLimit::SWEEP_SIZE`] entries.
pub(crate) struct CheckLimit(DefaultKeyedRateLimiter<String>);

impl Default for CheckLimit {
    fn default() -> Self {
        let quota = NonZeroU32::new(CHECKS_PER_MINUTE).unwrap_or(NonZeroU32::MIN);
        Self(DefaultKeyedRateLimiter::keyed(Quota::per_minute(quota)))
    }
}

impl CheckLimit {
    const SWEEP_SIZE: usize = 1_000;

    /// Admits a check of `holder`, or returns the seconds until the next one is admitted.
    pub(crate) fn admit(&self, holder: &str) -> Result<(), u64> {
        if self.0.len() >= Self::SWEEP_SIZE {
            self.0.retain_recent();
        }
        self.0.check_key(&holder.to_owned()).map_err(|until| {
            let wait: Duration = until.wait_time_from(self.0.clock().now());
            wait.as_secs() + 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_does_not_use_up_the_checks_of_another() {
        let limit = CheckLimit::default();
        for _ in 0..CHECKS_PER_MINUTE {
            assert_eq!(limit.admit("one"), Ok(()));
        }

        assert!(limit.admit("one").is_err_and(|seconds| (1..=3).contains(&seconds)));
        assert_eq!(limit.admit("other"), Ok(()));
    }
}
