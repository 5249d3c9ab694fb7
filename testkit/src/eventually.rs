//! Waiting on a state, with a limit, and with what was seen last when the limit has passed.

use std::{fmt::Debug, panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// How long after a look the next one comes.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a look at a state may give: it is there, or not yet.
pub trait PollResult {
    /// What the wait gives when the state is there.
    type Value;

    /// The state, or what was there instead, for people.
    fn into_result(self) -> Result<Self::Value, String>;
}

/// There, or not there.
impl PollResult for bool {
    type Value = ();

    fn into_result(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

/// There, or nothing to be seen.
impl<T> PollResult for Option<T> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

/// There, or something else, which is shown if the wait is in vain.
impl<T, E: Debug> PollResult for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:#?}"))
    }
}

/// Looks again and again until the state is there.
///
/// Panics after `limit`, with `what` was waited for and what was seen last; a look that hangs counts as one that
/// saw nothing. Where the clock is paused the limit passes at once if all that is waited for is outside.
#[track_caller]
pub fn eventually<S: PollResult>(
    limit: Duration,
    what: &str,
    look: impl AsyncFnMut() -> S,
) -> impl Future<Output = S::Value> {
    // An `async fn` would name this file in its panic.
    poll_until(limit, what, look, Location::caller())
}

async fn poll_until<S: PollResult>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> S,
    caller: &Location<'_>,
) -> S::Value {
    let until = Instant::now() + limit;
    let mut last = None;
    while let Ok(seen) = timeout_at(until, look()).await {
        match seen.into_result() {
            Ok(found) => return found,
            Err(seen) => last = Some(seen),
        }
        if Instant::now() >= until {
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    let last = last.as_deref().unwrap_or("nothing: the look did not end");
    panic!("{caller}: waited {limit:?} in vain for {what}; seen last: {last}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_state_is_given_as_soon_as_it_is_there() {
        let mut looks = 0;

        let found = eventually(Duration::from_secs(1), "three looks", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });

        assert_eq!(found.await, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "in vain for a row; seen last: \"2 rows\"")]
    async fn a_wait_in_vain_shows_what_was_seen_last() {
        eventually(Duration::from_secs(1), "a row", async || Err::<(), _>("2 rows")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the look did not end")]
    async fn a_look_that_hangs_ends_with_the_limit() {
        eventually(Duration::from_secs(1), "anything", async || std::future::pending::<bool>().await).await;
    }
}
