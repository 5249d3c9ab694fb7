//! Ad-hoc check requests: one to each named region, or one to all regions at once.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use async_nats::{Client, Message, Request, StatusCode, client::RequestErrorKind, service};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use picket_proto::{CheckRequest, CheckResult, RegionName, subject};
use picket_runtime::discovery;
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{Error, connection_lost},
    output::ProgressLine,
};

/// Reply of a region.
#[derive(Debug)]
pub(super) enum RegionReply {
    Result(Box<CheckResult>),
    /// A prober rejected the request, with the reason.
    Rejected(String),
    NoResponders,
    TimedOut,
}

impl RegionReply {
    pub(super) fn result(&self) -> Option<&CheckResult> {
        match self {
            Self::Result(result) => Some(result),
            _ => None,
        }
    }

    /// Error message for a region without a result.
    pub(super) fn error_message(&self, region: &str) -> Option<String> {
        match self {
            Self::Result(_) => None,
            Self::Rejected(why) => Some(format!("region {region}: the request was rejected: {why}")),
            Self::NoResponders => {
                Some(format!("region {region}: no active probers; 'picket probers' lists the active ones"))
            }
            Self::TimedOut => Some(format!("region {region}: no answer in time")),
        }
    }

    fn from_message(message: &Message) -> Self {
        let header = |name| message.headers.as_ref()?.get(name).map(ToString::to_string);
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::NoResponders;
        }
        if let Some(why) = header(service::NATS_SERVICE_ERROR) {
            return Self::Rejected(why);
        }
        match CheckResult::decode(&message.payload) {
            Ok(result) => Self::Result(Box::new(result)),
            Err(why) => Self::Rejected(format!("the reply cannot be used: {why}")),
        }
    }
}

/// Requests a check from `regions`, or from all regions if empty. Shows progress if the wait is
/// long.
pub(super) async fn request_checks(
    client: &Client,
    request: &CheckRequest,
    regions: &[RegionName],
    limit: Duration,
) -> Result<Vec<(String, RegionReply)>, Error> {
    const SHOW_AFTER: Duration = Duration::from_secs(2);
    let payload = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
    let mut asking = pin!(async {
        match regions.is_empty() {
            true => request_all_regions(client, payload, limit).await,
            false => request_each_region(client, payload, regions, limit).await,
        }
    });
    let (began, mut progress) = (Instant::now(), ProgressLine::new());
    loop {
        tokio::select! {
            answers = &mut asking => return answers,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let waited = began.elapsed();
                if waited > SHOW_AFTER {
                    progress.show_text(format_args!("checking… {} of at most {} s", waited.as_secs(), limit.as_secs()));
                }
            }
        }
    }
}

async fn request_each_region(
    client: &Client,
    payload: Bytes,
    regions: &[RegionName],
    limit: Duration,
) -> Result<Vec<(String, RegionReply)>, Error> {
    let one = |region: &RegionName| {
        let request = Request::new().payload(payload.clone()).timeout(Some(limit));
        let place = subject::region_check(region);
        let region = region.to_string();
        async move {
            let answer = match client.send_request(place, request).await {
                Ok(message) => RegionReply::from_message(&message),
                Err(error) => match error.kind() {
                    RequestErrorKind::NoResponders => RegionReply::NoResponders,
                    RequestErrorKind::TimedOut => RegionReply::TimedOut,
                    _ => return Err(connection_lost(error)),
                },
            };
            Ok((region, answer))
        }
    };
    join_all(regions.iter().map(one)).await.into_iter().collect()
}

/// Collects replies until every known region has replied, or the time limit passes.
///
/// The regions are discovered while the checks run, because the request to all regions does not
/// tell how many replies to expect.
async fn request_all_regions(
    client: &Client,
    payload: Bytes,
    limit: Duration,
) -> Result<Vec<(String, RegionReply)>, Error> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(connection_lost)?;
    client.publish_with_reply(subject::CHECK_ALL_REGIONS, inbox, payload).await.map_err(connection_lost)?;
    let end = Instant::now() + limit;
    let mut answers = BTreeMap::new();
    let mut refusals = Vec::new();
    let mut known: Option<Vec<String>> = None;
    let mut discovering = pin!(discovery::ping_regions(client));
    loop {
        if let Some(known) = &known
            && answers.len() + refusals.len() >= known.len()
            && known.iter().all(|region| answers.contains_key(region) || !refusals.is_empty())
        // A rejection does not name its region, so a single rejection stands for any missing
        // region.
        {
            break;
        }
        tokio::select! {
            regions = &mut discovering, if known.is_none() => known = Some(regions?),
            reply = timeout_at(end, replies.next()) => {
                let Ok(Some(message)) = reply else { break };
                match RegionReply::from_message(&message) {
                    RegionReply::NoResponders => return Ok(Vec::new()),
                    RegionReply::Result(result) => {
                        answers.insert(result.region.to_string(), RegionReply::Result(result));
                    }
                    // A rejection does not name its region.
                    refused => refusals.push(refused),
                }
            }
        }
    }
    // Regions without a result get the rejections; the remaining regions timed out.
    for region in known.into_iter().flatten() {
        answers.entry(region).or_insert_with(|| refusals.pop().unwrap_or(RegionReply::TimedOut));
    }
    Ok(answers.into_iter().collect())
}
