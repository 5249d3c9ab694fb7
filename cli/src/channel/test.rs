//! `picket channel test`: a test message, and what its receiver says.

use std::time::Duration;

use clap::{ArgMatches, Args};
use picket_runtime::options::DurationArg;
use picket_store::{
    Store,
    channel_tests::{self, TestProgress, TestRequest},
    notifications::count_notifiers,
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
    if count_notifiers(&store).await? == 0 {
        return Err(Error::Unreachable(
            "no notifier runs, so nothing is sent; start picket-notifier, or 'picket up'".to_owned(),
        ));
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
    let was_delivered = progress.outcome.as_deref().unwrap_or(&progress.state) == "delivered";
    match options.output.output {
        OutputFormat::Json => {
            let report = TestReport { channel: name, notification_id: id.to_string(), progress: &progress };
            print_data(&to_pretty_json(&[report]))?;
        }
        OutputFormat::Table => print_coloured(&describe_end(&progress, name, was_delivered))?,
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

fn describe_end(progress: &TestProgress, name: &str, was_delivered: bool) -> String {
    let verdict = match was_delivered {
        true => colour_by_status("up", "delivered".to_owned()),
        false => colour_by_status("down", "not delivered".to_owned()),
    };
    let time = progress.duration_ms.map_or_else(String::new, |ms| format!(" in {ms} ms"));
    let status = progress.status.map_or_else(String::new, |status| format!(" {status}"));
    let reason = progress.reason.clone().unwrap_or_default();
    let answer = progress.message.clone().filter(|message| !message.is_empty()).unwrap_or(reason);
    let answer = picket_proto::validation::sanitize_text(&answer, 500);
    let next = match progress.outcome.as_deref() {
        Some("retry") => "\na notification would be tried again later; this test is not",
        _ => "",
    };
    format!("{name}: {verdict}{time}:{status} {answer}{next}\n")
}
