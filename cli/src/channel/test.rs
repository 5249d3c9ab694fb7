//! `picket channel test`: a test message, and what its receiver says.

use std::time::Duration;

use clap::{ArgMatches, Args};
use picket_proto::validation::sanitize_text;
use picket_runtime::options::DurationArg;
use picket_store::{
    Store,
    channel_tests::{self, TestProgress, TestRequest},
    notifications::read_notifier_presence,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    connect::DatabaseArgs,
    error::{EXIT_NEGATIVE, Error},
    output::{
        OutputFormat, OutputOptions, ProgressLine, colour_by_status, print_coloured, print_data,
        to_pretty_json,
    },
};

#[derive(Args, Clone, Debug)]
pub(crate) struct TestChannelOptions {
    /// Name of the channel
    name: String,
    /// Time to wait for the receiver's answer
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: DurationArg,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Time between two looks at the attempt.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time after which a person is shown that the command waits.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// A tested channel as JSON.
#[derive(Serialize)]
struct TestReport<'a> {
    channel: &'a str,
    notification_id: String,
    #[serde(flatten)]
    progress: &'a TestProgress,
}

pub(super) async fn test_channel(options: TestChannelOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let store = options.database.connect(matches).await?;
    let name = &options.name;
    if channel_is_missing(&store, name).await? {
        return Err(super::unknown_channel(&store, name).await);
    }
    if let Some(absence) = read_notifier_presence(&store, None).await?.describe_absence() {
        return Err(Error::Unreachable(format!("{name}: nothing was sent: {absence}")));
    }
    let id = match channel_tests::request_test(&store, name).await? {
        TestRequest::Requested(id) => id,
        TestRequest::UnknownChannel => return Err(super::unknown_channel(&store, name).await),
        TestRequest::Busy => {
            return Err(Error::Usage(format!("{name}: five tests of this channel wait already")));
        }
    };
    let mut progress = wait_for_end(&store, id, name, options.timeout.0).await?;
    if progress.state == "waiting" {
        // A test is worth one attempt: nobody waits for a later one.
        channel_tests::cancel_test(&store, id).await?;
    }
    if !progress.is_over() {
        return Err(Error::Unreachable(describe_timeout(&progress, name, options.timeout)));
    }
    explain_failure(&store, name, &mut progress).await?;
    let was_delivered = progress.was_delivered();
    match options.output.output {
        OutputFormat::Json => {
            let report = TestReport { channel: name, notification_id: id.to_string(), progress: &progress };
            print_data(&to_pretty_json(&[report]))?;
        }
        OutputFormat::Table => print_coloured(&describe_end(&progress, name))?,
    }
    Ok(if was_delivered { 0 } else { EXIT_NEGATIVE })
}

/// Without an attempt, the channel itself has the reason.
async fn explain_failure(store: &Store, name: &str, progress: &mut TestProgress) -> Result<(), Error> {
    if progress.outcome.is_none()
        && let Some(channel) = picket_store::channels::find_channel(store, name).await?
    {
        progress.message = channel.state.problem.or(channel.state.last_error);
    }
    Ok(())
}

async fn channel_is_missing(store: &Store, name: &str) -> Result<bool, Error> {
    Ok(picket_store::channels::find_channel(store, name).await?.is_none())
}

async fn wait_for_end(
    store: &Store,
    id: uuid::Uuid,
    name: &str,
    limit: Duration,
) -> Result<TestProgress, Error> {
    let start = Instant::now();
    let mut line = ProgressLine::new();
    loop {
        let progress = channel_tests::read_test(store, id).await?;
        let waited = start.elapsed();
        if progress.is_over() || waited >= limit {
            return Ok(progress);
        }
        if waited >= PROGRESS_AFTER {
            let what = match progress.started_at {
                Some(_) => "the receiver's answer",
                None => "a notifier",
            };
            line.show_text(format_args!("{name}: waiting for {what}, {} s", waited.as_secs()));
        }
        tokio::time::sleep(POLL_INTERVAL.min(limit - waited)).await;
    }
}

fn describe_timeout(progress: &TestProgress, name: &str, limit: DurationArg) -> String {
    match progress.started_at {
        Some(_) => format!("{name}: the receiver has not answered within {limit}; it may have the message"),
        None => format!(
            "{name}: no notifier has sent the test within {limit}: the receiver may have demanded a pause; \
             see: picket channel show {name}"
        ),
    }
}

/// What was sent, what came back, and how long it took.
fn describe_end(progress: &TestProgress, name: &str) -> String {
    let was_delivered = progress.was_delivered();
    let verdict = match was_delivered {
        true => colour_by_status("up", "delivered".to_owned()),
        false => colour_by_status("down", "not delivered".to_owned()),
    };
    let time = match progress.duration_ms {
        Some(ms) if was_delivered => format!(" in {ms} ms"),
        Some(ms) => format!(" after {ms} ms"),
        None => String::new(),
    };
    let sent = match &progress.title {
        Some(title) => sanitize_text(title, 300),
        None if progress.started_at.is_some() => "a message marked TEST".to_owned(),
        None => "nothing".to_owned(),
    };
    let (source, answer) = progress.describe_answer();
    let next = match progress.outcome.as_deref() {
        Some("retry") => "  next      an alert would be tried again later; this test is not\n".to_owned(),
        _ if !was_delivered => format!("  next      picket channel show {name}\n"),
        _ => String::new(),
    };
    format!("{name}: {verdict}{time}\n  sent      {sent}\n  {source:<9} {answer}\n{next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_test_says_what_was_sent_what_came_back_and_how_long_it_took() {
        let at = picket_store::DbTimestamp("2026-11-20T12:00:00Z".parse().unwrap());
        let mut progress = TestProgress {
            state: "delivered".to_owned(),
            reason: None,
            title: Some("TEST of channel ops: nothing is wrong".to_owned()),
            requested_at: at,
            started_at: Some(at),
            ended_at: Some(at),
            outcome: Some("delivered".to_owned()),
            status: Some(200),
            message: Some("ok".to_owned()),
            duration_ms: Some(80),
        };
        assert_eq!(
            describe_end(&progress, "ops"),
            "ops: delivered in 80 ms\n  sent      TEST of channel ops: nothing is wrong\n  receiver  200 ok\n"
        );
        (progress.outcome, progress.status) = (Some("retry".to_owned()), None);
        progress.message = Some("connection refused".to_owned());
        assert_eq!(
            describe_end(&progress, "ops"),
            "ops: not delivered after 80 ms\n  sent      TEST of channel ops: nothing is wrong\n  failure   connection \
             refused\n  next      an alert would be tried again later; this test is not\n"
        );
        let unsent = TestProgress {
            state: "failed".to_owned(),
            reason: Some("problem".to_owned()),
            title: None,
            started_at: None,
            ended_at: None,
            outcome: None,
            message: Some("the secret 'slack-ops' is not in the file".to_owned()),
            duration_ms: None,
            ..progress
        };
        assert_eq!(
            describe_end(&unsent, "ops"),
            "ops: not delivered\n  sent      nothing\n  failure   the secret 'slack-ops' is not in the file\n  next      \
             picket channel show ops\n"
        );
    }
}
