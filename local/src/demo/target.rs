//! The demo target: a small HTTP server whose paths are up, slow, failing, silent and more.

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, LOCATION},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// A running target. Dropping it stops the server.
pub(crate) struct DemoTarget(Vec<AbortHandle>);

/// Maximum concurrent connections, so that a flood overloads only the target.
const MAX_CONNECTIONS: usize = 1_000;
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const BIG_BODY_BYTES: usize = 4 << 20;

type ResponseBody = BoxBody<Bytes, io::Error>;

struct TargetState {
    started_at: Instant,
    request_count: AtomicU64,
    connection_permits: Semaphore,
}

impl DemoTarget {
    /// Listens on `port` of 127.0.0.1, and with TLS on the next port. An error names the port.
    pub(super) async fn start(port: u16, tls: Arc<rustls::ServerConfig>) -> Result<Self, (u16, io::Error)> {
        let listen =
            async |port: u16| TcpListener::bind(("127.0.0.1", port)).await.map_err(|why| (port, why));
        let state = Arc::new(TargetState {
            started_at: Instant::now(),
            request_count: AtomicU64::new(0),
            connection_permits: Semaphore::new(MAX_CONNECTIONS),
        });
        let plain = listen(port).await?;
        let secure = listen(port.saturating_add(1)).await?;
        Ok(Self(vec![
            tokio::spawn(accept_connections(plain, None, Arc::clone(&state))).abort_handle(),
            tokio::spawn(accept_connections(secure, Some(TlsAcceptor::from(tls)), state)).abort_handle(),
        ]))
    }
}

impl Drop for DemoTarget {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn accept_connections(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<TargetState>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Usually out of file descriptors. Other connections close and free some.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(_permit) = state.connection_permits.try_acquire() else {
                return;
            };
            let served = async {
                match tls {
                    None => serve_connection(stream, &state).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve_connection(stream, &state).await;
                        }
                    }
                }
            };
            let _ = timeout(CONNECTION_TIMEOUT, served).await;
        });
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, state: &TargetState) {
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(respond_to_path(request.uri().path(), state).await)
    });
    // Clients that disconnect are expected.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond_to_path(path: &str, state: &TargetState) -> Response<ResponseBody> {
    const FLAP_PERIOD_SECONDS: u64 = 20;
    let request_number = state.request_count.fetch_add(1, Ordering::Relaxed);
    match path {
        "/" => text_response(
            StatusCode::OK,
            "The demo's target. Try /fine, /slow, /failing, /flapping, /silent, /cut, /big…\n",
        ),
        "/fine" => text_response(StatusCode::OK, "<h1>Welcome</h1>\n"),
        "/slow" => {
            sleep(Duration::from_millis(300 + request_number * 397 % 1_200)).await;
            text_response(StatusCode::OK, "<h1>Welcome</h1> at last\n")
        }
        "/health" => text_response(StatusCode::OK, "{\"status\": \"ok\"}\n"),
        "/failing" => text_response(StatusCode::INTERNAL_SERVER_ERROR, "it is broken\n"),
        "/flapping" if (state.started_at.elapsed().as_secs() / FLAP_PERIOD_SECONDS).is_multiple_of(2) => {
            text_response(StatusCode::OK, "up, for now\n")
        }
        "/flapping" => text_response(StatusCode::SERVICE_UNAVAILABLE, "down, for now\n"),
        "/maintenance" => text_response(StatusCode::OK, "<h1>Back soon</h1>\n"),
        "/stacktrace" => text_response(StatusCode::OK, "thread 'main' panicked at src/main.rs:1:1\n"),
        "/loop" => redirect_response("/loop".to_owned()),
        "/silent" => pending().await,
        "/cut" => truncated_response(),
        "/big" => text_response(StatusCode::OK, vec![b'.'; BIG_BODY_BYTES]),
        _ => match path.strip_prefix("/hop/").and_then(|hops| hops.parse::<u8>().ok()) {
            Some(0 | 1) => redirect_response("/fine".to_owned()),
            Some(hops) => redirect_response(format!("/hop/{}", hops - 1)),
            None => text_response(StatusCode::NOT_FOUND, "not found\n"),
        },
    }
}

fn text_response(status: StatusCode, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn redirect_response(to: String) -> Response<ResponseBody> {
    let mut response = text_response(StatusCode::FOUND, "");
    if let Ok(to) = to.try_into() {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// Part of a body, followed by the end of the connection.
fn truncated_response() -> Response<ResponseBody> {
    let parts = [Ok(Frame::data(Bytes::from_static(b"<h1>Wel"))), Err(io::Error::other("cut off"))];
    let parts = stream::iter(parts).then(async |part| {
        if part.is_err() {
            // The first part must reach the client before the connection closes.
            sleep(Duration::from_millis(50)).await;
        }
        part
    });
    Response::new(BodyExt::boxed(StreamBody::new(parts)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn state() -> TargetState {
        TargetState {
            started_at: Instant::now(),
            request_count: AtomicU64::new(0),
            connection_permits: Semaphore::new(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_flapping_site_is_up_and_down_in_turn() {
        let state = state();

        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(respond_to_path("/flapping", &state).await.status().as_u16());
            sleep(Duration::from_secs(20)).await;
        }

        assert_eq!(seen, [200, 503, 200, 503]);
    }

    #[tokio::test]
    async fn the_truncated_site_ends_within_the_body() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut seen = String::new();

        client.write_all(b"GET /cut HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        serve_connection(server, &state()).await;
        client.read_to_string(&mut seen).await.unwrap();

        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains("<h1>Wel"), "{seen}");
        assert!(!seen.ends_with("0\r\n\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_chain_of_redirects_ends_and_a_loop_does_not() {
        let state = state();
        let next = async |path: &str| {
            let response = respond_to_path(path, &state).await;
            response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned())
        };

        assert_eq!(next("/hop/3").await.as_deref(), Some("/hop/2"));
        assert_eq!(next("/hop/1").await.as_deref(), Some("/fine"));
        assert_eq!(next("/fine").await, None);
        assert_eq!(next("/loop").await.as_deref(), Some("/loop"));
    }
}
