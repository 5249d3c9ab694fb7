//! The first check of a new site: requested at once from each of its regions, so that there is a verdict in seconds
//! whatever the interval. It takes the place of no tick and is in no ledger.
//!
//! Bound: the permits of the state, one for each site whose check runs, and the limit of ad-hoc checks of the sender.
//! Loss: a site beyond that, and each one while NATS is away, is counted and waits for its first tick.

use std::{sync::Arc, time::Duration};

use picket_proto::{CheckRequest, RegionName, SiteId, site::SiteSpec};
use picket_runtime::adhoc::{self, reply_limit};
use picket_store::regions::list_active_regions;
use tracing::debug;

use crate::{access::Access, metrics::FirstCheckOutcome, state::Api};

/// Id of a site's first check, under which its results are stored. No id that the API gives to other checks has this
/// form.
pub(crate) fn build_first_check_id(site: SiteId) -> String {
    format!("first-check-of-site-{site}")
}

/// Requests the first checks of added sites, in the background.
pub(crate) fn request_first_checks<'a>(
    api: &Api,
    access: &Access,
    added: impl IntoIterator<Item = (SiteId, &'a SiteSpec)>,
) {
    for (site, spec) in added.into_iter().filter(|(_, spec)| spec.enabled) {
        if api.require_bus().is_err() {
            api.metrics.count_first_check(FirstCheckOutcome::BusAway);
            continue;
        }
        let permit = Arc::clone(&api.first_checks).try_acquire_owned().ok();
        let Some(permit) = permit.filter(|_| api.limits.adhoc.check(access).is_ok()) else {
            api.metrics.count_first_check(FirstCheckOutcome::TooMany);
            continue;
        };
        api.metrics.count_first_check(FirstCheckOutcome::Requested);
        let request = CheckRequest { id: Some(build_first_check_id(site)), ..spec.check.clone() };
        let regions: Vec<RegionName> = spec.regions.iter().filter_map(|name| name.parse().ok()).collect();
        let api = api.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = request_first_check(&api, &request, regions) => {}
                () = api.stopping.cancelled() => {}
            }
            // Released by a panic as well.
            drop(permit);
        });
    }
}

/// Requests one check. The sink stores the results, so the replies are not needed.
async fn request_first_check(api: &Api, request: &CheckRequest, mut regions: Vec<RegionName>) {
    if regions.is_empty() {
        // Without the list the probers that answer are the regions.
        regions = list_active_regions(&api.store).await.unwrap_or_default();
    }
    let limit = reply_limit(Duration::from_millis(request.timeout_ms.unsigned_abs()));
    let log = |region: String, reply: adhoc::RegionReply| {
        if let Some(reason) = reply.error_message(&region) {
            debug!(id = request.id.as_deref().unwrap_or_default(), reason, "a first check has no result");
        }
    };
    if let Err(error) = adhoc::request_checks(&api.bus.client, request, &regions, limit, log).await {
        debug!(%error, "could not request a first check");
    }
}
