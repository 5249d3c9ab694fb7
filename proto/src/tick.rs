//! The tick that a scheduled or confirming check belongs to.

use crate::{CheckKind, RegionName, Shard, SiteId, Timestamp};

/// The tick that a scheduled or confirming check belongs to, in any region of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledTick {
    /// Site to check.
    pub site: SiteId,
    /// Shard of the site.
    pub shard: Shard,
    /// Scheduled or confirming.
    pub kind: CheckKind,
    /// Time at which the check is due.
    pub scheduled_at: Timestamp,
    /// Time after which the check is not worth doing.
    pub expires_at: Timestamp,
}

impl ScheduledTick {
    /// Identity of the job of this tick in `region`, also used as its `Nats-Msg-Id`. Every
    /// coordinator computes the same id for the same tick.
    pub fn job_id(&self, region: &RegionName) -> String {
        let Self { site, kind, scheduled_at, .. } = self;
        let ending = if *kind == CheckKind::Confirm { ".confirm" } else { "" };
        format!("{site}.{region}.{}{ending}", scheduled_at.as_millis())
    }
}
