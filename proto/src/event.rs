//! Events about incidents, warnings, regions and channels, as published on `picket.event.>`.
//!
//! A trigger of the database writes an event in the transaction that opens or closes an incident or
//! a warning.
//! A test of the store compares what the trigger writes with these types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cause, RegionName, SiteId, Timestamp, Warning, subject::EventSubject};

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
    /// A warning opened.
    #[serde(rename = "warning.opened")]
    WarningOpened(WarningEvent),
    /// A warning closed.
    #[serde(rename = "warning.closed")]
    WarningClosed(WarningEvent),
    /// A region has no active prober.
    #[serde(rename = "region.silent")]
    RegionSilent(RegionEvent),
    /// A region has active probers again.
    #[serde(rename = "region.back")]
    RegionBack(RegionEvent),
    /// A notification channel does not deliver.
    #[serde(rename = "channel.failing")]
    ChannelFailing(ChannelEvent),
    /// A notification channel delivers again.
    #[serde(rename = "channel.working")]
    ChannelWorking(ChannelEvent),
    /// A certificate ends soon.
    #[serde(rename = "certificate.expiring")]
    CertificateExpiring(CertificateEvent),
    /// Checks are unaccounted for, which is a fault of Picket.
    #[serde(rename = "ledger.unaccounted")]
    LedgerUnaccounted(LedgerEvent),
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
    /// Number of regions that reported when the incident opened; null if an older sink decided.
    #[serde(default)]
    pub regions_reporting: Option<u16>,
    /// Time from opening to closing, in milliseconds; null while the incident is open.
    #[serde(default)]
    pub duration_ms: Option<i64>,
    /// Seconds between two checks of the site in a region; null if the site is removed.
    #[serde(default)]
    pub interval_seconds: Option<i64>,
    /// HTTP status of the deciding check; null if there was no response.
    #[serde(default)]
    pub http_status: Option<u16>,
    /// Page of the incident; null if the installation has no public URL.
    #[serde(default)]
    pub link: Option<String>,
}

/// A warning that opened or closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WarningEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery, and after a failover or a restore.
    pub id: String,
    /// Number of the warning.
    pub warning_id: i64,
    /// Number of the site.
    pub site_id: SiteId,
    /// Name of the site, or its URL; null if the site is unknown.
    pub site: Option<String>,
    /// URL of the site; null if the site is unknown.
    pub url: Option<String>,
    /// Tags of the site; null if the site is unknown.
    pub tags: Option<Vec<String>>,
    /// What the warning is about.
    pub kind: Warning,
    /// Due time of the check that opened the warning.
    pub opened_at: Timestamp,
    /// Due time of the check that closed the warning; null while it is open.
    pub closed_at: Option<Timestamp>,
    /// Due time of the first check that warned.
    pub first_warned_at: Timestamp,
    /// Explanation for a person.
    pub message: Option<String>,
    /// Serial number of the certificate; null for other kinds.
    pub serial: Option<String>,
    /// End of the certificate or of the registration; null for other kinds.
    pub expires_at: Option<Timestamp>,
    /// Regions that warned when the warning opened.
    pub regions: Vec<String>,
    /// True if the site was in a maintenance window when the warning opened, or closed.
    pub in_maintenance: bool,
    /// True if the warning closed because the site is no longer checked.
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

/// A notification channel that fails or works again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery.
    pub id: String,
    /// Name of the channel.
    pub channel: String,
    /// First failure since the last delivery.
    pub since: Timestamp,
    /// Time of the event.
    pub at: Timestamp,
    /// The last failure in words.
    pub message: Option<String>,
}

/// A certificate that ends soon: within 30, 14, 7, 3 and 1 days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery.
    pub id: String,
    /// Number of the site.
    pub site_id: SiteId,
    /// Name of the site, or its URL; null if the site is unknown.
    pub site: Option<String>,
    /// URL of the site; null if the site is unknown.
    pub url: Option<String>,
    /// Tags of the site; null if the site is unknown.
    pub tags: Option<Vec<String>>,
    /// End of the certificate.
    pub expires_at: Timestamp,
    /// Number of days within which it ends: 30, 14, 7, 3 or 1.
    pub days: u16,
    /// Time of the event.
    pub at: Timestamp,
    /// Explanation for a person.
    pub message: Option<String>,
}

/// Checks without a row in an hour whose ledger is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerEvent {
    /// Version of the message.
    pub v: u32,
    /// Id of the event: the same at each redelivery.
    pub id: String,
    /// Start of the hour.
    pub from: Timestamp,
    /// End of the hour.
    pub to: Timestamp,
    /// Time of the event.
    pub at: Timestamp,
    /// Number of checks that are unaccounted for.
    pub unaccounted: i64,
    /// Explanation for a person.
    pub message: Option<String>,
}

impl Event {
    /// Subject on which the event is published.
    pub fn subject(&self) -> EventSubject {
        match self {
            Self::IncidentOpened(_) => EventSubject::IncidentOpened,
            Self::IncidentClosed(_) => EventSubject::IncidentClosed,
            Self::WarningOpened(_) => EventSubject::WarningOpened,
            Self::WarningClosed(_) => EventSubject::WarningClosed,
            Self::RegionSilent(_) => EventSubject::RegionSilent,
            Self::RegionBack(_) => EventSubject::RegionBack,
            Self::ChannelFailing(_) => EventSubject::ChannelFailing,
            Self::ChannelWorking(_) => EventSubject::ChannelWorking,
            Self::CertificateExpiring(_) => EventSubject::CertificateExpiring,
            Self::LedgerUnaccounted(_) => EventSubject::LedgerUnaccounted,
        }
    }

    /// Id of the event.
    pub fn id(&self) -> &str {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => &incident.id,
            Self::WarningOpened(warning) | Self::WarningClosed(warning) => &warning.id,
            Self::RegionSilent(region) | Self::RegionBack(region) => &region.id,
            Self::ChannelFailing(channel) | Self::ChannelWorking(channel) => &channel.id,
            Self::CertificateExpiring(certificate) => &certificate.id,
            Self::LedgerUnaccounted(ledger) => &ledger.id,
        }
    }

    /// The incident; `None` for other events.
    pub fn incident(&self) -> Option<&IncidentEvent> {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => Some(incident),
            _ => None,
        }
    }

    /// Number and URL of the site; `None` for an event of a region or a channel.
    pub fn site(&self) -> Option<(SiteId, Option<&str>)> {
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => {
                Some((incident.site_id, incident.url.as_deref()))
            }
            Self::WarningOpened(warning) | Self::WarningClosed(warning) => {
                Some((warning.site_id, warning.url.as_deref()))
            }
            Self::CertificateExpiring(certificate) => Some((certificate.site_id, certificate.url.as_deref())),
            Self::RegionSilent(_)
            | Self::RegionBack(_)
            | Self::ChannelFailing(_)
            | Self::ChannelWorking(_)
            | Self::LedgerUnaccounted(_) => None,
        }
    }

    /// Returns true if the event is about `region`.
    pub fn is_about_region(&self, region: &RegionName) -> bool {
        let is_among = |names: &[String]| names.iter().any(|name| name == region.as_str());
        match self {
            Self::IncidentOpened(incident) | Self::IncidentClosed(incident) => is_among(&incident.regions),
            Self::WarningOpened(warning) | Self::WarningClosed(warning) => is_among(&warning.regions),
            Self::RegionSilent(event) | Self::RegionBack(event) => event.region == *region,
            Self::ChannelFailing(_)
            | Self::ChannelWorking(_)
            | Self::CertificateExpiring(_)
            | Self::LedgerUnaccounted(_) => false,
        }
    }
}
