//! Requests for ad-hoc checks: to each named region, or to all regions at once.
//!
//! Bound: one reply a region. Loss: a reply that comes
//! after the limit is counted as [`RegionReply::TimedOut`]; its result is stored all the same.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use async_nats::{Client, Message, Request, StatusCode, client::RequestErrorKind, service};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use picket_proto::{CheckRequest, CheckResult, RegionName, subject};
use tokio::time::{Instant, timeout_at};

use crate::discovery::{ConnectionLost, ping_regions};

/// Time allowed to a prober beyond the check and its wait queue: canary probes, publishing the
/// result and the reply.
const RESPONSE_MARGIN: Duration = Duration::from_secs(6);

/// Reply of a region.
#[derive(Debug)]
pub enum RegionReply {
    /// The result of the check.
    Result(Box<CheckResult>),
    /// A prober rejected the request, with the reason.
    Rejected(String),
    /// No prober of the region is active.
    NoResponders,
    /// No prober replied in time.
    TimedOut,
}

impl RegionReply {
    /// The result, if there is one.
    pub fn result(&self) -> Option<&CheckResult> {
        match self {
            Self::Result(result) => Some(result),
            _ => None,
        }
    }

    /// Error message for a region without a result.
    pub fn error_message(&self, region: &str) -> Option<String> {
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

/// Maximum time until the reply to a check with this timeout. Waiting for a slot and the check
/// itself take at most one timeout each.
pub fn reply_limit(timeout: Duration) -> Duration {
    timeout * 2 + RESPONSE_MARGIN
}

/// Requests a check from `regions`, or from all regions if empty. Passes the reply of each region to
/// `on_reply` as it comes, and to none if no prober is active.
///
/// # Errors
/// If the connection to NATS is lost.
pub async fn request_checks(
    client: &Client,
    request: &CheckRequest,
    regions: &[RegionName],
    limit: Duration,
    on_reply: impl FnMut(String, RegionReply),
) -> Result<(), ConnectionLost> {
    match regions.is_empty() {
        true => request_all_regions(client, encode_request(request), limit, on_reply).await,
        false => request_each_region(client, encode_request(request), regions, limit, on_reply).await,
    }
}

/// Requests a check from one prober on `subject`.
///
/// # Errors
/// If the connection to NATS is lost.
pub async fn request_check(
    client: &Client,
    subject: String,
    request: &CheckRequest,
    limit: Duration,
) -> Result<RegionReply, ConnectionLost> {
    send_request(client, subject, encode_request(request), limit).await
}

fn encode_request(request: &CheckRequest) -> Bytes {
    // An object with texts as keys can always be written.
    Bytes::from(serde_json::to_vec(request).unwrap_or_default())
}

async fn send_request(
    client: &Client,
    subject: String,
    payload: Bytes,
    limit: Duration,
) -> Result<RegionReply, ConnectionLost> {
    let request = Request::new().payload(payload).timeout(Some(limit));
    match client.send_request(subject, request).await {
        Ok(message) => Ok(RegionReply::from_message(&message)),
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders => Ok(RegionReply::NoResponders),
            RequestErrorKind::TimedOut => Ok(RegionReply::TimedOut),
            _ => Err(ConnectionLost::new(error)),
        },
    }
}

async fn request_each_region(
    client: &Client,
    payload: Bytes,
    regions: &[RegionName],
    limit: Duration,
    mut on_reply: impl FnMut(String, RegionReply),
) -> Result<(), ConnectionLost> {
    let requests = regions.iter().map(async |region| {
        let reply = send_request(client, subject::region_check(region), payload.clone(), limit).await;
        (region, reply)
    });
    let mut replies: FuturesUnordered<_> = requests.collect();
    while let Some((region, reply)) = replies.next().await {
        on_reply(region.to_string(), reply?);
    }
    Ok(())
}

/// Collects replies until every known region has replied, or the time limit passes.
///
/// The regions are discovered while the checks run, because the request to all regions does not
/// tell how many replies to expect.
async fn request_all_regions(
    client: &Client,
    payload: Bytes,
    limit: Duration,
    mut on_reply: impl FnMut(String, RegionReply),
) -> Result<(), ConnectionLost> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(ConnectionLost::new)?;
    let request = client.publish_with_reply(subject::CHECK_ALL_REGIONS, inbox, payload);
    request.await.map_err(ConnectionLost::new)?;
    let end = Instant::now() + limit;
    let mut answered = BTreeSet::new();
    let mut refusals = Vec::new();
    let mut known: Option<Vec<String>> = None;
    let mut discovering = pin!(ping_regions(client));
    loop {
        // A rejection does not name its region, so a single rejection stands for any missing region.
        if let Some(known) = &known
            && answered.len() + refusals.len() >= known.len()
            && known.iter().all(|region| answered.contains(region) || !refusals.is_empty())
        {
            break;
        }
        tokio::select! {
            regions = &mut discovering, if known.is_none() => known = Some(regions?),
            reply = timeout_at(end, replies.next()) => {
                let Ok(Some(message)) = reply else { break };
                match RegionReply::from_message(&message) {
                    RegionReply::NoResponders => return Ok(()),
                    RegionReply::Result(result) => {
                        let region = result.region.to_string();
                        if answered.insert(region.clone()) {
                            on_reply(region, RegionReply::Result(result));
                        }
                    }
                    refused => refusals.push(refused),
                }
            }
        }
    }
    // Regions without a result get the rejections; the remaining regions timed out.
    for region in known.into_iter().flatten().filter(|region| !answered.contains(region)) {
        on_reply(region, refusals.pop().unwrap_or(RegionReply::TimedOut));
    }
    Ok(())
}
