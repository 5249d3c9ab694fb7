//! What a sink says of a site that began to fail.

use serde::{Deserialize, Serialize};

use crate::{Shard, SiteId};

/// Asks the shard's coordinator to have a failure confirmed at once, or says that it is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationRequest {
    /// Version of the message.
    pub v: u32,
    /// Which site.
    pub site_id: SiteId,
    /// Its shard.
    pub shard: Shard,
    /// How many rounds of checks in all its regions would decide it; 0: none are needed any more.
    pub rounds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_written_as_the_other_process_reads_it() {
        let json = r#"{"v":1,"site_id":42,"shard":7,"rounds":2}"#;
        let suspect: ConfirmationRequest = serde_json::from_str(json).unwrap();

        assert_eq!((suspect.site_id, suspect.shard, suspect.rounds), (SiteId(42), Shard(7), 2));
        assert_eq!(serde_json::to_string(&suspect).unwrap(), json);
    }
}
