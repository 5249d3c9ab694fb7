//! Ad-hoc check requests with a progress line.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use async_nats::Client;
use picket_proto::{CheckRequest, RegionName};
use picket_runtime::adhoc::{self, RegionReply};
use tokio::time::Instant;

use crate::{error::Error, output::ProgressLine};

/// Requests a check from `regions`, or from all regions if empty. Shows progress if the wait is
/// long.
pub(super) async fn request_checks(
    client: &Client,
    request: &CheckRequest,
    regions: &[RegionName],
    limit: Duration,
) -> Result<Vec<(String, RegionReply)>, Error> {
    const SHOW_AFTER: Duration = Duration::from_secs(2);
    let mut replies = BTreeMap::new();
    {
        let keep = |region, reply| drop(replies.insert(region, reply));
        let mut asking = pin!(adhoc::request_checks(client, request, regions, limit, keep));
        let (began, mut progress) = (Instant::now(), ProgressLine::new());
        loop {
            tokio::select! {
                done = &mut asking => break done?,
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    let waited = began.elapsed();
                    if waited > SHOW_AFTER {
                        progress.show_text(format_args!("checking… {} of at most {} s", waited.as_secs(), limit.as_secs()));
                    }
                }
            }
        }
    }
    Ok(replies.into_iter().collect())
}
