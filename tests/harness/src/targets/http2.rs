//! Paths of a target that speaks HTTP/2.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderValue, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::TargetStats;

pub(super) async fn serve_requests<S>(stream: S, stats: &TargetStats) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = h2::server::handshake(stream).await?;
    let mut responses = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        stats.record_request(format!(
            "{} {} HTTP/2 {:?}",
            request.method(),
            request.uri(),
            request.headers()
        ));
        let path = request.uri().path().to_owned();
        if path == "/go-away" {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            continue;
        }
        responses.spawn(async move { respond_to_path(&path, respond).await });
    }
    Ok(())
}

async fn respond_to_path(path: &str, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (name, number) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    let number = number.parse::<u64>().unwrap_or(0);
    let pause = tokio::time::sleep(Duration::from_millis(number));
    let well = |respond: &mut SendResponse<Bytes>| respond.send_response(Response::new(()), false);
    match name {
        "slow" => {
            pause.await;
            well(&mut respond)?.send_data(Bytes::from_static(b"slow and well"), true)
        }
        "slow-body" => {
            let mut body = well(&mut respond)?;
            pause.await;
            body.send_data(Bytes::from_static(b"well"), true)
        }
        "large" => send_large_body(well(&mut respond)?, number).await,
        "headers" => {
            let mut response = Response::new(());
            for i in 0..number {
                let header = http::HeaderName::try_from(format!("x-{i}")).expect("a name");
                response
                    .headers_mut()
                    .insert(header, HeaderValue::from_static("a value that takes some room"));
            }
            respond.send_response(response, false)?.send_data(Bytes::from_static(b"well"), true)
        }
        "trailers" => {
            let mut body = well(&mut respond)?;
            body.send_data(Bytes::from_static(b"all is well"), false)?;
            let trailers = [(http::header::ETAG, HeaderValue::from_static("late"))];
            body.send_trailers(trailers.into_iter().collect())
        }
        "refuse" => {
            respond.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
        "break" => {
            let mut body = well(&mut respond)?;
            body.send_data(Bytes::from_static(b"all is"), false)?;
            // A reset discards unsent data, so the data must be sent before.
            tokio::time::sleep(Duration::from_millis(100)).await;
            body.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        "never" => {
            std::future::pending::<()>().await;
            Ok(())
        }
        _ => well(&mut respond)?.send_data(Bytes::from_static(b"all is well"), true),
    }
}

async fn send_large_body(mut body: SendStream<Bytes>, length: u64) -> Result<(), h2::Error> {
    const MAX_CHUNK_BYTES: usize = 16 << 10;
    let mut remaining = usize::try_from(length).unwrap_or(usize::MAX);
    while remaining > 0 {
        body.reserve_capacity(remaining.min(MAX_CHUNK_BYTES));
        let Some(room) = poll_fn(|context| body.poll_capacity(context)).await else { return Ok(()) };
        let room = room?.min(remaining);
        remaining -= room;
        body.send_data(Bytes::from(vec![b'x'; room]), false)?;
    }
    body.send_data(Bytes::new(), true)
}
