//! Discovery of probers and regions: replies of the probers' NATS service to `$SRV` requests, and
//! the consumers of the jobs stream.

use async_nats::{Client, jetstream};
use futures_util::TryStreamExt;
use picket_proto::subject;
use picket_runtime::adhoc::{ConnectionLost, DISCOVERY_TIMEOUT, collect_replies};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::error::Error;

/// A prober as described by its reply to `$SRV.STATS`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ProberInfo {
    pub(crate) region: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) started_at: String,
    pub(crate) slots_used: Option<i64>,
    pub(crate) slots_total: Option<i64>,
    /// Number of published results.
    pub(crate) checks: Option<i64>,
}

/// Activity of a region, from the consumer shared by its probers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegionActivity {
    pub(crate) region: String,
    /// Jobs waiting for a prober.
    pub(crate) pending_jobs: u64,
    /// Time of the last delivery to a prober. Lost when the NATS server restarts.
    pub(crate) last_delivery: Option<OffsetDateTime>,
}

/// Regions that have a consumer. Empty if the list is not available: no coordinator has created the
/// stream yet, or the credential lacks the permission.
pub(crate) async fn list_region_activity(context: &jetstream::Context) -> Vec<RegionActivity> {
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
            last_delivery: info.delivered.last_active,
        })
    };
    consumers.into_iter().filter_map(place).collect()
}

/// All probers that reply, by region and name.
pub(crate) async fn list_probers(client: &Client) -> Result<Vec<ProberInfo>, Error> {
    let answers = collect_replies(client, format!("$SRV.STATS.{}", subject::PROBER_SERVICE)).await?;
    let mut probers: Vec<ProberInfo> =
        answers.iter().filter_map(|answer| ProberInfo::parse_stats(answer)).collect();
    probers.sort_by(|one, other| (&one.region, &one.name).cmp(&(&other.region, &other.name)));
    Ok(probers)
}

/// Error for a connection lost while in use.
pub(crate) fn connection_lost(why: impl std::fmt::Display) -> Error {
    ConnectionLost::new(why).into()
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
}
