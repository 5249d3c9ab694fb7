//! What a stream asks of the access of its viewer.

use std::time::Duration;

use http::{HeaderMap, Uri, Version};
use tokio::time::timeout;

use super::stream::AccessCheck;
use crate::{
    access::{
        Access, Client, activity::Activity, authenticator::Credential, limits::LimitKey,
        local_request::is_local_request,
    },
    state::Api,
};

/// Whom the limit of streams counts. Without tokens all requests on loopback are of one person, so only
/// the limit of the process counts.
pub(crate) fn find_holder(access: &Access) -> Option<LimitKey> {
    (!access.is_open).then(|| LimitKey::from(access))
}

/// Checks whether the request that began the stream would still have the same access.
pub(crate) fn build_access_check(
    api: &Api,
    access: Access,
    client: &Client,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> AccessCheck {
    /// Shorter than a client notices; other events wait meanwhile.
    const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
    let credential =
        Credential::find(headers, client.is_secure(is_local_request(client, version, uri, headers)));
    let api = api.clone();
    Box::new(move || {
        let (api, access, credential) = (api.clone(), access.clone(), credential.clone());
        Box::pin(async move {
            let checking = async {
                match &credential {
                    // An open stream is no sign of its viewer.
                    Some(credential) if !access.is_open => {
                        let found = api.authenticator.authenticate(credential, Activity::Background).await?;
                        Ok(found.is_some_and(|found| found == access))
                    }
                    _ => api.authenticator.is_open().await,
                }
            };
            let checked: Result<Result<bool, picket_store::Error>, _> =
                timeout(CHECK_TIMEOUT, checking).await;
            // A revocation needs the database as well; without it live goes on.
            checked.ok().and_then(Result::ok).unwrap_or(true)
        })
    })
}
