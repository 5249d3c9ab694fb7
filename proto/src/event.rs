//! Events about incidents and regions, as published on `picket.event.>`.
//!
//! A trigger of the database writes an event in the transaction that opens or closes an incident.
//! A test of the store compares what the trigger writes with these types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cause, RegionName, SiteId, Timestamp, subject::EventSubject};

/// An event in its wire format. The field `event` names the kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event")]
pub enum Event {
    /// An incident opened.
    #[serde(rename = "incident.opened")]
    IncidentOpened(IncidentEvent),
    /// An incident closed.
    #[serde(rename = "incident.closed")]
    IncidentClosed(IncidentEvent),
    /// A region has no active prober.
    #[serde(rename = "region.silent")]
    RegionSilent(RegionEvent),
    /// A region has active probers again.
    #[serde(rename = "region.back")]
    RegionBack(RegionEvent),
}

/// An incident that opened or closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery, and after a failover or a restore.
    pub id: String,
    /// Number of the incident.
    pub incident_id: i64,
    /// Number of the site.
    pub site_id: SiteId,
    /// Name of the site, or its URL; null if the site is unknown.
    pub site: Option<String>,
    /// URL of the site; null if the site is unknown.
    pub url: Option<String>,
    /// Tags of the site; null if the site is unknown.
    pub tags: Option<Vec<String>>,
    /// Due time of the check that made the site down.
    pub opened_at: Timestamp,
    /// Due time of the check that made the site up again; null while the incident is open.
    pub closed_at: Option<Timestamp>,
    /// Due time of the first failing check.
    pub first_failure_at: Timestamp,
    /// Cause in the region that failed first.
    pub cause: Option<Cause>,
    /// Explanation of the cause for a person.
    pub message: Option<String>,
    /// Regions that were down when the incident opened.
    pub regions: Vec<String>,
    /// True if the incident closed because the site is no longer checked.
    pub unwatched: bool,
}

/// A region that became silent, or has active probers again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegionEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery, and after a failover or a restore.
    pub id: String,
    /// The region.
    pub region: RegionName,
    /// Time since which the region is silent.
    pub since: Timestamp,
    /// Time of the event.
    pub at: Timestamp,
}

impl Event {
    /// Subject on which the event is published.
    pub fn subject(&self) -> EventSubject {
        match self {
            Self::IncidentOpened(_) => EventSubject::IncidentOpened,
            Self::IncidentClosed(_) => EventSubject::IncidentClosed,
            Self::RegionSilent(_) => EventSubject::RegionSilent,
            Self::RegionBack(_) => EventSubject::RegionBack,
        }
    }

    /// Id of the event.
    pub fn id(&self) -> &str {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => &incident.id,
            Self::RegionSilent(region) | Self::RegionBack(region) => &region.id,
        }
    }

    /// The incident; `None` for an event of a region.
    pub fn incident(&self) -> Option<&IncidentEvent> {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => Some(incident),
            Self::RegionSilent(_) | Self::RegionBack(_) => None,
        }
    }

    /// Returns true if the event is about `region`.
    pub fn is_about_region(&self, region: &RegionName) -> bool {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => {
                incident.regions.iter().any(|name| name == region.as_str())
            }
            Self::RegionSilent(event) | Self::RegionBack(event) => event.region == *region,
        }
    }
}
