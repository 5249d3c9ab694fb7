//! All names of NATS subjects, streams and consumers.

use std::fmt;

use crate::{CheckKind, RegionName, ScheduledTick, Shard, SiteId, ValidationError};

/// Stream of jobs that wait for a prober.
pub const JOBS_STREAM: &str = "PICKET_JOBS";
/// Stream of results that wait for the sink.
pub const RESULTS_STREAM: &str = "PICKET_RESULTS";
/// Stream of events: incidents, warnings and silent regions.
pub const EVENTS_STREAM: &str = "PICKET_EVENTS";

/// Subjects of [`JOBS_STREAM`].
pub const JOB_SUBJECTS: &str = "picket.job.*.>";
/// Subjects of [`RESULTS_STREAM`].
pub const RESULT_SUBJECTS: &str = "picket.result.>";
/// Subjects of [`EVENTS_STREAM`].
pub const EVENT_SUBJECTS: &str = "picket.event.>";

/// Durable consumer of [`RESULTS_STREAM`], shared by all sinks.
pub const SINK_CONSUMER: &str = "sink";
/// Consumer with which one sink at a time replays results that the database lost.
pub const SINK_REPLAY_CONSUMER: &str = "sink-replay";
/// Durable consumer of [`EVENTS_STREAM`], shared by all notifiers.
pub const NOTIFIER_CONSUMER: &str = "notifier";
/// Name of the probers' NATS service.
pub const PROBER_SERVICE: &str = "picket-prober";
/// Queue group of all probers, for requests that any prober may answer.
pub const ANY_QUEUE_GROUP: &str = "probers";

/// Prefix of all inboxes. An inbox of a role with its own credential continues with the name of the
/// role.
pub const DEFAULT_INBOX_PREFIX: &str = "_INBOX";

/// Durable consumer of [`JOBS_STREAM`], shared by all probers of a region.
pub fn prober_consumer(region: &RegionName) -> String {
    format!("prober-{region}")
}

/// Region of the prober consumer `name`; `None` for other consumers.
pub fn consumer_region(name: &str) -> Option<&str> {
    name.strip_prefix("prober-")
}

/// Queue group of a region's probers.
pub fn region_queue_group(region: &RegionName) -> String {
    format!("probers-{region}")
}

/// Subject of pull requests for a region's jobs.
pub fn pull_next_subject(region: &RegionName) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS_STREAM}.{}", prober_consumer(region))
}

/// Filter of a region's consumer on [`JOBS_STREAM`].
pub fn region_jobs_filter(region: &RegionName) -> String {
    format!("picket.job.{region}.>")
}

/// Subject of the sink's confirmation requests for sites of this shard.
pub fn confirmation_request(shard: Shard) -> String {
    format!("picket.suspect.{shard}")
}

/// Subjects of confirmation requests for all shards; coordinators subscribe to them.
pub const CONFIRMATION_SUBJECTS: &str = "picket.suspect.*";

/// Subject of a single result of a scheduled or confirming check.
pub fn site_result(region: &RegionName, shard: Shard) -> String {
    format!("picket.result.{region}.{shard}")
}

/// Subject of results of ad-hoc checks.
pub fn adhoc_result(region: &RegionName) -> String {
    format!("picket.result.{region}.adhoc")
}

/// Subject of bundles of results of scheduled and confirming checks (see
/// [`bundle`](crate::bundle)).
pub fn result_bundle(region: &RegionName) -> String {
    format!("picket.result.{region}.bundle")
}

/// Subjects of single results of the sites of a shard, in all regions.
pub fn shard_results(shard: Shard) -> String {
    format!("picket.result.*.{shard}")
}

/// Subjects of bundles of results, in all regions.
pub const BUNDLE_SUBJECTS: &str = "picket.result.*.bundle";

/// Subject of requests for ad-hoc checks in a region.
pub fn region_check(region: &RegionName) -> String {
    format!("picket.check.{region}")
}

/// Subject of requests for ad-hoc checks that any single prober answers.
pub const CHECK_ANY_PROBER: &str = "picket.check.any";
/// Subject of requests for ad-hoc checks that a prober of each region answers.
pub const CHECK_ALL_REGIONS: &str = "picket.check.all";

/// Subject of requests that a prober rejected, with the reason.
pub fn rejected_request(region: &RegionName) -> String {
    format!("picket.rejected.{region}")
}

/// Subject of a job. The region is not validated. Each site has its own subjects in each region, so
/// that the stream keeps only the newest job of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobSubject<'a> {
    /// `picket.job.<region>.<site_id>`: a scheduled check.
    Scheduled(&'a str, SiteId),
    /// `picket.job.<region>.<site_id>.confirm`: a confirming check.
    Confirmation(&'a str, SiteId),
    /// `picket.job.<region>.adhoc.<id>`: a queued ad-hoc check.
    Adhoc(&'a str, &'a str),
}

impl<'a> JobSubject<'a> {
    const PREFIX: &'static str = "picket.job.";

    /// Subject of the job of `tick` in `region`.
    pub fn from_tick(tick: &ScheduledTick, region: &'a RegionName) -> Self {
        match tick.kind {
            CheckKind::Confirm => Self::Confirmation(region.as_str(), tick.site),
            CheckKind::Scheduled | CheckKind::Adhoc => Self::Scheduled(region.as_str(), tick.site),
        }
    }

    /// Parses the subject of a job.
    ///
    /// # Errors
    /// If the subject has none of the forms.
    pub fn parse(subject: &'a str) -> Result<Self, ValidationError> {
        let parse = || {
            let (region, rest) = subject.strip_prefix(Self::PREFIX)?.split_once('.')?;
            if let Some(id) = rest.strip_prefix("adhoc.") {
                return Some(Self::Adhoc(region, id));
            }
            let site = |text: &str| text.parse().ok().map(SiteId);
            match rest.strip_suffix(".confirm") {
                Some(rest) => Some(Self::Confirmation(region, site(rest)?)),
                None => Some(Self::Scheduled(region, site(rest)?)),
            }
        };
        parse().ok_or_else(|| {
            ValidationError::new(
                "subject",
                subject,
                "picket.job.<region>.<site_id> or picket.job.<region>.adhoc.<id>",
            )
        })
    }
}

impl fmt::Display for JobSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = Self::PREFIX;
        match self {
            Self::Scheduled(region, site) => write!(f, "{prefix}{region}.{site}"),
            Self::Confirmation(region, site) => write!(f, "{prefix}{region}.{site}.confirm"),
            Self::Adhoc(region, id) => write!(f, "{prefix}{region}.adhoc.{id}"),
        }
    }
}

/// Subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSubject {
    /// An incident opened.
    IncidentOpened,
    /// An incident closed.
    IncidentClosed,
    /// A warning opened.
    WarningOpened,
    /// A warning closed.
    WarningClosed,
    /// A region has no active prober.
    RegionSilent,
    /// A region has active probers again.
    RegionBack,
    /// A notification channel does not deliver.
    ChannelFailing,
    /// A notification channel delivers again.
    ChannelWorking,
    /// A certificate ends soon.
    CertificateExpiring,
    /// Checks are unaccounted for.
    LedgerUnaccounted,
}

impl EventSubject {
    /// Prefix of the subjects of all events, also of kinds that this version does not know.
    pub const PREFIX: &'static str = "picket.event.";

    const KNOWN_SUBJECTS: [Self; 10] = [
        Self::IncidentOpened,
        Self::IncidentClosed,
        Self::WarningOpened,
        Self::WarningClosed,
        Self::RegionSilent,
        Self::RegionBack,
        Self::ChannelFailing,
        Self::ChannelWorking,
        Self::CertificateExpiring,
        Self::LedgerUnaccounted,
    ];

    /// The subject as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IncidentOpened => "picket.event.incident.opened",
            Self::IncidentClosed => "picket.event.incident.closed",
            Self::WarningOpened => "picket.event.warning.opened",
            Self::WarningClosed => "picket.event.warning.closed",
            Self::RegionSilent => "picket.event.region.silent",
            Self::RegionBack => "picket.event.region.back",
            Self::ChannelFailing => "picket.event.channel.failing",
            Self::ChannelWorking => "picket.event.channel.working",
            Self::CertificateExpiring => "picket.event.certificate.expiring",
            Self::LedgerUnaccounted => "picket.event.ledger.unaccounted",
        }
    }

    /// Parses the subject of an event.
    ///
    /// # Errors
    /// If the subject is not that of a known kind of event.
    pub fn parse(subject: &str) -> Result<Self, ValidationError> {
        Self::KNOWN_SUBJECTS.into_iter().find(|known| known.as_str() == subject).ok_or_else(|| {
            ValidationError::new("subject", subject, Self::KNOWN_SUBJECTS.map(Self::as_str).join(", "))
        })
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parsed subject of a message with results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultSubject {
    /// A single result of a scheduled or confirming check.
    Site(RegionName, Shard),
    /// Several results of scheduled or confirming checks, one per line.
    Bundle(RegionName),
    /// The result of an ad-hoc check.
    Adhoc(RegionName),
}

impl ResultSubject {
    /// Parses `picket.result.<region>.<shard>`; `bundle` or `adhoc` may stand for the shard.
    ///
    /// # Errors
    /// If the subject has none of these forms.
    pub fn parse(subject: &str) -> Result<Self, ValidationError> {
        let refusal = || {
            ValidationError::new(
                "subject",
                subject,
                "picket.result.<region>.<shard>, or .bundle or .adhoc for the shard",
            )
        };
        let rest = subject.strip_prefix("picket.result.").ok_or_else(refusal)?;
        let (region, last) = rest.split_once('.').ok_or_else(refusal)?;
        let region: RegionName = region.parse().map_err(|_| refusal())?;
        match last {
            "bundle" => Ok(Self::Bundle(region)),
            "adhoc" => Ok(Self::Adhoc(region)),
            _ => Ok(Self::Site(region, Shard(last.parse().map_err(|_| refusal())?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_job_reads_back() {
        let id = SiteId(42);
        for (subject, text) in [
            (JobSubject::Scheduled("eu", id), "picket.job.eu.42"),
            (JobSubject::Confirmation("eu", id), "picket.job.eu.42.confirm"),
            (JobSubject::Adhoc("eu", "a.b"), "picket.job.eu.adhoc.a.b"),
        ] {
            assert_eq!(subject.to_string(), text);
            assert_eq!(JobSubject::parse(text).unwrap(), subject);
        }
        for bad in ["picket.job.eu", "picket.job.eu.x", "picket.job.eu.1.2", "picket.result.eu.1"] {
            assert_eq!(JobSubject::parse(bad).unwrap_err().field, "subject");
        }
    }

    #[test]
    fn the_subject_of_an_event_reads_back() {
        for subject in EventSubject::KNOWN_SUBJECTS {
            assert!(subject.as_str().starts_with(EventSubject::PREFIX));
            assert_eq!(EventSubject::parse(subject.as_str()).unwrap(), subject);
        }
        assert_eq!(EventSubject::parse("picket.event.incident").unwrap_err().field, "subject");
    }

    #[test]
    fn the_subject_of_a_result_reads_back() {
        let region: RegionName = "eu-west".parse().unwrap();

        assert_eq!(
            ResultSubject::parse(&site_result(&region, Shard(7))).unwrap(),
            ResultSubject::Site(region.clone(), Shard(7))
        );
        assert_eq!(
            ResultSubject::parse(&result_bundle(&region)).unwrap(),
            ResultSubject::Bundle(region.clone())
        );
        assert_eq!(ResultSubject::parse(&adhoc_result(&region)).unwrap(), ResultSubject::Adhoc(region));
        for bad in ["picket.result.", "picket.result.EU.1", "picket.result.eu.x", "picket.result.eu.1.2", "x"]
        {
            assert_eq!(ResultSubject::parse(bad).unwrap_err().field, "subject");
        }
    }
}
