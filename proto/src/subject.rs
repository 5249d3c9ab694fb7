//! NATS subjects, streams and consumers: every name, in one place.

use crate::{RegionName, Shard, SiteId, ValidationError};

/// The stream of jobs that wait for a prober.
pub const JOBS_STREAM: &str = "PICKET_JOBS";
/// The stream of results that wait for the sink.
pub const RESULTS_STREAM: &str = "PICKET_RESULTS";
/// The stream of what happened: incidents, silent regions.
pub const EVENTS_STREAM: &str = "PICKET_EVENTS";

/// What [`JOBS`] captures.
pub const JOB_SUBJECTS: &str = "picket.job.*.>";
/// What [`RESULTS`] captures.
pub const RESULT_SUBJECTS: &str = "picket.result.>";
/// What [`EVENTS`] captures.
pub const EVENT_SUBJECTS: &str = "picket.event.>";

/// The durable consumer of [`RESULTS`] that all sinks share.
pub const SINK_CONSUMER: &str = "sink";
/// The consumer with which one sink at a time replays results that the database lost.
pub const SINK_REPLAY_CONSUMER: &str = "sink-replay";
/// The name of the probers' NATS service.
pub const PROBER_SERVICE: &str = "picket-prober";
/// The queue group of all probers, for requests that any one of them answers.
pub const ANY_QUEUE_GROUP: &str = "probers";

/// What every inbox begins with: of clients in general, and, with the name of a role behind it, of ours.
pub const DEFAULT_INBOX_PREFIX: &str = "_INBOX";

/// The durable consumer of [`JOBS`] that all probers of a region share.
pub fn prober_consumer(region: &RegionName) -> String {
    format!("prober-{region}")
}

/// The region whose probers share the consumer of this name, if it is one of theirs.
pub fn consumer_region(name: &str) -> Option<&str> {
    name.strip_prefix("prober-")
}

/// The queue group of a region's probers.
pub fn region_queue_group(region: &RegionName) -> String {
    format!("probers-{region}")
}

/// Where a region's probers ask for jobs.
pub fn pull_next_subject(region: &RegionName) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS_STREAM}.{}", prober_consumer(region))
}

/// What a region's consumer takes from [`JOBS`].
pub fn region_jobs_filter(region: &RegionName) -> String {
    format!("picket.job.{region}.>")
}

/// Where a scheduled job goes. One subject a site and region, so that the stream keeps the newest only.
pub fn scheduled_job(region: &RegionName, site: SiteId) -> String {
    format!("picket.job.{region}.{site}")
}

/// Where a confirming job goes: beside the scheduled one, and of these too the stream keeps the newest only.
pub fn confirmation_job(region: &RegionName, site: SiteId) -> String {
    format!("picket.job.{region}.{site}.confirm")
}

/// Where the sink says that a site of this shard began to fail.
pub fn confirmation_request(shard: Shard) -> String {
    format!("picket.suspect.{shard}")
}

/// Where all coordinators hear of sites that began to fail.
pub const CONFIRMATION_SUBJECTS: &str = "picket.suspect.*";

/// Where a result of a scheduled or confirming check goes.
pub fn site_result(region: &RegionName, shard: Shard) -> String {
    format!("picket.result.{region}.{shard}")
}

/// Where the result of an ad-hoc check goes.
pub fn adhoc_result(region: &RegionName) -> String {
    format!("picket.result.{region}.adhoc")
}

/// Where several results of scheduled or confirming checks go together, a line each: see [`bundle`](crate::bundle).
pub fn result_bundle(region: &RegionName) -> String {
    format!("picket.result.{region}.bundle")
}

/// Where a region's probers answer requests to check something now.
pub fn region_check(region: &RegionName) -> String {
    format!("picket.check.{region}")
}

/// Any one prober answers.
pub const CHECK_ANY_PROBER: &str = "picket.check.any";
/// One prober of each region answers.
pub const CHECK_ALL_REGIONS: &str = "picket.check.all";

/// Where a prober puts a request that it could not use, with the reason.
pub fn rejected_request(region: &RegionName) -> String {
    format!("picket.rejected.{region}")
}

/// Who says that it has made a result: its subject, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultSubject {
    /// Of a scheduled or confirming check.
    Site(RegionName, Shard),
    /// Several of these, a line each.
    Bundle(RegionName),
    /// Of an ad-hoc check.
    Adhoc(RegionName),
}

impl ResultSubject {
    /// Reads `picket.result.<region>.<shard>`, and that with `bundle` or `adhoc` in the shard's place.
    ///
    /// # Errors
    /// When it is none of them.
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
