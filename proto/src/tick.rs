//! A due check of a site in a region.

use crate::{Epoch, Kind, RegionName, Shard, SiteId, Timestamp};

/// The part of a job that depends on the tick.
#[derive(Clone, Debug)]
pub struct JobTick<'a> {
    /// Site to check.
    pub site: SiteId,
    /// Region that checks the site.
    pub region: &'a RegionName,
    /// Scheduled or confirming.
    pub kind: Kind,
    /// Time at which the check is due.
    pub scheduled_at: Timestamp,
    /// Time after which the check is not worth doing.
    pub expires_at: Timestamp,
    /// Shard of the site.
    pub shard: Shard,
    /// Epoch of the lease under which the job is published.
    pub epoch: Epoch,
}

impl JobTick<'_> {
    /// Identity of the job, also used as its `Nats-Msg-Id`. Every coordinator computes the same id
    /// for the same tick.
    pub fn id(&self) -> String {
        let Self { site, region, kind, scheduled_at, .. } = self;
        let ending = if *kind == Kind::Confirm { ".confirm" } else { "" };
        format!("{site}.{region}.{}{ending}", scheduled_at.as_millis())
    }
}
