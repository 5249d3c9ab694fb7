//! The asking: one request to each named region, or one to all regions at once.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use async_nats::{Client, Message, Request, StatusCode, client::RequestErrorKind, service};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use picket_proto::{CheckRequest, CheckResult, Region, subject};
use tokio::time::{Instant, timeout_at};

use crate::{
    discovery::{self, lost},
    error::Error,
    output::Progress,
};

/// What came back from a region.
#[derive(Debug)]
pub(super) enum Answer {
    Result(Box<CheckResult>),
    /// A prober would not: why.
    Refused(String),
    NobodyThere,
    TooLate,
}

impl Answer {
    pub(super) fn result(&self) -> Option<&CheckResult> {
        match self {
            Self::Result(result) => Some(result),
            _ => None,
        }
    }

    /// What to say of a region without a result.
    pub(super) fn complaint(&self, region: &str) -> Option<String> {
        match self {
            Self::Result(_) => None,
            Self::Refused(why) => Some(format!("region {region}: a prober refused: {why}")),
            Self::NobodyThere => {
                Some(format!("region {region}: no prober is there; 'picket probers' lists who is"))
            }
            Self::TooLate => Some(format!("region {region}: no answer in time")),
        }
    }

    fn read(message: &Message) -> Self {
        let header = |name| message.headers.as_ref()?.get(name).map(ToString::to_string);
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::NobodyThere;
        }
        if let Some(why) = header(service::NATS_SERVICE_ERROR) {
            return Self::Refused(why);
        }
        match serde_json::from_slice(&message.payload) {
            Ok(result) => Self::Result(Box::new(result)),
            Err(why) => Self::Refused(format!("the answer could not be read: {why}")),
        }
    }
}

/// Asks `regions`, or all where there are none; shows progress when it takes longer.
pub(super) async fn ask(
    client: &Client,
    request: &CheckRequest,
    regions: &[Region],
    limit: Duration,
) -> Result<Vec<(String, Answer)>, Error> {
    const SHOW_AFTER: Duration = Duration::from_secs(2);
    let payload = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
    let mut asking = pin!(async {
        match regions.is_empty() {
            true => ask_all(client, payload, limit).await,
            false => ask_each(client, payload, regions, limit).await,
        }
    });
    let (began, mut progress) = (Instant::now(), Progress::new());
    loop {
        tokio::select! {
            answers = &mut asking => return answers,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let waited = began.elapsed();
                if waited > SHOW_AFTER {
                    progress.show(format_args!("checking… {} of at most {} s", waited.as_secs(), limit.as_secs()));
                }
            }
        }
    }
}

async fn ask_each(
    client: &Client,
    payload: Bytes,
    regions: &[Region],
    limit: Duration,
) -> Result<Vec<(String, Answer)>, Error> {
    let one = |region: &Region| {
        let request = Request::new().payload(payload.clone()).timeout(Some(limit));
        let place = subject::check(region);
        let region = region.to_string();
        async move {
            let answer = match client.send_request(place, request).await {
                Ok(message) => Answer::read(&message),
                Err(error) => match error.kind() {
                    RequestErrorKind::NoResponders => Answer::NobodyThere,
                    RequestErrorKind::TimedOut => Answer::TooLate,
                    _ => return Err(lost(error)),
                },
            };
            Ok((region, answer))
        }
    };
    join_all(regions.iter().map(one)).await.into_iter().collect()
}

/// Collects until every region that is known to have probers has answered.
async fn ask_all(client: &Client, payload: Bytes, limit: Duration) -> Result<Vec<(String, Answer)>, Error> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(lost)?;
    client.publish_with_reply(subject::CHECK_ALL, inbox, payload).await.map_err(lost)?;
    let end = Instant::now() + limit;
    let mut answers = BTreeMap::new();
    let mut refusals = Vec::new();
    let mut known: Option<Vec<String>> = None;
    let mut discovering = pin!(discovery::regions(client));
    loop {
        if let Some(known) = &known
            && answers.len() + refusals.len() >= known.len()
            && known.iter().all(|region| answers.contains_key(region) || !refusals.is_empty())
        {
            break;
        }
        tokio::select! {
            regions = &mut discovering, if known.is_none() => known = Some(regions?),
            reply = timeout_at(end, replies.next()) => {
                let Ok(Some(message)) = reply else { break };
                match Answer::read(&message) {
                    Answer::NobodyThere => return Ok(Vec::new()),
                    Answer::Result(result) => {
                        answers.insert(result.region.to_string(), Answer::Result(result));
                    }
                    // It does not say which region's.
                    refused => refusals.push(refused),
                }
            }
        }
    }
    for region in known.into_iter().flatten() {
        answers.entry(region).or_insert_with(|| refusals.pop().unwrap_or(Answer::TooLate));
    }
    Ok(answers.into_iter().collect())
}
