//! Discovery of probers and regions: replies of the probers' NATS service to `$SRV` requests, and
//! the consumers of the jobs stream.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Client, StatusCode, jetstream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use picket_proto::{Timestamp, subject};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

/// Time without a further reply after which discovery ends. The number of replies is not known in
/// advance.
const REPLY_IDLE_TIMEOUT: Duration = Duration::from_millis(400);
/// Total time limit of a discovery.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of collected replies.
const MAX_REPLIES: usize = 10_000;

/// The connection to NATS was lost while in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lost the connection to NATS: {0}")]
pub struct ConnectionLost(String);

impl ConnectionLost {
    /// The error with this reason.
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// A prober as described by its reply to `$SRV.STATS`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProberInfo {
    /// Region of the prober.
    pub region: String,
    /// Name of the prober.
    pub name: String,
    /// Version of its build.
    pub version: String,
    /// Start time, as the service reports it.
    pub started_at: String,
    /// Number of checks that are running.
    pub slots_used: Option<i64>,
    /// Maximum number of concurrent checks.
    pub slots_total: Option<i64>,
    /// Number of published results.
    pub checks: Option<i64>,
}

/// Activity of a region, from the consumer shared by its probers.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionActivity {
    /// Name of the region.
    pub region: String,
    /// Jobs waiting for a prober.
    pub pending_jobs: u64,
    /// Time of the last delivery to a prober. Lost when the NATS server restarts.
    pub last_delivery: Option<Timestamp>,
}

/// Regions that have a consumer. Empty if the list is not available: no coordinator has created the
/// stream yet, or the credential lacks the permission.
pub async fn list_region_activity(context: &jetstream::Context) -> Vec<RegionActivity> {
    let listing = async {
        let stream = context.get_stream(subject::JOBS_STREAM).await.ok()?;
        let consumers: Vec<_> = stream.consumers().try_collect().await.ok()?;
        Some(consumers)
    };
    let consumers = timeout(DISCOVERY_TIMEOUT, listing).await.ok().flatten().unwrap_or_default();
    let place = |info: jetstream::consumer::Info| {
        let region = subject::consumer_region(&info.name)?.to_owned();
        Some(RegionActivity {
            region,
            pending_jobs: info.num_pending,
            last_delivery: info.delivered.last_active.map(|at| {
                let micros = at.unix_timestamp_nanos() / 1_000;
                Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
            }),
        })
    };
    consumers.into_iter().filter_map(place).collect()
}

/// All probers that reply, by region and name.
///
/// # Errors
/// If the connection is lost.
pub async fn list_probers(client: &Client) -> Result<Vec<ProberInfo>, ConnectionLost> {
    let answers = collect_replies(client, format!("$SRV.STATS.{}", subject::PROBER_SERVICE)).await?;
    let mut probers: Vec<ProberInfo> =
        answers.iter().filter_map(|answer| ProberInfo::parse_stats(answer)).collect();
    probers.sort_by(|one, other| (&one.region, &one.name).cmp(&(&other.region, &other.name)));
    Ok(probers)
}

/// Regions with at least one prober that replies.
///
/// # Errors
/// If the connection is lost.
pub async fn ping_regions(client: &Client) -> Result<Vec<String>, ConnectionLost> {
    let answers = collect_replies(client, format!("$SRV.PING.{}", subject::PROBER_SERVICE)).await?;
    let mut regions: Vec<String> = answers.iter().filter_map(|answer| parse_ping_region(answer)).collect();
    regions.sort();
    regions.dedup();
    Ok(regions)
}

/// Replies to an empty request on `subject`, until [`REPLY_IDLE_TIMEOUT`] or [`DISCOVERY_TIMEOUT`].
async fn collect_replies(client: &Client, subject: String) -> Result<Vec<Bytes>, ConnectionLost> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(ConnectionLost::new)?;
    client.publish_with_reply(subject, inbox, Bytes::new()).await.map_err(ConnectionLost::new)?;
    let end = Instant::now() + DISCOVERY_TIMEOUT;
    let mut gathered = Vec::new();
    while gathered.len() < MAX_REPLIES {
        let until = end.min(Instant::now() + REPLY_IDLE_TIMEOUT);
        match timeout_at(until, answers.next()).await {
            // No service is listening.
            Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => break,
            Ok(Some(message)) => gathered.push(message.payload),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(gathered)
}

/// An active prober, or a region without one, in which case `prober` is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProberRecord {
    /// Name of the region.
    pub region: String,
    /// Name of the prober.
    pub prober: Option<String>,
    /// Version of its build.
    pub version: Option<String>,
    /// Start time, as the service reports it.
    pub started_at: Option<String>,
    /// Number of checks that are running.
    pub slots_used: Option<i64>,
    /// Maximum number of concurrent checks.
    pub slots_total: Option<i64>,
    /// Number of published results.
    pub checks: Option<i64>,
    /// Time of the reply. For a region without a prober, the last delivery of a job.
    pub last_seen: Option<Timestamp>,
    /// Jobs queued in a region without a prober.
    pub waiting: Option<u64>,
}

/// Records of the active probers, and of regions without one that have queued jobs or had a recent
/// delivery, by region.
pub fn build_prober_records(
    probers: Vec<ProberInfo>,
    places: Vec<RegionActivity>,
    now: Timestamp,
) -> Vec<ProberRecord> {
    /// Time after which an idle region, such as a removed one, is no longer listed.
    const RECENT_DELIVERY: Duration = Duration::from_secs(7 * 86_400);
    let answering: BTreeSet<String> = probers.iter().map(|prober| prober.region.clone()).collect();
    let inactive =
        places.into_iter().filter(|place| !answering.contains(&place.region)).filter_map(|place| {
            let last_seen = place.last_delivery;
            let is_recent = last_seen.is_some_and(|at| now.saturating_duration_since(at) < RECENT_DELIVERY);
            (place.pending_jobs > 0 || is_recent).then_some(ProberRecord {
                region: place.region,
                prober: None,
                version: None,
                started_at: None,
                slots_used: None,
                slots_total: None,
                checks: None,
                last_seen,
                waiting: Some(place.pending_jobs),
            })
        });
    let mut records: Vec<ProberRecord> = inactive.collect();
    records.extend(probers.into_iter().map(|prober| ProberRecord {
        region: prober.region,
        prober: Some(prober.name),
        version: Some(prober.version),
        started_at: Some(prober.started_at),
        slots_used: prober.slots_used,
        slots_total: prober.slots_total,
        checks: prober.checks,
        last_seen: Some(now),
        waiting: None,
    }));
    // Stable sort: the probers of a region keep their order.
    records.sort_by(|one, other| one.region.cmp(&other.region));
    records
}

fn parse_ping_region(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Ping {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        region: String,
    }
    Some(serde_json::from_slice::<Ping>(json).ok()?.metadata.region)
}

impl ProberInfo {
    fn parse_stats(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stats {
            version: String,
            #[serde(default)]
            started: String,
            endpoints: Vec<Endpoint>,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            data: Option<Data>,
        }
        #[derive(Deserialize)]
        struct Data {
            region: String,
            instance: String,
            slots_total: Option<i64>,
            slots_used: Option<i64>,
            checks: Option<i64>,
        }
        let stats: Stats = serde_json::from_slice(json).ok()?;
        // Every endpoint reports the figures of the whole prober.
        let data = stats.endpoints.into_iter().find_map(|endpoint| endpoint.data)?;
        Some(Self {
            region: data.region,
            name: data.instance,
            version: stats.version,
            started_at: stats.started,
            slots_used: data.slots_used,
            slots_total: data.slots_total,
            checks: data.checks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probers_answer_decodes_with_unknown_fields() {
        let json = br#"{"type":"io.nats.micro.v1.stats_response","name":"picket-prober","id":"x","version":"0.1.0",
            "started":"2026-11-21T07:00:00Z","endpoints":[{"name":"check","data":null},{"name":"check-any","data":
            {"region":"eu","instance":"host-1","slots_total":9,"slots_used":2,"slots_free":7,"checks":3,"new":true}}]}"#;

        let prober = ProberInfo::parse_stats(json).unwrap();

        assert_eq!((prober.region.as_str(), prober.name.as_str()), ("eu", "host-1"));
        assert_eq!((prober.slots_used, prober.slots_total, prober.checks), (Some(2), Some(9), Some(3)));
        assert_eq!(ProberInfo::parse_stats(b"{}"), None);
    }

    #[test]
    fn a_region_without_probers_is_listed_while_jobs_wait_or_after_recent_activity() {
        const DAY_SECONDS: u64 = 86_400;
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let days_ago = |days: u64| Some(now.saturating_sub(Duration::from_secs(days * DAY_SECONDS)));
        let place = |region: &str, pending_jobs, last_delivery| RegionActivity {
            region: region.to_owned(),
            pending_jobs,
            last_delivery,
        };
        let prober = |name: &str| ProberInfo {
            region: "eu".to_owned(),
            name: name.to_owned(),
            ..ProberInfo::default()
        };

        let records = build_prober_records(
            vec![prober("a"), prober("b")],
            vec![
                place("us", 7, None),
                place("eu", 3, days_ago(0)),
                place("asia", 0, days_ago(1)),
                place("gone", 0, days_ago(8)),
                place("new", 0, None),
            ],
            now,
        );

        let seen: Vec<_> = records
            .iter()
            .map(|record| (record.region.as_str(), record.prober.as_deref(), record.last_seen))
            .collect();
        let expected = [
            ("asia", None, days_ago(1)),
            ("eu", Some("a"), Some(now)),
            ("eu", Some("b"), Some(now)),
            ("us", None, None),
        ];
        assert_eq!(seen, expected);
    }
}
