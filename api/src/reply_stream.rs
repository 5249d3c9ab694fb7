//! Replies to an ad-hoc check as server-sent events, each as it comes.
//!
//! Bound: [`MAX_WAITING`] events wait for the client. Loss: none below that; the checks go on if the client leaves.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header};
use picket_proto::{CheckRequest, RegionName};
use picket_runtime::{
    adhoc::{self, RegionReply},
    discovery::ConnectionLost,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{live::stream::respond_events, state::Api};

/// More regions than any installation has.
const MAX_WAITING: usize = 1_000;

/// A step of a stream.
pub(crate) enum ReplyStep {
    /// A region replied, or did not.
    Reply(String, RegionReply),
    /// No more replies come.
    End {
        /// Number of regions that replied or did not.
        regions: usize,
        /// Why no more replies come, if they should.
        error: Option<String>,
    },
}

/// True if the client asks for events.
pub(crate) fn accepts_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// Requests a check and sends each step of its replies as `encode` writes it.
pub(crate) fn stream_replies(
    api: &Api,
    request: CheckRequest,
    regions: Vec<RegionName>,
    limit: Duration,
    mut encode: impl FnMut(ReplyStep) -> Bytes + Send + 'static,
) -> Response {
    let (sender, mut receiver) = mpsc::channel(MAX_WAITING);
    let (client, stopping) = (api.bus.client.clone(), api.live.stopping());
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut count = 0;
        let send = |region, reply| {
            count += 1;
            let _ = sender.try_send(encode(ReplyStep::Reply(region, reply)));
        };
        let done = tokio::select! {
            done = adhoc::request_checks(&client, &request, &regions, limit, send) => done,
            () = stopping.cancelled() => Err(ConnectionLost::new("this process is stopping")),
        };
        let error = done.err().map(|error| error.to_string());
        let _ = sender.try_send(encode(ReplyStep::End { regions: count, error }));
    }));
    respond_events(futures_util::stream::poll_fn(move |context| {
        // The task ends with the stream.
        let _ = &task;
        receiver.poll_recv(context)
    }))
}
