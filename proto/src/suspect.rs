//! What a sink says of a site that began to fail.

use serde::{Deserialize, Serialize};

use crate::{Shard, SiteId};

/// Asks the shard's coordinator to have a failure confirmed at once, or says that it is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Version of the message.
    pub v: u32,
    /// Which site.
    pub site_id: SiteId,
    /// Its shard.
    pub shard: Shard,
    /// How many rounds of checks in all its regions would decide it; 0: none are needed any more.
    pub rounds: u32,
}
