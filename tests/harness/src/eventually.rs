//! Waits for a condition, with a timeout that reports the last observed value.

use std::{fmt::Debug, panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Result of polling a condition: the expected value, or not yet.
pub trait PollResult {
    /// Value returned once the condition holds.
    type Value;

    /// Returns the expected value, or a text that describes the observed one.
    fn into_result(self) -> Result<Self::Value, String>;
}

/// True or false.
impl PollResult for bool {
    type Value = ();

    fn into_result(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

/// Some value or none.
impl<T> PollResult for Option<T> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

/// Expected value, or an observed value that a timeout reports.
impl<T, E: Debug> PollResult for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.map_err(|observed| format!("{observed:#?}"))
    }
}

/// Polls until the condition holds.
///
/// # Panics
/// Panics after `limit`, with the description of the condition and the last observed value. A poll
/// that hangs counts as one without a value. On a paused clock the limit passes at once if the
/// condition depends on external events only.
#[track_caller]
pub fn eventually<S: PollResult>(
    limit: Duration,
    condition: &str,
    poll: impl AsyncFnMut() -> S,
) -> impl Future<Output = S::Value> {
    // An `async fn` would name this file in its panic.
    poll_until(limit, condition, poll, Location::caller())
}

async fn poll_until<S: PollResult>(
    limit: Duration,
    condition: &str,
    mut poll: impl AsyncFnMut() -> S,
    caller: &Location<'_>,
) -> S::Value {
    let until = Instant::now() + limit;
    let mut last_observed = None;
    while let Ok(result) = timeout_at(until, poll()).await {
        match result.into_result() {
            Ok(value) => return value,
            Err(observed) => last_observed = Some(observed),
        }
        if Instant::now() >= until {
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    let last_observed = last_observed.as_deref().unwrap_or("nothing: the poll did not finish");
    panic!("{caller}: timed out after {limit:?} waiting for {condition}; last observed: {last_observed}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_state_is_returned_as_soon_as_it_is_reached() {
        let mut polls = 0;

        let found = eventually(Duration::from_secs(1), "three polls", async || {
            polls += 1;
            (polls == 3).then_some(polls)
        });

        assert_eq!(found.await, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waiting for a row; last observed: \"2 rows\"")]
    async fn a_failed_wait_shows_the_last_state() {
        eventually(Duration::from_secs(1), "a row", async || Err::<(), _>("2 rows")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the poll did not finish")]
    async fn a_hanging_poll_ends_with_the_limit() {
        eventually(Duration::from_secs(1), "anything", async || std::future::pending::<bool>().await).await;
    }
}
