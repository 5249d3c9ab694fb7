//! A live stream: the server-sent events of one viewer.

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream::Stream;
use http::{HeaderName, HeaderValue, header};
use picket_runtime::clock;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{event::encode_event, hub::ViewerHandle};

/// Data of the event `bus`.
#[derive(Serialize)]
struct BusState {
    /// False while NATS is away, and no other events come.
    connected: bool,
}

fn encode_bus_state(connected: bool) -> Bytes {
    // Its place in the stream lets a client without any incident have one.
    encode_event("bus", Some(clock::wall_clock_now()), &BusState { connected })
}

/// A future that is kept from one event to the next: to wait anew for each would cost more than the event.
type KeptFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Asks whether the viewer may still see the stream.
pub(crate) type AccessCheck = Box<dyn Fn() -> KeptFuture<bool> + Send + Sync>;

/// See the module documentation.
pub(crate) struct LiveStream {
    viewer: ViewerHandle,
    /// What is sent before anything else.
    greeting: Vec<Bytes>,
    connection: KeptFuture<watch::Receiver<bool>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ticks: Interval,
    access_check: AccessCheck,
    checking: Option<KeptFuture<bool>>,
    is_ended: bool,
}

impl LiveStream {
    /// Time after which clients return, in milliseconds.
    const RETRY_MS: u64 = 2_000;
    /// Interval of comments, which keep proxies from closing the connection, and of checks of the
    /// access.
    const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

    /// A stream that begins with `replayed` events.
    pub(crate) fn new(
        viewer: ViewerHandle,
        mut connection: watch::Receiver<bool>,
        stopping: CancellationToken,
        access_check: AccessCheck,
        replayed: Vec<Bytes>,
    ) -> Self {
        let mut ticks = interval(Self::COMMENT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut greeting = vec![
            Bytes::from(format!("retry: {}\n\n", Self::RETRY_MS)),
            encode_bus_state(*connection.borrow_and_update()),
        ];
        greeting.extend(replayed);
        greeting.reverse();
        Self {
            viewer,
            greeting,
            connection: Box::pin(wait_for_change(connection)),
            stopping: Box::pin(stopping.cancelled_owned()),
            ticks,
            access_check,
            checking: None,
            is_ended: false,
        }
    }

    /// Checks the access each time that a comment is due. Ready with the comment, or with the end of the stream.
    fn poll_comment(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let checking = match &mut self.checking {
            Some(checking) => checking,
            None => {
                ready!(self.ticks.poll_tick(context));
                self.checking.insert((self.access_check)())
            }
        };
        let is_allowed = ready!(checking.as_mut().poll(context));
        self.checking = None;
        self.is_ended = !is_allowed;
        Poll::Ready(match is_allowed {
            true => Bytes::from_static(b":\n\n"),
            false => encode_event("closed", None, &"the token or the session has ended"),
        })
    }
}

async fn wait_for_change(mut connection: watch::Receiver<bool>) -> watch::Receiver<bool> {
    match connection.changed().await {
        Ok(()) => connection,
        // The client is gone with the process.
        Err(_) => pending().await,
    }
}

impl Stream for LiveStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(chunk) = self.greeting.pop() {
            return Poll::Ready(Some(chunk));
        }
        if self.is_ended {
            return Poll::Ready(None);
        }
        // Before the events, since a stream with many must end as well.
        if self.stopping.as_mut().poll(context).is_ready() {
            self.is_ended = true;
            // Spread, since all clients return to the processes that remain.
            let retry = Self::RETRY_MS / 2 + fastrand::u64(0..Self::RETRY_MS);
            return Poll::Ready(Some(Bytes::from(format!("retry: {retry}\n\n"))));
        }
        if let Poll::Ready(mut connection) = self.connection.as_mut().poll(context) {
            let connected = *connection.borrow_and_update();
            self.connection = Box::pin(wait_for_change(connection));
            return Poll::Ready(Some(encode_bus_state(connected)));
        }
        if let Poll::Ready(comment) = self.poll_comment(context) {
            return Poll::Ready(Some(comment));
        }
        self.viewer.poll_chunk(context)
    }
}

/// Response of server-sent events.
pub(crate) fn respond_events(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies would hold events back until a buffer is full.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events.map(Ok::<_, Infallible>))).into_response()
}

impl IntoResponse for LiveStream {
    fn into_response(self) -> Response {
        respond_events(self)
    }
}
