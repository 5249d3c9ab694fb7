//! NATS subjects, streams and consumers: every name, in one place.

use crate::{Invalid, Region, Shard, SiteId};

/// The stream of jobs that wait for a prober.
pub const JOBS: &str = "PICKET_JOBS";
/// The stream of results that wait for the sink.
pub const RESULTS: &str = "PICKET_RESULTS";
/// The stream of what happened: incidents, silent regions.
pub const EVENTS: &str = "PICKET_EVENTS";

/// What [`JOBS`] captures.
pub const JOB_SUBJECTS: &str = "picket.job.*.>";
/// What [`RESULTS`] captures.
pub const RESULT_SUBJECTS: &str = "picket.result.>";
/// What [`EVENTS`] captures.
pub const EVENT_SUBJECTS: &str = "picket.event.>";

/// The durable consumer of [`RESULTS`] that all sinks share.
pub const SINK: &str = "sink";
/// The consumer with which one sink at a time replays results that the database lost.
pub const SINK_REPLAY: &str = "sink-replay";
/// The name of the probers' NATS service.
pub const SERVICE: &str = "picket-prober";
/// The queue group of all probers, for requests that any one of them answers.
pub const ANY_GROUP: &str = "probers";

/// What every inbox begins with: of clients in general, and, with the name of a role behind it, of ours.
pub const INBOX: &str = "_INBOX";

/// The durable consumer of [`JOBS`] that all probers of a region share.
pub fn prober_consumer(region: &Region) -> String {
    format!("prober-{region}")
}

/// The region whose probers share the consumer of this name, if it is one of theirs.
pub fn region_of_consumer(name: &str) -> Option<&str> {
    name.strip_prefix("prober-")
}

/// The queue group of a region's probers.
pub fn own_group(region: &Region) -> String {
    format!("probers-{region}")
}

/// Where a region's probers ask for jobs.
pub fn next_job(region: &Region) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{}", prober_consumer(region))
}

/// What a region's consumer takes from [`JOBS`].
pub fn jobs_of(region: &Region) -> String {
    format!("picket.job.{region}.>")
}

/// Where a scheduled job goes. One subject a site and region, so that the stream keeps the newest only.
pub fn job(region: &Region, site: SiteId) -> String {
    format!("picket.job.{region}.{site}")
}

/// Where a confirming job goes: beside the scheduled one, and of these too the stream keeps the newest only.
pub fn confirming_job(region: &Region, site: SiteId) -> String {
    format!("picket.job.{region}.{site}.confirm")
}

/// Where the sink says that a site of this shard began to fail.
pub fn suspect(shard: Shard) -> String {
    format!("picket.suspect.{shard}")
}

/// Where all coordinators hear of sites that began to fail.
pub const SUSPECTS: &str = "picket.suspect.*";

/// Where a result of a scheduled or confirming check goes.
pub fn result(region: &Region, shard: Shard) -> String {
    format!("picket.result.{region}.{shard}")
}

/// Where the result of an ad-hoc check goes.
pub fn adhoc_result(region: &Region) -> String {
    format!("picket.result.{region}.adhoc")
}

/// Where several results of scheduled or confirming checks go together, a line each: see [`bundle`](crate::bundle).
pub fn results(region: &Region) -> String {
    format!("picket.result.{region}.bundle")
}

/// Where a region's probers answer requests to check something now.
pub fn check(region: &Region) -> String {
    format!("picket.check.{region}")
}

/// Any one prober answers.
pub const CHECK_ANY: &str = "picket.check.any";
/// One prober of each region answers.
pub const CHECK_ALL: &str = "picket.check.all";

/// Where a prober puts a request that it could not use, with the reason.
pub fn rejected(region: &Region) -> String {
    format!("picket.rejected.{region}")
}

/// Who says that it has made a result: its subject, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultOf {
    /// Of a scheduled or confirming check.
    Site(Region, Shard),
    /// Several of these, a line each.
    Bundle(Region),
    /// Of an ad-hoc check.
    Adhoc(Region),
}

impl ResultOf {
    /// Reads `picket.result.<region>.<shard>`, and that with `bundle` or `adhoc` in the shard's place.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(subject: &str) -> Result<Self, Invalid> {
        let refusal = || {
            Invalid::new(
                "subject",
                subject,
                "picket.result.<region>.<shard>, or .bundle or .adhoc for the shard",
            )
        };
        let rest = subject.strip_prefix("picket.result.").ok_or_else(refusal)?;
        let (region, last) = rest.split_once('.').ok_or_else(refusal)?;
        let region: Region = region.parse().map_err(|_| refusal())?;
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
        let region: Region = "eu-west".parse().unwrap();

        assert_eq!(
            ResultOf::parse(&result(&region, Shard(7))).unwrap(),
            ResultOf::Site(region.clone(), Shard(7))
        );
        assert_eq!(ResultOf::parse(&results(&region)).unwrap(), ResultOf::Bundle(region.clone()));
        assert_eq!(ResultOf::parse(&adhoc_result(&region)).unwrap(), ResultOf::Adhoc(region));
        for bad in ["picket.result.", "picket.result.EU.1", "picket.result.eu.x", "picket.result.eu.1.2", "x"]
        {
            assert_eq!(ResultOf::parse(bad).unwrap_err().field, "subject");
        }
    }
}
