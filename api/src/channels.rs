//! What the API and the pages have in common about notification channels: the check of their settings, and tests.

use std::time::Duration;

use picket_notifier::channel::ChannelSettings;
use picket_proto::{ValidationError, channel_definition::ChannelDefinition};
use picket_store::{
    channel_tests::{self, TestProgress, TestRequest},
    channels::{self, Channel},
    notifications::read_notifier_presence,
    routes::{self, Route},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    problem::{Problem, ProblemKind},
    state::Api,
};

/// Maximum wait for the end of a test, shorter than the time after which the server gives up a request.
pub(crate) const MAX_TEST_WAIT: Duration = Duration::from_secs(28);

/// Validates a channel, its settings by its kind, with the code of the notifiers.
///
/// # Errors
/// Names the wrong field, and repeats no possible secret.
pub(crate) fn validate_channel(channel: &ChannelDefinition) -> Result<(), ValidationError> {
    channel.validate()?;
    ChannelSettings::parse(channel.kind, &Value::Object(channel.settings.clone())).map(drop)
}

/// Reads a channel. A channel that is not there is a problem of kind not-found.
pub(crate) async fn require_channel(api: &Api, name: &str) -> Result<Channel, Problem> {
    channels::find_channel(&api.store, name).await?.ok_or_else(|| describe_missing_channel(name))
}

/// Reads a route. A route that is not there is a problem of kind not-found.
pub(crate) async fn require_route(api: &Api, name: &str) -> Result<Route, Problem> {
    routes::find_route(&api.store, name).await?.ok_or_else(|| describe_missing_route(name))
}

/// The problem of an unknown channel.
fn describe_missing_channel(name: &str) -> Problem {
    let name = picket_proto::validation::sanitize_text(name, 64);
    Problem::new(ProblemKind::NotFound, format!("there is no channel '{name}'"))
}

/// The problem of an unknown route.
fn describe_missing_route(name: &str) -> Problem {
    let name = picket_proto::validation::sanitize_text(name, 64);
    Problem::new(ProblemKind::NotFound, format!("there is no route '{name}'"))
}

/// Sends a test message through a channel, paused or not, and waits for the end of its attempt.
///
/// # Errors
/// If there is no such channel, no notifier runs, or too many tests of the channel wait.
pub(crate) async fn send_test(api: &Api, name: &str) -> Result<(Uuid, TestProgress), Problem> {
    require_channel(api, name).await?;
    if let Some(absence) = read_notifier_presence(&api.store, None).await?.describe_absence() {
        let detail = format!("nothing was sent: {absence}");
        return Err(Problem::new(ProblemKind::NotifierUnavailable, detail).with_retry_after(30));
    }
    let id = match channel_tests::request_test(&api.store, name).await? {
        TestRequest::Requested(id) => id,
        TestRequest::UnknownChannel => return Err(describe_missing_channel(name)),
        TestRequest::Busy => {
            let detail = format!("five tests of channel '{name}' wait already; try again when one has ended");
            return Err(Problem::new(ProblemKind::Conflict, detail));
        }
    };
    let mut progress = wait_for_end(api, id).await?;
    // A test is worth one attempt: nobody waits for a later one.
    if progress.is_over() && progress.state == "waiting" {
        channel_tests::cancel_test(&api.store, id).await?;
    }
    // Without an attempt, the channel itself has the reason.
    if progress.is_over()
        && progress.outcome.is_none()
        && let Some(channel) = channels::find_channel(&api.store, name).await?
    {
        progress.message = channel.problem();
    }
    Ok((id, progress))
}

async fn wait_for_end(api: &Api, id: Uuid) -> Result<TestProgress, Problem> {
    const POLL_INTERVAL: Duration = Duration::from_millis(200);
    let started_at = Instant::now();
    loop {
        let progress = channel_tests::read_test(&api.store, id).await?;
        let is_waiting = !progress.is_over() && started_at.elapsed() < MAX_TEST_WAIT;
        if !is_waiting || api.stopping.is_cancelled() {
            return Ok(progress);
        }
        sleep(POLL_INTERVAL).await;
    }
}
