//! One direction of a connection: bytes in, and out again when and as fast as the weather allows.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::NetworkConditions;

/// How much is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// How many chunks may be on the way: what a delayed line holds. When it is full, the sender waits.
const MAX_CHUNKS_IN_FLIGHT: usize = 1024;

/// Passes everything on until the end of the input, which it passes on too.
pub(super) async fn forward_bytes(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    weather: watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    let (on_the_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS_IN_FLIGHT);
    let mut reader_weather = weather.clone();
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            wait_blackhole_end(&mut reader_weather).await;
            let count = from.read(&mut buffer).await?;
            let delay = reader_weather.borrow().delay;
            // An empty chunk is the end, which is delayed like all else.
            let sent = on_the_way.send((Instant::now() + delay, buffer[..count].to_vec())).await;
            if count == 0 || sent.is_err() {
                return Ok(());
            }
        }
    };
    let mut writer_weather = weather;
    let writing = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            if chunk.is_empty() {
                wait_blackhole_end(&mut writer_weather).await;
                return to.shutdown().await;
            }
            write_throttled(&chunk, &mut to, &mut writer_weather).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing)?;
    Ok(())
}

/// Writes in pieces of a twentieth of a second at the allowed rate.
async fn write_throttled(
    chunk: &[u8],
    to: &mut WriteHalf<'_>,
    weather: &mut watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    let mut rest = chunk;
    while !rest.is_empty() {
        wait_blackhole_end(weather).await;
        let rate = weather.borrow().bytes_per_second;
        let piece = rate.map_or(rest.len(), |rate| (rate as usize / 20).clamp(1, rest.len()));
        let began = Instant::now();
        to.write_all(&rest[..piece]).await?;
        if let Some(rate) = rate {
            sleep_until(began + Duration::from_secs(1) * u32::try_from(piece).unwrap_or(u32::MAX) / rate)
                .await;
        }
        rest = &rest[piece..];
    }
    Ok(())
}

/// Waits until there is no black hole.
pub(super) async fn wait_blackhole_end(weather: &mut watch::Receiver<NetworkConditions>) {
    // An error: the proxy is gone, and so is soon whoever asks.
    let _ = weather.wait_for(|weather| !weather.is_blackholed).await;
}
