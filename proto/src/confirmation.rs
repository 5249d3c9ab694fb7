//! The sink's message about a site that began to fail.

use serde::{Deserialize, Serialize};

use crate::{Shard, SiteId};

/// Requests confirmation of a failure from the shard's coordinator, or withdraws the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationRequest {
    /// Version of the message.
    pub v: u32,
    /// Site to confirm.
    pub site_id: SiteId,
    /// Shard of the site.
    pub shard: Shard,
    /// Rounds of checks in all regions of the site that would decide the failure; 0 withdraws the
    /// request.
    pub rounds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_request_reads_back() {
        let json = r#"{"v":1,"site_id":42,"shard":7,"rounds":2}"#;
        let suspect: ConfirmationRequest = serde_json::from_str(json).unwrap();

        assert_eq!((suspect.site_id, suspect.shard, suspect.rounds), (SiteId(42), Shard(7), 2));
        assert_eq!(serde_json::to_string(&suspect).unwrap(), json);
    }
}
