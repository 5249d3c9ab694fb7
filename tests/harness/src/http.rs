//! HTTP GET of the instruments: one request on its own connection, without redirects.

use std::{error::Error, net::SocketAddr, thread, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use picket_runtime::ErrorChain;
use tokio::{runtime, time::timeout};

/// Response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Requests `path` from the server at `address`.
///
/// # Errors
/// Fails without a complete response within `limit`.
pub async fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response, String> {
    let response = timeout(limit, request(address, path)).await;
    let response = response.map_err(|_| format!("{address}{path}: no response within {limit:?}"))?;
    response.map_err(|error| format!("{address}{path}: {}", ErrorChain(&*error)))
}

/// Requests as [`get`] does, and blocks the calling thread. For callers that are not asynchronous.
///
/// # Errors
/// Fails without a complete response within `limit`.
pub fn get_blocking(address: SocketAddr, path: &str, limit: Duration) -> Result<Response, String> {
    let request = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(get(address, path, limit))
    };
    // Uses a separate thread, because a thread of a runtime cannot block on another runtime.
    thread::scope(|scope| scope.spawn(request).join()).expect("a request does not panic")
}

async fn request(address: SocketAddr, path: &str) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(format!("http://{address}{path}").parse()?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Response { status, body: String::from_utf8_lossy(&body).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Target;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_response_has_its_status_and_its_body() {
        let target = Target::serve_http().await;

        let ok = get(target.address(), "/ok", LIMIT).await;
        let failed = get(target.address(), "/status/503", LIMIT).await;

        assert_eq!(ok, Ok(Response { status: 200, body: "all is well".to_owned() }));
        assert_eq!(failed.map(|response| response.status), Ok(503));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_ends_with_its_timeout_and_may_block_a_runtime_thread() {
        let target = Target::serve_http().await;

        let silent = get_blocking(target.address(), "/never", Duration::from_millis(100));

        assert!(silent.is_err_and(|why| why.contains("no response within 100ms")));
        assert!(get_blocking(Target::closed_address().await, "/ok", LIMIT).is_err());
    }
}
