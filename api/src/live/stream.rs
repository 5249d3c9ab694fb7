//! A live stream: the server-sent events of one viewer.

use std::{convert::Infallible, future::Future, pin::Pin, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use picket_runtime::clock;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

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

/// Asks whether the viewer may still see the stream.
pub(crate) type AccessCheck = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// See the module documentation.
pub(crate) struct LiveStream {
    viewer: ViewerHandle,
    /// What is sent before anything else.
    greeting: Vec<Bytes>,
    connection: watch::Receiver<bool>,
    stopping: CancellationToken,
    ticks: Interval,
    access_check: AccessCheck,
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
        Self { viewer, greeting, connection, stopping, ticks, access_check, is_ended: false }
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.greeting.pop() {
            return Some(chunk);
        }
        if self.is_ended {
            return None;
        }
        tokio::select! {
            // A stream with many events must end as well.
            biased;
            () = self.stopping.cancelled() => {
                self.is_ended = true;
                // Spread, since all clients return to the processes that remain.
                let retry = Self::RETRY_MS / 2 + fastrand::u64(0..Self::RETRY_MS);
                Some(Bytes::from(format!("retry: {retry}\n\n")))
            }
            Ok(()) = self.connection.changed() => {
                let connected = *self.connection.borrow_and_update();
                Some(encode_bus_state(connected))
            }
            _ = self.ticks.tick() => {
                if !(self.access_check)().await {
                    self.is_ended = true;
                    return Some(encode_event("closed", None, &"the token or the session has ended"));
                }
                Some(Bytes::from_static(b":\n\n"))
            }
            chunk = self.viewer.next_chunk() => chunk,
        }
    }
}

/// Response of server-sent events.
pub(crate) fn respond_events(events: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response {
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
        respond_events(stream::unfold(self, async |mut stream| {
            let chunk = stream.next_chunk().await?;
            Some((chunk, stream))
        }))
    }
}
